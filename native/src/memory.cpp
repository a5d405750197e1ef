#include "memory.h"

#include <sys/mman.h>

#include <new>

namespace freehold {
namespace {

constexpr size_t kHuge = size_t{2} << 20;
constexpr size_t kArenaBlock = size_t{64} << 20;

constexpr size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

}  // namespace

Memory::Memory(size_t bytes) : size_(bytes) {
    // Room to align: huge pages need addresses at multiples of their size.
    const size_t slack = bytes >= kHuge ? kHuge : 0;
    const size_t mapped = round_up(bytes, 4096) + slack;
    void* p = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) throw std::bad_alloc();
    auto address = reinterpret_cast<uintptr_t>(p);
    if (slack) {
        const uintptr_t aligned = round_up(address, kHuge);
        if (aligned > address) munmap(p, aligned - address);
        const uintptr_t end = aligned + round_up(bytes, 4096);
        if (address + mapped > end) munmap(reinterpret_cast<void*>(end), address + mapped - end);
        address = aligned;
    }
    data_ = reinterpret_cast<uint8_t*>(address);
#ifdef MADV_HUGEPAGE
    // Advice only: where it is not taken, the memory is the same.
    if (slack) madvise(data_, round_up(bytes, 4096), MADV_HUGEPAGE);
#endif
}

Memory::~Memory() { munmap(data_, round_up(size_, 4096)); }

Arena::Piece Arena::take(size_t bytes) {
    const size_t wanted = round_up(bytes, 64);
    if (!block_ || used_ + wanted > block_->size()) {
        block_ = std::make_shared<Memory>(wanted > kArenaBlock ? wanted : kArenaBlock);
        used_ = 0;
    }
    uint8_t* data = block_->data() + used_;
    used_ += wanted;
    return {block_, data};
}

}  // namespace freehold

#include "pool.h"

#include <chrono>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace freehold {
namespace {

constexpr auto kSpin = std::chrono::microseconds(200);

inline void pause() {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

constexpr uint64_t share_of(uint64_t begin, uint64_t end) { return begin | end << 32; }

}  // namespace

Pool::Pool(int threads) : shares_(static_cast<size_t>(threads)) {
    for (int i = 1; i < threads; i++) workers_.emplace_back([this, i] { serve(i); });
}

Pool::~Pool() {
    stop_ = true;
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        epoch_.fetch_add(1);
    }
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
}

void Pool::start(int64_t n, int64_t grain) {
    const auto count = static_cast<uint64_t>(threads());
    grain_ = grain;
    for (uint64_t i = 0; i < count; i++) {
        const auto total = static_cast<uint64_t>(n);
        shares_[i].left.store(share_of(total * i / count, total * (i + 1) / count),
                              std::memory_order_relaxed);
    }
    busy_.store(threads() - 1, std::memory_order_relaxed);
    epoch_.fetch_add(1);  // sequentially consistent with the sleeper's own order of operations
    if (asleep_.load()) {
        const std::lock_guard<std::mutex> lock(mutex_);
        wake_.notify_all();
    }
    work(0);
    for (int spins = 0; busy_.load(std::memory_order_acquire); spins++) {
        if (spins < 4096) {
            pause();
        } else {
            std::this_thread::yield();
        }
    }
}

void Pool::work(int thread) {
    const int count = threads();
    int64_t begin, end;
    for (int i = 0; i < count; i++) {
        Share& share = shares_[static_cast<size_t>((thread + i) % count)];
        while (take(share, i > 0, begin, end)) job_(body_, begin, end, thread);
    }
}

bool Pool::take(Share& share, bool from_end, int64_t& begin, int64_t& end) {
    uint64_t left = share.left.load(std::memory_order_relaxed);
    for (;;) {
        const uint64_t low = left & 0xffffffff, high = left >> 32;
        if (low >= high) return false;
        const uint64_t wish = static_cast<uint64_t>(grain_);
        const uint64_t n = high - low < wish ? high - low : wish;
        const uint64_t rest = from_end ? share_of(low, high - n) : share_of(low + n, high);
        if (share.left.compare_exchange_weak(left, rest, std::memory_order_relaxed)) {
            begin = static_cast<int64_t>(from_end ? high - n : low);
            end = begin + static_cast<int64_t>(n);
            return true;
        }
    }
}

void Pool::serve(int thread) {
    uint64_t seen = 0;
    for (;;) {
        seen = await(seen);
        if (stop_) return;
        work(thread);
        busy_.fetch_sub(1, std::memory_order_release);
    }
}

uint64_t Pool::await(uint64_t seen) {
    const auto until = std::chrono::steady_clock::now() + kSpin;
    do {
        for (int i = 0; i < 64; i++) {
            const uint64_t now = epoch_.load(std::memory_order_acquire);
            if (now != seen) return now;
            pause();
        }
    } while (std::chrono::steady_clock::now() < until);
    std::unique_lock<std::mutex> lock(mutex_);
    asleep_.fetch_add(1);
    wake_.wait(lock, [&] { return epoch_.load() != seen; });
    asleep_.fetch_sub(1);
    return epoch_.load();
}

}  // namespace freehold

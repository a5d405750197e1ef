// Zeroed memory in pages as large as the machine gives, so that streaming over weights does not
// stumble over page tables.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace freehold {

class Memory {
public:
    explicit Memory(size_t bytes);
    ~Memory();
    Memory(const Memory&) = delete;
    Memory& operator=(const Memory&) = delete;

    uint8_t* data() { return data_; }
    const uint8_t* data() const { return data_; }
    size_t size() const { return size_; }

private:
    uint8_t* data_;
    size_t size_;
};

// Hands out pieces of large Memory blocks, one after the other: weights that are packed in the
// order in which a pass reads them then lie in that order.
class Arena {
public:
    struct Piece {
        std::shared_ptr<Memory> owner;
        uint8_t* data;
    };
    Piece take(size_t bytes);

private:
    std::shared_ptr<Memory> block_;
    size_t used_ = 0;
};

// Floats (or bytes) that grow as needed and are never shrunk; contents are lost on growth.
template <class T>
class Scratch {
public:
    bool empty() const { return !memory_; }
    T* data() const { return reinterpret_cast<T*>(memory_->data()); }
    T* at_least(size_t n) {
        if (n > size_ || !memory_) {
            n = n ? n : 1;
            memory_ = std::make_unique<Memory>(n * sizeof(T));
            size_ = n;
        }
        return reinterpret_cast<T*>(memory_->data());
    }

private:
    std::unique_ptr<Memory> memory_;
    size_t size_ = 0;
};

}  // namespace freehold

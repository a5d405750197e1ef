// A few threads that stay: the caller is thread 0, the others spin for a while after each job, since
// the next one is usually microseconds away, and then sleep.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

namespace freehold {

class Pool {
public:
    explicit Pool(int threads);
    ~Pool();
    Pool(const Pool&) = delete;
    Pool& operator=(const Pool&) = delete;

    int threads() const { return static_cast<int>(shares_.size()); }

    // f(begin, end, thread) over all of 0 .. n-1, at most `grain` at a time. Each thread walks its
    // own contiguous share and, once done, takes from the end of another's. What f computes must
    // not depend on who runs it.
    template <class F>
    void run(int64_t n, int64_t grain, F&& f) {
        if (n <= 0) return;
        if (threads() == 1 || n <= grain) return f(int64_t{0}, n, 0);
        using Body = std::remove_reference_t<F>;
        job_ = [](void* body, int64_t begin, int64_t end, int thread) {
            (*static_cast<Body*>(body))(begin, end, thread);
        };
        body_ = const_cast<void*>(static_cast<const void*>(&f));
        start(n, grain);
    }

private:
    // What is left of a thread's share: begin in the low half, end in the high half.
    struct alignas(128) Share {
        std::atomic<uint64_t> left{0};
    };

    void start(int64_t n, int64_t grain);
    void work(int thread);
    bool take(Share& share, bool from_end, int64_t& begin, int64_t& end);
    void serve(int thread);
    uint64_t await(uint64_t seen);

    std::vector<Share> shares_;
    std::vector<std::thread> workers_;
    void (*job_)(void*, int64_t, int64_t, int) = nullptr;
    void* body_ = nullptr;
    int64_t grain_ = 1;
    alignas(128) std::atomic<uint64_t> epoch_{0};
    alignas(128) std::atomic<int> busy_{0};
    std::atomic<int> asleep_{0};
    std::atomic<bool> stop_{false};
    std::mutex mutex_;
    std::condition_variable wake_;
};

}  // namespace freehold

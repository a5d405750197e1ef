// The operations: what numbers go through which kernels, on which threads.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "kernels.h"
#include "memory.h"
#include "model.h"
#include "pool.h"

namespace freehold {

// A contiguous matrix of floats, rows x cols.
template <class T>
struct Matrix {
    T* data;
    int64_t rows, cols;
    T* row(int64_t i) const { return data + i * cols; }
};
using In = Matrix<const float>;
using Out = Matrix<float>;

// Quantised activations of some tokens, cut into tiles.
class Panels {
public:
    struct Tile {
        int64_t first;  // token
        int rows, size, size_index;
        Panel panel;
    };
    void shape(int64_t tokens, int64_t groups, int32_t shift);
    const std::vector<Tile>& tiles() const { return tiles_; }
    int64_t tokens() const { return tokens_; }
    int64_t groups() const { return groups_; }

private:
    std::vector<Tile> tiles_;
    Scratch<uint8_t> memory_;
    int64_t tokens_ = -1, groups_ = -1;
};

class Engine {
public:
    Engine(int threads, const Kernels& kernels);

    int threads() const { return pool_.threads(); }
    const char* isa() const { return kernels_.name; }

    struct Part {
        Format format;
        int64_t rows, cols;
        const uint8_t* data;
    };
    std::shared_ptr<Linear> pack(const std::vector<Part>& parts, const float* bias);

    // Bytes per second at which all threads together read memory that no cache holds.
    double read_rate();

    void embed(const Linear& table, const int64_t* ids, Out out);
    // `low`: what some rows, in order and apart from each other, get beside the weights.
    using Low = std::vector<LowRows>;
    void norm_linear(In x, const float* norm, float eps, const Linear& weights, const Low& low, Out out);
    void linear_add(In x, In a, const Linear& weights, const Low& low, Out out);
    void mlp_add(In x, const float* norm, float eps, const Linear& gate_up, const Linear& down,
                 const Low& low_gate_up, const Low& low_down, Out out);

    struct Heads {
        int queries;  // query heads; keys and values: the cache's
        const float* q_norm;
        const float* k_norm;  // both null, or dim floats each
        float eps;
        int64_t window;  // positions seen, itself included; 0: all
    };
    void attend(In qkv, const Batch& batch, int layer, const Heads& heads, KvCache& cache, Out out);

private:
    struct PerThread {
        Scratch<float> row, norm, attend;
        Scratch<uint8_t> tiles;
        Panels low;
    };

    // Quantises one row once more, for a low-rank pair alone.
    using Fill = std::function<void(Panels&, const Panels::Tile&, int token, int64_t row, PerThread&)>;
    // Up to 8 rows of a low-rank pair. What A makes of them lies `at`, rows `stride` apart.
    struct LowPart {
        const LowRank* pair;
        int64_t first, rows, at, stride;
    };
    // Blocks `begin` to `end` - 1 of one side, for the rows of one part.
    struct LowChunk {
        size_t part;
        const LowRank::Side* side;
        int64_t begin, end;
    };

    void fill(Panels& panels, In x, const float* norm, float eps);
    void fill_token(Panels& panels, const Panels::Tile& tile, int token, const float* x, int64_t n,
                    const float* norm, float eps, PerThread& mine);
    // `fill`: with what `low_parts_` say of A.
    void multiply(const Panels& panels, const Linear& weights, const float* residual, Out out,
                  const Fill* fill = nullptr);
    void multiply_gated(const Panels& panels, const Linear& gate_up, const Panels& hidden);
    void finish(const Segment& s, int64_t block, const Panels::Tile& tile, const float* sums,
                const Linear& weights, const float* residual, Out out);
    void turn(In qkv, const Batch& batch, int layer, const Heads& heads, KvCache& cache);
    void mlp_rows(In x, const float* norm, float eps, const Linear& gate_up, const Linear& down,
                  const Low& low_gate_up, const Low& low_down, Out out);
    // The weights, and out += B (A input) for the rows that `low` names.
    void multiply_low(const Panels& panels, const Linear& weights, const float* residual, const Low& low,
                      Out out, const Fill& fill);
    void narrow_part(const Panels& panels, int64_t i, const Fill& fill, PerThread& mine);
    void raise_low(Out out);

    const Kernels& kernels_;
    Pool pool_;
    std::vector<PerThread> mine_;
    Panels panels_, inner_;
    Scratch<float> gate_up_, queries_, parts_, narrow_;
    std::vector<LowPart> low_parts_;
    std::vector<LowChunk> low_chunks_;
    Arena arena_;
    Scratch<uint8_t> unread_;
    std::mutex one_at_a_time_;
};

}  // namespace freehold

// What the operations work on: packed linear layers, the paged key-value cache, a step's batch.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "formats.h"
#include "kernels.h"
#include "memory.h"

namespace freehold {

// Rows `out` .. `out` + rows - 1 of a layer's outputs, all in one format.
struct Segment {
    Format format;
    int64_t rows;
    int64_t out;
    int64_t first_block;  // of the layer's blocks
    int64_t supers;
    const uint8_t* data;

    int64_t blocks() const { return (rows + kBlockRows - 1) / kBlockRows; }
    size_t stride() const { return block_bytes(format, supers); }
};

struct Linear {
    int64_t rows = 0, cols = 0, groups = 0, blocks = 0;
    std::vector<Segment> segments;
    std::vector<float> bias;  // empty, or one per row
    std::vector<std::shared_ptr<void>> owners;  // of what the segments point at
    size_t nbytes = 0;

    // Packed rows, `supers` long, as the layer's next outputs. `data` is aligned to 64 bytes.
    void add(Format format, int64_t n, int64_t supers, const uint8_t* data, std::shared_ptr<void> owner);
    void set_bias(const float* values);
    const Segment& segment_of(int64_t block) const;
};

// A low-rank change beside a layer: outputs += B (A x). A of all sides lies in one Q8_0 layer, whose
// outputs are `u`; each side makes its own outputs of its own part of them.
struct LowRank {
    // Outputs `out` .. `out` + rows - 1, from u[first] .. u[first + rank - 1]. Codes are
    // [block of 16 outputs][rank][16], scales [block][16], both zero beyond `rows`.
    struct Side {
        int64_t out, rows, first, rank;
        std::vector<int8_t> codes;
        std::vector<float> scale;

        int64_t blocks() const { return (rows + kBlockRows - 1) / kBlockRows; }
    };
    std::shared_ptr<Linear> narrow;  // A
    std::vector<Side> sides;
    int64_t inputs = 0, outputs = 0;
    size_t nbytes = 0;

    // codes (rows, rank) as Python has them.
    void add(int64_t out, int64_t first, const int8_t* codes, const float* scale, int64_t rows,
             int64_t rank);
};

// Rows `first` .. `first` + n - 1 of a step go through `pair` as well.
struct LowRows {
    std::shared_ptr<LowRank> pair;
    int64_t first, n;
};

// Keys [page][layer][head][16-slot group][dim][16] and values [page][layer][head][slot][padded], each
// group of 8-bit ones followed by its scales, bfloat16 in pairs (AttendTile says how): a page holds
// all layers, so that memory is touched only as sequences grow.
class KvCache {
public:
    KvCache(int layers, int64_t pages, int page_size, int heads, int dim, KvType type);

    void copy_page(int64_t from, int64_t to);
    // Row `k`, `v` of one head (dim floats each) to a position's slot.
    void write(int layer, int64_t page, int slot, int head, const float* k, const float* v);
    const uint8_t* keys(int layer, int head) const;
    const uint8_t* values(int layer, int head) const;

    const int layers, page_size, heads, dim, padded_dim;
    const int64_t pages;
    const KvType type;
    const size_t k_group, v_group;  // bytes of 16 slots of one head
    const size_t k_head, v_head;    // bytes of one head's part of a page
    const size_t k_page, v_page;    // bytes of a page
    size_t nbytes() const { return k_.size() + v_.size(); }

private:
    Memory k_, v_;
};

// One sequence's rows: `row` .. `row` + n - 1 at positions first ..; its pages from `pages` on.
struct BatchSpan {
    int64_t row, n, first, pages;
};

struct Batch {
    int64_t rows = 0;
    int half = 0;  // of head_dim
    std::vector<BatchSpan> spans;
    std::vector<int32_t> pages;
    std::vector<float> cos, sin;         // [row][half]
    std::vector<int32_t> span_of_row;
};

}  // namespace freehold

// The table of functions that each instruction set fills in. Plain data on both sides, so that code
// compiled for one machine never leaks into code that must run on all.
#pragma once

#include <cstddef>
#include <cstdint>

#include "formats.h"

namespace freehold {

// Rows of activations are handled in tiles of these many tokens; a tile may hold fewer, the rest of
// it being zero. The float operations of one output never depend on the size of its tile.
constexpr int kTileSizes[] = {1, 2, 3, 4, 5, 6, 7, 8, 16};
constexpr int kSizes = 9;

// One tile of quantised activations: groups of 32 columns, each token's values side by side.
// [group][token] except values, [group][token][32], and neg_half, [group][token][2].
struct Panel {
    int8_t* values;
    float* scale;         // s: x ~ s * value
    float* scaled_sum;    // s * sum of values
    int32_t* neg_sum;     // -(sum of values)
    int32_t* neg_half;    // the same, of the first and last 16 columns
    int32_t shift;        // added to each value before it is stored in its byte: 0 or 128

    // The same from a group on: `at` is that group times the tile's size.
    Panel from(int64_t at) const {
        return {values + 32 * at, scale + at, scaled_sum + at, neg_sum + at, neg_half + 2 * at, shift};
    }
};

// One unpacked tile of weights: 512 codes, 16 scales, 16 minima (affine) or second scales (halves), and,
// where values are stored shifted, what that adds to each row's sums: of all columns or of each half.
constexpr int kUnpackedTile = 512 + 64 + 64 + 2 * 64;

constexpr int kAttendRows = 8;     // query rows that share one pass over keys and values
constexpr int kAttendChunk = 256;  // positions per softmax chunk, at multiples of itself

enum class KvType : uint8_t { f32, bf16, i8 };
constexpr int kKvTypes = 3;

// 8-bit keys share a scale between this many rotary pairs (i, i + dim / 2), values between this many
// dimensions: a pair's two magnitudes turn into each other with the position, and some pairs of some
// models are a hundred times larger than their neighbours. Values have no such outliers.
constexpr int kKeyPairs = 4, kValueDims = 32;

// Queries, keys and values smaller than this count as zero where the cache is bfloat16, and so do
// weights e^x of an x below kLowestPower.
constexpr float kSmallest = 0x1p-50f, kLowestPower = -34.0f;

// Bytes of 16 positions of one head. Scales (bfloat16) follow the codes: [scale][16].
constexpr size_t key_bytes(KvType type, size_t dim) {
    if (type == KvType::f32) return 64 * dim;
    if (type == KvType::bf16) return 32 * dim;
    return 16 * dim + 32 * ((dim / 2 + kKeyPairs - 1) / kKeyPairs);
}
constexpr size_t value_bytes(KvType type, size_t padded_dim) {
    if (type == KvType::f32) return 64 * padded_dim;
    if (type == KvType::bf16) return 32 * padded_dim;
    return 16 * padded_dim + 32 * ((padded_dim + kValueDims - 1) / kValueDims);
}

// Up to eight query rows of one key-value head of one sequence.
struct AttendTile {
    // Scaled by 1 / sqrt(dim) already: [dim][kAttendRows] floats, or [dim / 2][kAttendRows] pairs of
    // bfloat16 for a cache of that type.
    const uint8_t* q;
    int rows;
    int32_t first[kAttendRows];  // row r sees positions first[r] .. end[r] - 1
    int32_t end[kAttendRows];
    int32_t from, to;  // chunks from .. to - 1, in positions
    // This layer's and head's part of page 0, in groups of 16 slots: keys [dim][16], values
    // [16][padded dim]. In bfloat16 two dimensions of a key lie side by side, [dim / 2][16][2], and
    // two positions of a value, [8][padded dim][2].
    const uint8_t* k;
    const uint8_t* v;
    size_t k_page, v_page;    // bytes from one page to the next
    size_t k_group, v_group;  // bytes from 16 slots to the next 16
    bool alone;             // no other tile has just read the same keys and values
    const int32_t* pages;
    int page_size;          // a multiple of 16
    int dim, padded_dim;    // padded_dim is dim rounded up to 16
    float* out[kAttendRows];
    float* scratch;         // attend_scratch(padded_dim) floats, 64-byte aligned
};

constexpr size_t attend_scratch(size_t padded_dim) {
    return kAttendRows * kAttendChunk + 2 * kAttendRows * padded_dim;
}

// Floats that one chunk of a tile leaves behind: largest score and sum of each row, weighted values.
constexpr size_t attend_part(size_t padded_dim) { return kAttendRows * (2 + padded_dim); }

struct Kernels {
    const char* name;
    int32_t shift;  // of the panels that `unpacked` reads
    // Sizes 1 to 8. out is [tile size][16].
    void (*direct[kFormats][kSizes])(const uint8_t* block, int64_t supers, const Panel&, float* out);
    void (*unpack[kFormats])(const uint8_t* block, int64_t supers, uint8_t* tiles);
    // Sizes 1, 2, 4, 8 and 16. `next`, which may be null, is fetched meanwhile.
    void (*unpacked[kFormats][kSizes])(const uint8_t* tiles, int64_t groups, const Panel&,
                                       const uint8_t* next, float* out);
    // x is padded with zeros to whole groups; the token's place in the panel is `token` of `size`.
    void (*quantise)(const float* x, int64_t groups, const Panel&, int token, int size);
    // x and weight (n values, zero-padded to a multiple of 16); out may be x.
    void (*rms_norm)(const float* x, const float* weight, int64_t n, float eps, float* out);
    // out = silu(gate) * up; n need not be a multiple of anything, but 15 floats past it are read.
    void (*swiglu)(const float* gate, const float* up, int64_t n, float* out);
    // 32 columns of silu(gate) * up of one tile, quantised; sums are [gate, gate, up, up][size][16].
    void (*gate_tile)(const float* sums, int rows, const Panel&, int size);
    // y[m] += scale * (codes u[m]) for `m` rows of 1 to 8 of (rank) values, `stride` apart; `n` of the
    // 16 outputs are there. Codes are [rank][16].
    void (*raise[8])(const int8_t* codes, const float* scale, const float* u, int64_t stride, int64_t rank,
                     int n, float* const* y);
    // Pairs (i, i + half) turned by angle i, times factor.
    void (*rotate)(const float* x, const float* cos, const float* sin, int half, float factor,
                   float* out);
    // A whole tile at once, or chunk by chunk into `parts` and then merged.
    void (*attend[kKvTypes])(const AttendTile&);
    void (*attend_parts[kKvTypes])(const AttendTile&, float* parts);
    void (*merge_parts)(const AttendTile&, const float* parts);
    // Reads n bytes (a multiple of 256) and says something that depends on them all.
    uint64_t (*read)(const uint8_t* p, size_t n);
};

// The table for FREEHOLD_ISA's value, or for the best this machine has where `name` is empty.
// Null where the name is unknown or the machine cannot run it.
const Kernels* kernels_for(const char* name);

// Names of the tables that this machine can run, best first, ending with a null pointer.
const char* const* runnable_isas();

}  // namespace freehold

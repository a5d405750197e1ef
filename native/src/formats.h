// The packed weight formats: how one block of 16 rows lies in memory.
//
// A block is a run of "supers" along the columns. A super covers one GGUF block's columns (32, or
// 256 for the K formats) of all 16 rows:
//
//   header   16 fp16 super-scales, then 16 fp16 minima (super-minima) where the format has them
//   tiles    one per 32 columns: sub-scales, the codes' low bits, their upper bits
//
// Codes are unsigned. Inside a tile, "vector" i of 8 holds for every row r the four columns
// 4i .. 4i+3 as byte 4r + c: what a 4-way byte dot product wants. Vectors i and i + 4 share bytes:
// low nibble and high nibble.
#pragma once

#include <cstddef>
#include <cstdint>

namespace freehold {

enum class Format : uint8_t { q4_0, q4_1, q5_0, q5_1, q8_0, q4_k, q5_k, q6_k };
constexpr int kFormats = 8;
constexpr int kBlockRows = 16;
constexpr int kTileCols = 32;

// How a tile turns into values: code * scale - shift * scale (offset), code * scale + minimum
// (affine), or two half tiles of 16 columns with a scale each (halves).
enum class Kind : uint8_t { offset, affine, halves };

struct Layout {
    Kind kind;
    int low_bits;      // 4, or 8 when the whole code is one byte
    int high_bits;     // upper bits kept apart: 0, 1 or 2
    int offset_shift;  // codes stand for code - 2^offset_shift; -1: no offset
    int tiles;         // tiles per super
    int header;        // bytes
    int sub;           // bytes of sub-scales per tile
    int source_bytes;  // bytes of one GGUF block

    constexpr int codes() const { return low_bits == 8 ? 512 : 256; }
    constexpr int tile() const { return sub + codes() + 64 * high_bits; }
    constexpr int super() const { return header + tiles * tile(); }
    constexpr int super_cols() const { return tiles * kTileCols; }
};

constexpr Layout kLayouts[kFormats] = {
    /* q4_0 */ {Kind::offset, 4, 0, 3, 1, 32, 0, 18},
    /* q4_1 */ {Kind::affine, 4, 0, -1, 1, 64, 0, 20},
    /* q5_0 */ {Kind::offset, 4, 1, 4, 1, 32, 0, 22},
    /* q5_1 */ {Kind::affine, 4, 1, -1, 1, 64, 0, 24},
    /* q8_0 */ {Kind::offset, 8, 0, 7, 1, 32, 0, 34},
    /* q4_k */ {Kind::affine, 4, 0, -1, 8, 64, 32, 144},
    /* q5_k */ {Kind::affine, 4, 1, -1, 8, 64, 32, 176},
    /* q6_k */ {Kind::halves, 4, 2, 5, 8, 32, 32, 210},
};

constexpr const Layout& layout_of(Format f) { return kLayouts[static_cast<int>(f)]; }

// The bound: packed bytes at most 1.03 times the file's.
constexpr bool within_bound(const Layout& l) {
    return l.super() * 100 <= l.source_bytes * kBlockRows * 103;
}
static_assert(within_bound(kLayouts[0]) && within_bound(kLayouts[1]) && within_bound(kLayouts[2]) &&
              within_bound(kLayouts[3]) && within_bound(kLayouts[4]) && within_bound(kLayouts[5]) &&
              within_bound(kLayouts[6]) && within_bound(kLayouts[7]));

inline size_t block_bytes(Format f, int64_t supers) {
    return static_cast<size_t>(layout_of(f).super()) * static_cast<size_t>(supers);
}

}  // namespace freehold

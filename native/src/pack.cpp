#include "pack.h"

#include <cstring>

#include "half.h"

namespace freehold {
namespace {

// A super of one row as codes and scales, before it is laid out.
struct Super {
    uint8_t d[2], m[2];
    uint8_t codes[256];
    uint8_t sub[8][2];  // per tile: scale and minimum, or the two halves' scales
};

void nibbles(const uint8_t* in, uint8_t* low, uint8_t* high, int n) {
    for (int i = 0; i < n; i++) {
        low[i] = in[i] & 15;
        high[i] = static_cast<uint8_t>(in[i] >> 4);
    }
}

// Bit i of the 32 bits at qh becomes bit 4 of codes[i]. Eight at a time: every byte of a word gets a
// copy of eight bits, keeps its own, and turns "not zero" into its top bit without a carry.
void fifth_bits(const uint8_t* qh, uint8_t* codes) {
    constexpr uint64_t kEach = 0x0101010101010101, kOwn = 0x8040201008040201;
    for (int i = 0; i < 4; i++) {
        const uint64_t own = qh[i] * kEach & kOwn;
        const uint64_t set = (own + 0x7f * kEach) & 0x80 * kEach;
        uint64_t word;
        std::memcpy(&word, codes + 8 * i, 8);
        word |= set >> 3;
        std::memcpy(codes + 8 * i, &word, 8);
    }
}

// The 6-bit scales and minima of eight tiles in 12 bytes (ggml's get_scale_min_k4).
void six_bits(const uint8_t* q, uint8_t (*sub)[2]) {
    for (int j = 0; j < 4; j++) {
        sub[j][0] = q[j] & 63;
        sub[j][1] = q[j + 4] & 63;
        sub[j + 4][0] = static_cast<uint8_t>((q[j + 8] & 15) | (q[j] >> 6 << 4));
        sub[j + 4][1] = static_cast<uint8_t>((q[j + 8] >> 4) | (q[j + 4] >> 6 << 4));
    }
}

void read_super(Format format, const uint8_t* in, Super& s) {
    switch (format) {
        case Format::q4_0:
            std::memcpy(s.d, in, 2);
            nibbles(in + 2, s.codes, s.codes + 16, 16);
            break;
        case Format::q4_1:
            std::memcpy(s.d, in, 2);
            std::memcpy(s.m, in + 2, 2);
            nibbles(in + 4, s.codes, s.codes + 16, 16);
            break;
        case Format::q5_0:
            std::memcpy(s.d, in, 2);
            nibbles(in + 6, s.codes, s.codes + 16, 16);
            fifth_bits(in + 2, s.codes);
            break;
        case Format::q5_1:
            std::memcpy(s.d, in, 2);
            std::memcpy(s.m, in + 2, 2);
            nibbles(in + 8, s.codes, s.codes + 16, 16);
            fifth_bits(in + 4, s.codes);
            break;
        case Format::q8_0:
            std::memcpy(s.d, in, 2);
            for (int i = 0; i < 32; i++) s.codes[i] = in[2 + i] ^ 0x80;
            break;
        case Format::q4_k:
        case Format::q5_k: {
            std::memcpy(s.d, in, 2);
            std::memcpy(s.m, in + 2, 2);
            six_bits(in + 4, s.sub);
            const bool five = format == Format::q5_k;
            const uint8_t* qs = in + (five ? 48 : 16);
            for (int j = 0; j < 4; j++) nibbles(qs + 32 * j, s.codes + 64 * j, s.codes + 64 * j + 32, 32);
            for (int g = 0; five && g < 8; g++) {
                for (int i = 0; i < 32; i++) {
                    const int bit = in[16 + i] >> g & 1;
                    s.codes[32 * g + i] = static_cast<uint8_t>(s.codes[32 * g + i] | bit << 4);
                }
            }
            break;
        }
        case Format::q6_k:
            // Each half: 64 bytes of low nibbles, 32 bytes that hold four upper pairs each.
            for (int h = 0; h < 2; h++) {
                uint8_t* codes = s.codes + 128 * h;
                nibbles(in + 64 * h, codes, codes + 64, 64);
                const uint8_t* upper = in + 128 + 32 * h;
                for (int q = 0; q < 4; q++) {
                    for (int i = 0; i < 32; i++) {
                        const int bits = upper[i] >> 2 * q & 3;
                        codes[32 * q + i] = static_cast<uint8_t>(codes[32 * q + i] | bits << 4);
                    }
                }
            }
            std::memcpy(s.sub, in + 192, 16);
            std::memcpy(s.d, in + 208, 2);
            break;
    }
}

// Column k of a tile goes to byte 4 * row + k % 4 of vector k / 4. Four columns move at a time, as
// the four bytes of a word; no bit crosses from one byte to the next.
void write_tile(const Layout& l, const uint8_t* codes, int row, uint8_t* tile) {
    uint32_t word[8];
    std::memcpy(word, codes, sizeof word);
    uint8_t* low = tile + l.sub + 4 * row;
    if (l.low_bits == 8) {
        for (int i = 0; i < 8; i++) std::memcpy(low + 64 * i, word + i, 4);
        return;
    }
    for (int i = 0; i < 4; i++) {
        const uint32_t both = (word[i] & 0x0f0f0f0f) | (word[i + 4] & 0x0f0f0f0f) << 4;
        std::memcpy(low + 64 * i, &both, 4);
    }
    if (l.high_bits == 0) return;
    uint32_t high[2] = {};
    for (int i = 0; i < 8; i++) {
        const uint32_t upper = word[i] >> 4 & 0x0f0f0f0f;
        if (l.high_bits == 1) high[0] |= upper << i;
        if (l.high_bits == 2) high[i / 4] |= upper << (i % 4 * 2);
    }
    for (int i = 0; i < l.high_bits; i++) std::memcpy(low + l.codes() + 64 * i, high + i, 4);
}

void read_tile(const Layout& l, const uint8_t* tile, int row, uint8_t* codes) {
    const uint8_t* low = tile + l.sub;
    const uint8_t* high = low + l.codes();
    for (int k = 0; k < kTileCols; k++) {
        const int vector = k / 4, byte = 4 * row + k % 4;
        if (l.low_bits == 8) {
            codes[k] = low[64 * vector + byte];
            continue;
        }
        int code = low[64 * (vector % 4) + byte] >> (vector / 4 * 4) & 15;
        if (l.high_bits == 1) code |= (high[byte] >> vector & 1) << 4;
        if (l.high_bits == 2) code |= (high[64 * (vector / 4) + byte] >> (vector % 4 * 2) & 3) << 4;
        codes[k] = static_cast<uint8_t>(code);
    }
}

}  // namespace

void pack_block(Format format, const uint8_t* const* rows, int64_t supers, uint8_t* out) {
    const Layout& l = layout_of(format);
    std::memset(out, 0, block_bytes(format, supers));
    Super s{};
    for (int64_t at = 0; at < supers; at++, out += l.super()) {
        for (int row = 0; row < kBlockRows; row++) {
            if (!rows[row]) continue;
            read_super(format, rows[row] + at * l.source_bytes, s);
            std::memcpy(out + 2 * row, s.d, 2);
            if (l.header == 64) std::memcpy(out + 32 + 2 * row, s.m, 2);
            for (int t = 0; t < l.tiles; t++) {
                uint8_t* tile = out + l.header + t * l.tile();
                if (l.sub) {
                    tile[row] = s.sub[t][0];
                    tile[16 + row] = s.sub[t][1];
                }
                write_tile(l, s.codes + kTileCols * t, row, tile);
            }
        }
    }
}

void dequantise_row(Format format, const uint8_t* block, int row, int64_t supers, float* out) {
    const Layout& l = layout_of(format);
    const int offset = l.offset_shift < 0 ? 0 : 1 << l.offset_shift;
    for (int64_t at = 0; at < supers; at++, block += l.super()) {
        const float d = half_at(block + 2 * row);
        const float m = l.header == 64 ? half_at(block + 32 + 2 * row) : 0.0f;
        for (int t = 0; t < l.tiles; t++, out += kTileCols) {
            const uint8_t* tile = block + l.header + t * l.tile();
            uint8_t codes[kTileCols];
            read_tile(l, tile, row, codes);
            for (int k = 0; k < kTileCols; k++) {
                const auto code = static_cast<float>(codes[k] - offset);
                if (l.kind == Kind::halves) {
                    const auto sub = static_cast<int8_t>(tile[row + (k < 16 ? 0 : 16)]);
                    out[k] = d * static_cast<float>(sub) * code;
                } else if (l.kind == Kind::offset) {
                    out[k] = d * code;
                } else if (l.sub == 0) {
                    out[k] = d * code + m;
                } else {
                    const float scale = d * static_cast<float>(tile[row]);
                    out[k] = scale * code - m * static_cast<float>(tile[16 + row]);
                }
            }
        }
    }
}

}  // namespace freehold

// Linear layers over packed weights: blocks of 16 outputs, tiles of at most 16 tokens.
//
// The float operations of one output, in this order, whatever the tile, the path or the machine.
// acc starts at 0; for each group of 32 columns with i = sum of code' * value (exact, int32):
//
//   offset   acc = fma(i * s, scale, acc)                        code' = code - 2^shift
//   affine   acc = fma(i * s, scale, acc); acc = fma(s * sum, minimum, acc)        code' = code
//   halves   t = i0 * scale0; t = fma(i1, scale1, t); acc = fma(t, s, acc)
//
// Included by each instruction set's own file, after its Simd.
#pragma once

#include "kernels.h"

namespace freehold {
namespace {

// A tile of weights in registers.
struct Codes {
    Simd::W at[8];
};

template <Format F>
inline Codes load_codes(const uint8_t* p) {
    constexpr Layout L = layout_of(F);
    Codes c;
    if constexpr (L.low_bits == 8) {
        for (int i = 0; i < 8; i++) c.at[i] = Simd::wload(p + 64 * i);
        return c;
    }
    for (int i = 0; i < 4; i++) {
        const Simd::W x = Simd::wload(p + 64 * i);
        c.at[i] = Simd::low_nibbles(x);
        c.at[i + 4] = Simd::high_nibbles(x);
    }
    if constexpr (L.high_bits == 1) {
        // bit i of each byte is the fifth bit of vector i
        const Simd::W h = Simd::wload(p + 256);
        c.at[0] = Simd::insert<4, 16>(c.at[0], h);
        c.at[1] = Simd::insert<3, 16>(c.at[1], h);
        c.at[2] = Simd::insert<2, 16>(c.at[2], h);
        c.at[3] = Simd::insert<1, 16>(c.at[3], h);
        c.at[4] = Simd::insert<0, 16>(c.at[4], h);
        c.at[5] = Simd::insert<-1, 16>(c.at[5], h);
        c.at[6] = Simd::insert<-2, 16>(c.at[6], h);
        c.at[7] = Simd::insert<-3, 16>(c.at[7], h);
    }
    if constexpr (L.high_bits == 2) {
        // two bits each: the first 64 bytes for vectors 0 to 3, the next for 4 to 7
        for (int half = 0; half < 2; half++) {
            const Simd::W h = Simd::wload(p + 256 + 64 * half);
            c.at[4 * half] = Simd::insert<4, 48>(c.at[4 * half], h);
            c.at[4 * half + 1] = Simd::insert<2, 48>(c.at[4 * half + 1], h);
            c.at[4 * half + 2] = Simd::insert<0, 48>(c.at[4 * half + 2], h);
            c.at[4 * half + 3] = Simd::insert<-2, 48>(c.at[4 * half + 3], h);
        }
    }
    return c;
}

// A tile's float side: `second` is the minimum (affine) or the second half's scale (halves).
struct Scales {
    Simd::V first, second;
};

// A super's header as floats, and its tiles' scales from it.
template <Format F>
struct Header {
    static constexpr Layout L = layout_of(F);
    Simd::V d, m;

    Header() = default;
    explicit Header(const uint8_t* super) {
        d = Simd::load_f16(super);
        if constexpr (L.kind == Kind::affine) m = Simd::load_f16(super + 32);
    }
    // Products of an 11-bit and a 6- or 8-bit number are exact in float.
    Scales of(const uint8_t* tile) const {
        if constexpr (L.kind == Kind::offset) return {d, d};
        if constexpr (L.kind == Kind::halves) {
            return {Simd::mul(d, Simd::load_i8(tile)), Simd::mul(d, Simd::load_i8(tile + 16))};
        }
        if constexpr (L.sub == 0) return {d, m};
        // K formats store minima that are subtracted.
        return {Simd::mul(d, Simd::load_u8(tile)),
                Simd::neg(Simd::mul(m, Simd::load_u8(tile + 16)))};
    }
};

constexpr int shift_of(const Layout& l) { return l.offset_shift < 0 ? 0 : l.offset_shift; }

// One group of one token against `n` blocks: sum(b) is block b's chain so far, put(b, chain) takes the
// advanced one. Integer sums are exact in any order.
template <Format F, int n, class Sum, class Put>
inline void step(const Codes* c, const Scales* w, const Panel& p, int64_t at, Sum sum, Put put) {
    constexpr Layout L = layout_of(F);
    constexpr int shift = shift_of(L);
    constexpr bool wide = L.low_bits == 8;
    const int8_t* x = p.values + 32 * at;
    const Simd::V s = Simd::set1(p.scale[at]);
    Simd::I a[n], b[n];
    if constexpr (L.kind == Kind::halves) {
        a[0] = Simd::ishl<shift>(Simd::iset1(p.neg_half[2 * at]));
        b[0] = Simd::ishl<shift>(Simd::iset1(p.neg_half[2 * at + 1]));
    } else {
        a[0] = b[0] = Simd::izero();
        if constexpr (L.kind == Kind::offset) a[0] = Simd::ishl<shift>(Simd::iset1(p.neg_sum[at]));
    }
    for (int j = 1; j < n; j++) a[j] = a[0], b[j] = b[0];
FREEHOLD_UNROLL
    for (int i = 0; i < 4; i++) {
        for (int j = 0; j < n; j++) a[j] = Simd::dot<wide>(a[j], c[j].at[i], x + 4 * i);
    }
FREEHOLD_UNROLL
    for (int i = 4; i < 8; i++) {
        for (int j = 0; j < n; j++) b[j] = Simd::dot<wide>(b[j], c[j].at[i], x + 4 * i);
    }
    for (int j = 0; j < n; j++) {
        if constexpr (L.kind == Kind::halves) {
            const Simd::V t = Simd::mul(Simd::to_float(a[j]), w[j].first);
            put(j, Simd::fma(Simd::fma(Simd::to_float(b[j]), w[j].second, t), s, sum(j)));
        } else {
            const Simd::V f = Simd::mul(Simd::to_float(Simd::iadd(a[j], b[j])), s);
            Simd::V acc = Simd::fma(f, w[j].first, sum(j));
            if constexpr (L.kind == Kind::affine) {
                acc = Simd::fma(Simd::set1(p.scaled_sum[at]), w[j].second, acc);
            }
            put(j, acc);
        }
    }
}

// Straight from packed weights, for few tokens: weights are read once and reading is the limit.
// Calls use(tile, codes, scales) for the n blocks' tiles, column after column.
template <Format F, int n, class Use>
inline void each_tile(const uint8_t* block, size_t stride, int64_t supers, Use use) {
    constexpr Layout L = layout_of(F);
    constexpr int kAhead = 2048;  // bytes: far enough to cover memory's latency at full rate
    int64_t group = 0;
    for (int64_t s = 0; s < supers; s++, block += L.super()) {
        Header<F> header[n];
        for (int j = 0; j < n; j++) header[j] = Header<F>(block + static_cast<size_t>(j) * stride);
        for (int t = 0; t < L.tiles; t++, group++) {
            Codes c[n];
            Scales w[n];
            for (int j = 0; j < n; j++) {
                const uint8_t* tile = block + static_cast<size_t>(j) * stride + L.header + t * L.tile();
                for (int line = 0; line < (L.tile() + 63) / 64; line++) {
                    Simd::prefetch(tile + kAhead + 64 * line);
                }
                w[j] = header[j].of(tile);
                c[j] = load_codes<F>(tile + L.sub);
            }
            use(group, c, w);
        }
    }
}

template <Format F, int M>
void few(const uint8_t* block, int64_t supers, const Panel& p, float* out) {
    Simd::V acc[M];
    for (int m = 0; m < M; m++) acc[m] = Simd::zero();
    each_tile<F, 1>(block, 0, supers, [&](int64_t g, const Codes* c, const Scales* w) FREEHOLD_INLINE {
FREEHOLD_UNROLL
        for (int m = 0; m < M; m++) {
            step<F, 1>(c, w, p, g * M + m, [&](int) { return acc[m]; },
                       [&](int, Simd::V next) { acc[m] = next; });
        }
    });
    for (int m = 0; m < M; m++) Simd::store(out + 16 * m, acc[m]);
}

// One group of a tile of tokens against n blocks. Registers hold the codes, the first-level cache the
// sums: what limits a processor here is how many operands it can load, and each broadcast activation
// serves all blocks.
template <Format F, int n>
inline void step_tokens(const Codes* c, const Scales* w, const Panel& p, int64_t at, int tokens,
                        float* sums) {
    for (int m = 0; m < tokens; m++) {
        float* of = sums + kBlockRows * m;
        step<F, n>(c, w, p, at + m,
                   [&](int j) { return Simd::load(of + kBlockRows * kTileTokens * j); },
                   [&](int j, Simd::V next) { Simd::store(of + kBlockRows * kTileTokens * j, next); });
    }
}

template <int n>
inline void clear(int tokens, float* sums) {
    for (int j = 0; j < n; j++) {
        for (int m = 0; m < tokens; m++) {
            Simd::store(sums + kBlockRows * (kTileTokens * j + m), Simd::zero());
        }
    }
}

template <Format F, int n>
void many_of(const uint8_t* block, size_t stride, int64_t supers, const Panel& p, int tokens, float* out) {
    clear<n>(tokens, out);
    each_tile<F, n>(block, stride, supers, [&](int64_t g, const Codes* c, const Scales* w) FREEHOLD_INLINE {
        step_tokens<F, n>(c, w, p, g * tokens, tokens, out);
    });
}

template <Format F>
void many(const uint8_t* block, size_t stride, int n, int64_t supers, const Panel& p, int tokens,
          float* out) {
    if constexpr (Simd::kBlocks > 1) {
        if (n > 1) return many_of<F, Simd::kBlocks>(block, stride, supers, p, tokens, out);
    }
    many_of<F, 1>(block, stride, supers, p, tokens, out);
}

// A whole block made ready for many tiles.
template <Format F>
void unpack(const uint8_t* block, int64_t supers, uint8_t* tiles) {
    constexpr Layout L = layout_of(F);
    for (int64_t s = 0; s < supers; s++) {
        const Header<F> header(block);
        const uint8_t* tile = block + L.header;
        for (int t = 0; t < L.tiles; t++, tile += L.tile(), tiles += kUnpackedTile) {
            const Scales w = header.of(tile);
            const Codes c = load_codes<F>(tile + L.sub);
            for (int i = 0; i < 8; i++) Simd::wstore(tiles + 64 * i, c.at[i]);
            Simd::store(reinterpret_cast<float*>(tiles + 512), w.first);
            if constexpr (L.kind != Kind::offset) {
                Simd::store(reinterpret_cast<float*>(tiles + 576), w.second);
            }
        }
        block += L.super();
    }
}

template <Format F, int n>
void unpacked_of(const uint8_t* tiles, int64_t groups, const Panel& p, int tokens, const uint8_t* next,
                 size_t stride, float* out) {
    constexpr Layout L = layout_of(F);
    constexpr int lines = (L.super() / L.tiles + 63) / 64;
    clear<n>(tokens, out);
    for (int64_t g = 0; g < groups; g++, tiles += kUnpackedTile) {
        // Memory works while the arithmetic does.
        if (next) {
            for (int j = 0; j < n; j++) {
                for (int i = 0; i < lines; i++) {
                    Simd::prefetch(next + static_cast<size_t>(j) * stride + 64 * i);
                }
            }
            next += L.super() / L.tiles;
        }
        Codes c[n];
        Scales w[n];
        for (int j = 0; j < n; j++) {
            const uint8_t* tile = tiles + j * groups * kUnpackedTile;
            for (int i = 0; i < 8; i++) c[j].at[i] = Simd::wload(tile + 64 * i);
            w[j] = {Simd::load(reinterpret_cast<const float*>(tile + 512)),
                    Simd::load(reinterpret_cast<const float*>(tile + 576))};
        }
        step_tokens<F, n>(c, w, p, g * tokens, tokens, out);
    }
}

template <Format F>
void unpacked(const uint8_t* tiles, int n, int64_t groups, const Panel& p, int tokens,
              const uint8_t* next, size_t stride, float* out) {
    if constexpr (Simd::kBlocks > 1) {
        if (n > 1) return unpacked_of<F, Simd::kBlocks>(tiles, groups, p, tokens, next, stride, out);
    }
    unpacked_of<F, 1>(tiles, groups, p, tokens, next, stride, out);
}

}  // namespace
}  // namespace freehold

// Linear layers over packed weights: blocks of 16 outputs, tiles of 1 to 16 tokens.
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

template <bool wide>
inline Simd::I dot4(Simd::I acc, const Simd::W* codes, const int8_t* x) {
FREEHOLD_UNROLL
    for (int i = 0; i < 4; i++) acc = Simd::dot<wide>(acc, codes[i], x + 4 * i);
    return acc;
}

// One group of one token: returns the advanced chain.
template <Kind K, int shift, bool wide>
inline Simd::V step(Simd::V acc, const Codes& c, const Scales& w, const Panel& p, int64_t at) {
    const int8_t* x = p.values + 32 * at;
    const Simd::V s = Simd::set1(p.scale[at]);
    if constexpr (K == Kind::halves) {
        Simd::I a = Simd::ishl<shift>(Simd::iset1(p.neg_half[2 * at]));
        Simd::I b = Simd::ishl<shift>(Simd::iset1(p.neg_half[2 * at + 1]));
        a = dot4<wide>(a, c.at, x);
        b = dot4<wide>(b, c.at + 4, x + 16);
        const Simd::V t = Simd::mul(Simd::to_float(a), w.first);
        return Simd::fma(Simd::fma(Simd::to_float(b), w.second, t), s, acc);
    }
    // Integer sums are exact in any order: two chains hide each other's latency.
    Simd::I a = Simd::izero();
    if constexpr (K == Kind::offset) a = Simd::ishl<shift>(Simd::iset1(p.neg_sum[at]));
    a = dot4<wide>(a, c.at, x);
    const Simd::I b = dot4<wide>(Simd::izero(), c.at + 4, x + 16);
    const Simd::V f = Simd::mul(Simd::to_float(Simd::iadd(a, b)), s);
    acc = Simd::fma(f, w.first, acc);
    if constexpr (K == Kind::affine) {
        acc = Simd::fma(Simd::set1(p.scaled_sum[at]), w.second, acc);
    }
    return acc;
}

constexpr int shift_of(const Layout& l) { return l.offset_shift < 0 ? 0 : l.offset_shift; }

// Straight from packed weights, for few tokens: weights are read once and reading is the limit.
template <Format F, int M>
void direct(const uint8_t* block, int64_t supers, const Panel& p, float* out) {
    constexpr Layout L = layout_of(F);
    constexpr int kAhead = 8192;  // bytes: far enough to cover memory's latency at full rate
    Simd::V acc[M];
    for (int m = 0; m < M; m++) acc[m] = Simd::zero();
    int64_t at = 0;
    for (int64_t s = 0; s < supers; s++) {
        const Header<F> header(block);
        const uint8_t* tile = block + L.header;
        for (int t = 0; t < L.tiles; t++, tile += L.tile(), at += M) {
            for (int line = 0; line < (L.tile() + 63) / 64; line++) {
                Simd::prefetch(tile + kAhead + 64 * line);
            }
            const Scales w = header.of(tile);
            const Codes c = load_codes<F>(tile + L.sub);
FREEHOLD_UNROLL
            for (int m = 0; m < M; m++) {
                acc[m] = step<L.kind, shift_of(L), L.low_bits == 8>(acc[m], c, w, p, at + m);
            }
        }
        block += L.super();
    }
    for (int m = 0; m < M; m++) Simd::store(out + 16 * m, acc[m]);
}

// The same from unpacked, signed codes and shifted values, where S has them.
template <Kind K, class S>
inline Simd::V step_shifted(Simd::V acc, const Codes& c, const Scales& w, Simd::I first, Simd::I second,
                            const Panel& p, int64_t at) {
    const int8_t* x = p.values + 32 * at;
    Simd::I a = first, b = second;
FREEHOLD_UNROLL
    for (int i = 0; i < 4; i++) a = S::dot_shifted(a, c.at[i], x + 4 * i);
FREEHOLD_UNROLL
    for (int i = 0; i < 4; i++) b = S::dot_shifted(b, c.at[4 + i], x + 16 + 4 * i);
    const Simd::V s = Simd::set1(p.scale[at]);
    if constexpr (K == Kind::halves) {
        const Simd::V t = Simd::mul(Simd::to_float(a), w.first);
        return Simd::fma(Simd::fma(Simd::to_float(b), w.second, t), s, acc);
    }
    acc = Simd::fma(Simd::mul(Simd::to_float(Simd::iadd(a, b)), s), w.first, acc);
    if constexpr (K == Kind::affine) {
        acc = Simd::fma(Simd::set1(p.scaled_sum[at]), w.second, acc);
    }
    return acc;
}

// Codes made signed, and what shifted values add to the sums of a tile's rows.
template <Format F, class S>
inline void shift_codes(Codes& c, uint8_t* sums) {
    constexpr Layout L = layout_of(F);
    Simd::I sum[2] = {Simd::izero(), Simd::izero()};
    for (int i = 0; i < 8; i++) {
        if constexpr (L.kind != Kind::affine) {
            c.at[i] = S::wsub(c.at[i], static_cast<int8_t>(1 << shift_of(L)));
        }
        const int half = L.kind == Kind::halves ? i / 4 : 0;
        sum[half] = S::unshift(sum[half], c.at[i]);
    }
    S::istore(sums, sum[0]);
    S::istore(sums + 64, sum[1]);
}

// A whole block made ready for many tokens.
template <Format F>
void unpack(const uint8_t* block, int64_t supers, uint8_t* tiles) {
    constexpr Layout L = layout_of(F);
    for (int64_t s = 0; s < supers; s++) {
        const Header<F> header(block);
        const uint8_t* tile = block + L.header;
        for (int t = 0; t < L.tiles; t++, tile += L.tile(), tiles += kUnpackedTile) {
            const Scales w = header.of(tile);
            Codes c = load_codes<F>(tile + L.sub);
            if constexpr (Simd::kShift != 0) shift_codes<F, Simd>(c, tiles + 640);
            for (int i = 0; i < 8; i++) Simd::wstore(tiles + 64 * i, c.at[i]);
            Simd::store(reinterpret_cast<float*>(tiles + 512), w.first);
            if constexpr (L.kind != Kind::offset) {
                Simd::store(reinterpret_cast<float*>(tiles + 576), w.second);
            }
        }
        block += L.super();
    }
}

// From an unpacked block. `next`, if any, is the packed block that will be wanted after it: memory
// works while the arithmetic does.
template <Format F, int M>
void unpacked(const uint8_t* tiles, int64_t groups, const Panel& p, const uint8_t* next, float* out) {
    constexpr Layout L = layout_of(F);
    constexpr int lines = (L.super() / L.tiles + 63) / 64;
    Simd::V acc[M];
    for (int m = 0; m < M; m++) acc[m] = Simd::zero();
    for (int64_t g = 0; g < groups; g++, tiles += kUnpackedTile) {
        if (next) {
            for (int i = 0; i < lines; i++) Simd::prefetch(next + 64 * i);
            next += L.super() / L.tiles;
        }
        Codes c;
        for (int i = 0; i < 8; i++) c.at[i] = Simd::wload(tiles + 64 * i);
        const Scales w = {Simd::load(reinterpret_cast<const float*>(tiles + 512)),
                          Simd::load(reinterpret_cast<const float*>(tiles + 576))};
        if constexpr (Simd::kShift != 0) {
            const Simd::I first = Simd::iload(tiles + 640), second = Simd::iload(tiles + 704);
FREEHOLD_UNROLL
            for (int m = 0; m < M; m++) {
                acc[m] = step_shifted<L.kind, Simd>(acc[m], c, w, first, second, p, g * M + m);
            }
        } else {
FREEHOLD_UNROLL
            for (int m = 0; m < M; m++) {
                acc[m] = step<L.kind, shift_of(L), L.low_bits == 8>(acc[m], c, w, p, g * M + m);
            }
        }
    }
    for (int m = 0; m < M; m++) Simd::store(out + 16 * m, acc[m]);
}

}  // namespace
}  // namespace freehold

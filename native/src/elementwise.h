// Everything between the linear layers that works value by value or row by row.
// Included by each instruction set's own file, after its Simd. docs/numerics.md gives the order.
#pragma once

#include "kernels.h"

namespace freehold {
namespace {

// e^x. Below `lowest` (-87 or more): 0. Above 88: e^88, which no caller's formula tells from infinity.
// NaN stays.
// x = n ln 2 + r with the two-part ln 2 of Cody and Waite; e^r as a polynomial of degree 5 fitted for
// the least relative error (9.4e-8) on |r| <= ln 2 / 2, and exact at 0.
inline Simd::V exp(Simd::V x, float lowest = -87.0f) {
    const Simd::V low = Simd::set1(lowest);
    // Operands in this order let a NaN through.
    const Simd::V c = Simd::min(Simd::set1(88.0f), Simd::max(low, x));
    // Adding 1.5 * 2^23 rounds to an integer, which is then also in the low bits.
    const Simd::V magic = Simd::set1(0x1.8p23f);
    const Simd::V shifted = Simd::fma(c, Simd::set1(0x1.715476p0f), magic);
    const Simd::V n = Simd::sub(shifted, magic);
    Simd::V r = Simd::fma(n, Simd::set1(-0x1.63p-1f), c);
    r = Simd::fma(n, Simd::set1(0x1.bd0106p-13f), r);
    Simd::V y = Simd::set1(0x1.0fa7d8p-7f);
    y = Simd::fma(y, r, Simd::set1(0x1.573adp-5f));
    y = Simd::fma(y, r, Simd::set1(0x1.555a6ep-3f));
    y = Simd::fma(y, r, Simd::set1(0x1.fffdc4p-2f));
    y = Simd::fma(y, r, Simd::set1(0x1.fffff6p-1f));
    y = Simd::fma(y, r, Simd::set1(1.0f));
    return Simd::less(x, low, Simd::zero(), Simd::scale2(y, shifted));
}

// Groups of 32: s = max |x| / 127, value = x / s to nearest, ties to even. A group whose largest
// magnitude is below 2^-100 becomes zero; one that holds infinity or NaN gets the scale NaN, so that
// trouble stays visible in every output it reaches.
inline void quantise(const float* x, int64_t groups, const Panel& p, int token, int size) {
    constexpr uint32_t kTiny = 27u << 23, kInfinity = 0x7f800000;
    for (int64_t g = 0; g < groups; g++, x += 32) {
        const int64_t at = g * size + token;
        int8_t* values = p.values + 32 * at;
        const Simd::V a = Simd::load(x), b = Simd::load(x + 16);
        const uint32_t top = Simd::max_magnitude(a, b);
        if (top < kTiny || top >= kInfinity) {
            const float s = top < kTiny ? 0.0f : __builtin_nanf("");
            for (int i = 0; i < 32; i++) values[i] = static_cast<int8_t>(p.shift);
            p.scale[at] = p.scaled_sum[at] = s;
            p.neg_sum[at] = p.neg_half[2 * at] = p.neg_half[2 * at + 1] = 0;
            continue;
        }
        float largest;
        __builtin_memcpy(&largest, &top, 4);
        const Simd::V inverse = Simd::set1(127.0f / largest);
        const Simd::I qa = Simd::round(Simd::mul(a, inverse));
        const Simd::I qb = Simd::round(Simd::mul(b, inverse));
        const Simd::I shift = Simd::iset1(p.shift);
        Simd::store_i8(values, Simd::iadd(qa, shift));
        Simd::store_i8(values + 16, Simd::iadd(qb, shift));
        const int32_t sum_a = Simd::sum_codes(qa), sum_b = Simd::sum_codes(qb);
        const float s = largest / 127.0f;
        p.scale[at] = s;
        p.scaled_sum[at] = s * static_cast<float>(sum_a + sum_b);
        p.neg_sum[at] = -(sum_a + sum_b);
        p.neg_half[2 * at] = -sum_a;
        p.neg_half[2 * at + 1] = -sum_b;
    }
}

// x / sqrt(mean of squares + eps) * weight. 16 lanes of fma, then the tree.
inline void rms_norm(const float* x, const float* weight, int64_t n, float eps, float* out) {
    Simd::V squares = Simd::zero();
    for (int64_t i = 0; i < n; i += 16) {
        const Simd::V v = Simd::load(x + i);
        squares = Simd::fma(v, v, squares);
    }
    const float mean = Simd::tree_sum(squares) / static_cast<float>(n);
    const Simd::V inverse = Simd::set1(1.0f / __builtin_sqrtf(mean + eps));
    for (int64_t i = 0; i < n; i += 16) {
        Simd::store(out + i, Simd::mul(Simd::mul(Simd::load(x + i), inverse), Simd::load(weight + i)));
    }
}

// gate / (1 + e^-gate) * up, whole vectors: the caller's rows have room for the last one.
inline void swiglu(const float* gate, const float* up, int64_t n, float* out) {
    const Simd::V one = Simd::set1(1.0f);
    for (int64_t i = 0; i < n; i += 16) {
        const Simd::V g = Simd::load(gate + i);
        const Simd::V silu = Simd::div(g, Simd::add(one, exp(Simd::neg(g))));
        Simd::store(out + i, Simd::mul(silu, Simd::load(up + i)));
    }
}

// One group of 32 hidden columns of one tile, from its gates and ups into its panel while they are in
// the first-level cache. sums: [gate, gate, up, up][size][16].
inline void gate_tile(const float* sums, int rows, const Panel& p, int size) {
    const int64_t next = 16 * static_cast<int64_t>(size);
    alignas(64) float hidden[32];
    for (int r = 0; r < rows; r++) {
        const float* gate = sums + 16 * r;
        swiglu(gate, gate + 2 * next, 16, hidden);
        swiglu(gate + next, gate + 3 * next, 16, hidden + 16);
        quantise(hidden, 1, p, r, size);
    }
}

// 16 outputs of a low-rank pair: one chain over the rank in order, then y = fma(chain, scale, y).
template <int M>
void raise(const int8_t* codes, const float* scale, const float* u, int64_t stride, int64_t rank, int n,
           float* const* y) {
    Simd::V acc[M];
    for (int m = 0; m < M; m++) acc[m] = Simd::zero();
    constexpr int kAhead = 4096;  // bytes of codes: they are read once, like weights
    for (int64_t j = 0; j < rank; j++) {
        if (j % 4 == 0) Simd::prefetch(reinterpret_cast<const uint8_t*>(codes + 16 * j) + kAhead);
        const Simd::V code = Simd::load_i8(reinterpret_cast<const uint8_t*>(codes + 16 * j));
FREEHOLD_UNROLL
        for (int m = 0; m < M; m++) acc[m] = Simd::fma(Simd::set1(u[m * stride + j]), code, acc[m]);
    }
    const Simd::V s = Simd::load(scale);
    for (int m = 0; m < M; m++) {
        if (n == 16) {
            Simd::store(y[m], Simd::fma(acc[m], s, Simd::load(y[m])));
            continue;
        }
        alignas(64) float some[16] = {};
        for (int i = 0; i < n; i++) some[i] = y[m][i];
        Simd::store(some, Simd::fma(acc[m], s, Simd::load(some)));
        for (int i = 0; i < n; i++) y[m][i] = some[i];
    }
}

inline void rotate(const float* x, const float* cos, const float* sin, int half, float factor,
                   float* out) {
    for (int i = 0; i < half; i++) {
        const float a = x[i], b = x[i + half];
        const float turned_a = __builtin_fmaf(a, cos[i], -(b * sin[i]));
        const float turned_b = __builtin_fmaf(b, cos[i], a * sin[i]);
        out[i] = turned_a * factor;
        out[i + half] = turned_b * factor;
    }
}

inline uint64_t read(const uint8_t* p, size_t n) {
    Simd::I sum[4] = {Simd::izero(), Simd::izero(), Simd::izero(), Simd::izero()};
    for (size_t at = 0; at < n; at += 256) {
        Simd::prefetch(p + at + 4096);
        Simd::prefetch(p + at + 4160);
        Simd::prefetch(p + at + 4224);
        Simd::prefetch(p + at + 4288);
        for (size_t i = 0; i < 4; i++) sum[i] = Simd::iadd(sum[i], Simd::iload(p + at + 64 * i));
    }
    const Simd::I all = Simd::iadd(Simd::iadd(sum[0], sum[1]), Simd::iadd(sum[2], sum[3]));
    return static_cast<uint32_t>(Simd::isum(all));
}

}  // namespace
}  // namespace freehold

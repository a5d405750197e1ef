// Sixteen lanes in plain C++: the meaning of every other instruction set.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "../half.h"

#define FREEHOLD_UNROLL

namespace freehold {
namespace {

struct Simd {
    struct V { float at[16]; };
    struct I { int32_t at[16]; };
    struct W { uint8_t at[64]; };

    // Codes are unsigned and values signed.
    static constexpr int32_t kShift = 0;

    template <class T, class F>
    static T each(F f) {
        T out;
        for (int i = 0; i < 16; i++) out.at[i] = f(i);
        return out;
    }
    static V zero() { return set1(0); }
    static V set1(float x) { return each<V>([&](int) { return x; }); }
    static V load(const float* p) { return each<V>([&](int i) { return p[i]; }); }
    static void store(float* p, const V& x) { std::memcpy(p, x.at, 64); }
    static V load_f16(const uint8_t* p) {
        return each<V>([&](int i) { return half_at(p + 2 * i); });
    }
    static V load_bf16(const uint16_t* p) {
        return each<V>([&](int i) { return float_of_bits(static_cast<uint32_t>(p[i]) << 16); });
    }
    static V load_u8(const uint8_t* p) {
        return each<V>([&](int i) { return static_cast<float>(p[i]); });
    }
    static V load_i8(const uint8_t* p) {
        return each<V>([&](int i) { return static_cast<float>(static_cast<int8_t>(p[i])); });
    }

    static V add(const V& a, const V& b) { return each<V>([&](int i) { return a.at[i] + b.at[i]; }); }
    static V sub(const V& a, const V& b) { return each<V>([&](int i) { return a.at[i] - b.at[i]; }); }
    static V mul(const V& a, const V& b) { return each<V>([&](int i) { return a.at[i] * b.at[i]; }); }
    static V div(const V& a, const V& b) { return each<V>([&](int i) { return a.at[i] / b.at[i]; }); }
    static V fma(const V& a, const V& b, const V& c) {
        return each<V>([&](int i) { return __builtin_fmaf(a.at[i], b.at[i], c.at[i]); });
    }
    static V neg(const V& a) { return each<V>([&](int i) { return -a.at[i]; }); }
    static V max(const V& a, const V& b) {
        return each<V>([&](int i) { return a.at[i] > b.at[i] ? a.at[i] : b.at[i]; });
    }
    static V min(const V& a, const V& b) {
        return each<V>([&](int i) { return a.at[i] < b.at[i] ? a.at[i] : b.at[i]; });
    }
    static V less(const V& a, const V& b, const V& yes, const V& no) {
        return each<V>([&](int i) { return a.at[i] < b.at[i] ? yes.at[i] : no.at[i]; });
    }
    static float largest(const V& x) {
        float top = x.at[0];
        for (int i = 1; i < 16; i++) top = x.at[i] > top ? x.at[i] : top;
        return top;
    }
    // Lane i with i + 8, then + 4, + 2, + 1.
    static float tree_sum(V x) {
        for (int width = 8; width; width /= 2) {
            for (int i = 0; i < width; i++) x.at[i] = x.at[i] + x.at[i + width];
        }
        return x.at[0];
    }

    static I izero() { return iset1(0); }
    static I iload(const uint8_t* p) {
        I a;
        std::memcpy(a.at, p, 64);
        return a;
    }
    static I iset1(int32_t x) { return each<I>([&](int) { return x; }); }
    static I iadd(const I& a, const I& b) { return each<I>([&](int i) {
            return static_cast<int32_t>(static_cast<uint32_t>(a.at[i]) + static_cast<uint32_t>(b.at[i]));
        }); }
    template <int n>
    static I ishl(const I& a) {
        return each<I>([&](int i) { return static_cast<int32_t>(static_cast<uint32_t>(a.at[i]) << n); });
    }
    template <int n>
    static I ishr(const I& a) {
        return each<I>([&](int i) { return static_cast<int32_t>(static_cast<uint32_t>(a.at[i]) >> n); });
    }
    static I iand(const I& a, const I& b) { return each<I>([&](int i) { return a.at[i] & b.at[i]; }); }
    static I bits(const V& a) {
        return each<I>([&](int i) { return static_cast<int32_t>(bits_of_float(a.at[i])); });
    }
    static V of_bits(const I& a) {
        return each<V>([&](int i) { return float_of_bits(static_cast<uint32_t>(a.at[i])); });
    }
    static V to_float(const I& a) { return each<V>([&](int i) { return static_cast<float>(a.at[i]); }); }
    // To nearest, ties to even: adding 1.5 * 2^23 leaves no fraction bits. |a| < 2^22 is given.
    static I round(const V& a) {
        return each<I>([&](int i) {
            const float shifted = a.at[i] + 0x1.8p23f;
            return static_cast<int32_t>(shifted - 0x1.8p23f);
        });
    }
    // a * 2^n, n in the low bits of the float `shifted`
    static V scale2(const V& a, const V& shifted) {
        return each<V>([&](int i) {
            return float_of_bits(bits_of_float(a.at[i]) + (bits_of_float(shifted.at[i]) << 23));
        });
    }
    static void store_i8(int8_t* p, const I& a) {
        for (int i = 0; i < 16; i++) p[i] = static_cast<int8_t>(a.at[i]);
    }
    static void store_u16(uint16_t* p, const I& a) {
        for (int i = 0; i < 16; i++) p[i] = static_cast<uint16_t>(a.at[i]);
    }
    static int32_t isum(const I& a) {
        uint32_t sum = 0;
        for (int i = 0; i < 16; i++) sum += static_cast<uint32_t>(a.at[i]);
        return static_cast<int32_t>(sum);
    }
    static int32_t sum_codes(const I& a) { return isum(a); }
    static uint32_t max_magnitude(const V& a, const V& b) {
        uint32_t top = 0;
        for (int i = 0; i < 16; i++) {
            const uint32_t x = bits_of_float(a.at[i]) & INT32_MAX, y = bits_of_float(b.at[i]) & INT32_MAX;
            const uint32_t larger = x > y ? x : y;
            top = larger > top ? larger : top;
        }
        return top;
    }

    static W wload(const uint8_t* p) {
        W w;
        std::memcpy(w.at, p, 64);
        return w;
    }
    static void wstore(uint8_t* p, const W& w) { std::memcpy(p, w.at, 64); }
    static W low_nibbles(W w) {
        for (uint8_t& b : w.at) b &= 15;
        return w;
    }
    static W high_nibbles(W w) {
        for (uint8_t& b : w.at) b >>= 4;
        return w;
    }
    template <int left, int mask>
    static W insert(W w, const W& h) {
        for (int i = 0; i < 64; i++) {
            const unsigned moved = left >= 0 ? unsigned{h.at[i]} << (left >= 0 ? left : 0)
                                             : unsigned{h.at[i]} >> (left < 0 ? -left : 0);
            w.at[i] = static_cast<uint8_t>(w.at[i] | (moved & mask));
        }
        return w;
    }
    template <bool wide>
    static I dot(const I& acc, const W& codes, const int8_t* x4) {
        return each<I>([&](int i) {
            int32_t sum = acc.at[i];
            for (int c = 0; c < 4; c++) sum += codes.at[4 * i + c] * x4[c];
            return sum;
        });
    }
    static void prefetch(const uint8_t*) {}
};

}  // namespace
}  // namespace freehold

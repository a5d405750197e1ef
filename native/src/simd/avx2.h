// Sixteen lanes on AVX2 as two halves of eight; with AVX-VNNI where FREEHOLD_AVXVNNI is defined.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

// Sixteen vector registers: the compiler keeps what it can of the small arrays.
#define FREEHOLD_UNROLL _Pragma("GCC unroll 8")

namespace freehold {
namespace {

struct Simd {
    struct V { __m256 a, b; };   // lanes 0-7, lanes 8-15
    struct I { __m256i a, b; };
    struct W { __m256i a, b; };  // rows 0-7, rows 8-15

    // Codes are unsigned and values signed.
    static constexpr int32_t kShift = 0;

    static V zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
    static V set1(float x) {
        const __m256 v = _mm256_set1_ps(x);
        return {v, v};
    }
    static V load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
    static void store(float* p, V x) {
        _mm256_storeu_ps(p, x.a);
        _mm256_storeu_ps(p + 8, x.b);
    }
    static __m128i load16(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
    static __m128i load8(const void* p) { return _mm_loadl_epi64(static_cast<const __m128i*>(p)); }
    static V load_f16(const uint8_t* p) {
        return {_mm256_cvtph_ps(load16(p)), _mm256_cvtph_ps(load16(p + 16))};
    }
    static V load_bf16(const uint16_t* p) {
        return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load16(p)), 16)),
                _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load16(p + 8)), 16))};
    }
    static V load_u8(const uint8_t* p) {
        return {_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(load8(p))),
                _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(load8(p + 8)))};
    }
    static V load_i8(const uint8_t* p) {
        return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(load8(p))),
                _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(load8(p + 8)))};
    }

    static V add(V x, V y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
    static V sub(V x, V y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
    static V mul(V x, V y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
    static V div(V x, V y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
    static V fma(V x, V y, V z) {
        return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
    }
    static V neg(V x) {
        const __m256 sign = _mm256_set1_ps(-0.0f);
        return {_mm256_xor_ps(x.a, sign), _mm256_xor_ps(x.b, sign)};
    }
    // x > y ? x : y, so that a NaN in either gives y
    static V max(V x, V y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
    static V min(V x, V y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
    static V less(V x, V y, V yes, V no) {
        return {_mm256_blendv_ps(no.a, yes.a, _mm256_cmp_ps(x.a, y.a, _CMP_LT_OQ)),
                _mm256_blendv_ps(no.b, yes.b, _mm256_cmp_ps(x.b, y.b, _CMP_LT_OQ))};
    }
    static float largest(V x) {
        const __m256 eight = _mm256_max_ps(x.a, x.b);
        const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
        const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
        return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
    }
    // Lane i with i + 8, then + 4, + 2, + 1.
    static float tree_sum(V x) {
        const __m256 eight = _mm256_add_ps(x.a, x.b);
        const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
        const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
    }

    static I izero() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
    static I iload(const uint8_t* p) {
        const W w = wload(p);
        return {w.a, w.b};
    }
    static I iset1(int32_t x) {
        const __m256i v = _mm256_set1_epi32(x);
        return {v, v};
    }
    static I iadd(I x, I y) { return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)}; }
    template <int n>
    static I ishl(I x) { return {_mm256_slli_epi32(x.a, n), _mm256_slli_epi32(x.b, n)}; }
    template <int n>
    static I ishr(I x) { return {_mm256_srli_epi32(x.a, n), _mm256_srli_epi32(x.b, n)}; }
    static I iand(I x, I y) { return {_mm256_and_si256(x.a, y.a), _mm256_and_si256(x.b, y.b)}; }
    static I bits(V x) { return {_mm256_castps_si256(x.a), _mm256_castps_si256(x.b)}; }
    static V of_bits(I x) { return {_mm256_castsi256_ps(x.a), _mm256_castsi256_ps(x.b)}; }
    static V to_float(I x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
    static I round(V x) { return {_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)}; }
    // x * 2^n, n in the low bits of the float `shifted`
    static V scale2(V x, V shifted) {
        const auto half = [](__m256 v, __m256 s) {
            const __m256i n = _mm256_slli_epi32(_mm256_castps_si256(s), 23);
            return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(v), n));
        };
        return {half(x.a, shifted.a), half(x.b, shifted.b)};
    }
    static void store_i8(int8_t* p, I x) {
        // Packing works within 128-bit lanes: 64-bit quarters come out as 0 2 1 3.
        const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(x.a, x.b), 0xd8);
        const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(words),
                                              _mm256_extracti128_si256(words, 1));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
    }
    // Numbers below 2^16.
    static void store_u16(uint16_t* p, I x) {
        const __m256i words = _mm256_permute4x64_epi64(_mm256_packus_epi32(x.a, x.b), 0xd8);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), words);
    }
    static int32_t isum(I x) {
        const __m256i eight = _mm256_add_epi32(x.a, x.b);
        const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(eight),
                                           _mm256_extracti128_si256(eight, 1));
        const __m128i two = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
        return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 0xb1)));
    }
    static int32_t sum_codes(I x) { return isum(x); }
    static uint32_t max_magnitude(V x, V y) {
        const __m256i m = _mm256_set1_epi32(INT32_MAX);
        const auto bits = [m](__m256 v) { return _mm256_and_si256(_mm256_castps_si256(v), m); };
        const __m256i eight = _mm256_max_epi32(_mm256_max_epi32(bits(x.a), bits(x.b)),
                                               _mm256_max_epi32(bits(y.a), bits(y.b)));
        const __m128i four = _mm_max_epi32(_mm256_castsi256_si128(eight),
                                           _mm256_extracti128_si256(eight, 1));
        const __m128i two = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4e));
        return static_cast<uint32_t>(
            _mm_cvtsi128_si32(_mm_max_epi32(two, _mm_shuffle_epi32(two, 0xb1))));
    }

    static W wload(const uint8_t* p) {
        return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)),
                _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 32))};
    }
    static void wstore(uint8_t* p, W w) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), w.a);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 32), w.b);
    }
    static W low_nibbles(W w) {
        const __m256i m = _mm256_set1_epi8(15);
        return {_mm256_and_si256(w.a, m), _mm256_and_si256(w.b, m)};
    }
    static W high_nibbles(W w) {
        return low_nibbles({_mm256_srli_epi16(w.a, 4), _mm256_srli_epi16(w.b, 4)});
    }
    // w with the bits of h, moved left (right where negative), that fall under mask
    template <int left, int mask>
    static W insert(W w, W h) {
        const auto half = [](__m256i codes, __m256i bits) {
            const __m256i moved = left >= 0 ? _mm256_slli_epi16(bits, left >= 0 ? left : 0)
                                            : _mm256_srli_epi16(bits, left < 0 ? -left : 0);
            return _mm256_or_si256(codes, _mm256_and_si256(moved, _mm256_set1_epi8(mask)));
        };
        return {half(w.a, h.a), half(w.b, h.b)};
    }
    // Per row, the four codes times four activations. wide: codes may exceed 127.
    template <bool wide>
    static I dot(I acc, W codes, const int8_t* x4) {
        int32_t word;
        std::memcpy(&word, x4, 4);
        const __m256i x = _mm256_set1_epi32(word);
        return {dot_half<wide>(acc.a, codes.a, x), dot_half<wide>(acc.b, codes.b, x)};
    }
    template <bool wide>
    static __m256i dot_half(__m256i acc, __m256i codes, __m256i x) {
#ifdef FREEHOLD_AVXVNNI
        return _mm256_dpbusd_avx_epi32(acc, codes, x);
#else
        if constexpr (wide) {
            // Sums of two 8-bit products saturate at 16 bits, so even and odd bytes go apart.
            const __m256i even = _mm256_madd_epi16(_mm256_and_si256(codes, _mm256_set1_epi16(255)),
                                                   _mm256_srai_epi16(_mm256_slli_epi16(x, 8), 8));
            const __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(codes, 8), _mm256_srai_epi16(x, 8));
            return _mm256_add_epi32(acc, _mm256_add_epi32(even, odd));
        }
        // Codes up to 63: two products are at most 2 * 63 * 127 and fit.
        const __m256i pairs = _mm256_maddubs_epi16(codes, x);
        return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
#endif
    }
    static void prefetch(const uint8_t* p) {
        _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T0);
    }
};

}  // namespace
}  // namespace freehold

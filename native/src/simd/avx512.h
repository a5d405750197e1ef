// Sixteen lanes on AVX-512 with VNNI.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

// Loops over register arrays must be unrolled, or the arrays live in memory.
#define FREEHOLD_UNROLL _Pragma("GCC unroll 16")

namespace freehold {
namespace {

struct Simd {
    using V = __m512;   // 16 floats
    using I = __m512i;  // 16 int32
    using W = __m512i;  // 64 bytes of codes: 16 rows of 4 columns

    // The instruction multiplies unsigned by signed bytes. Values are stored 128 too large for unpacked
    // codes, which then are the signed ones: what is to be taken off again is the same for each token.
    static constexpr int32_t kShift = 128;

    static V zero() { return _mm512_setzero_ps(); }
    static V set1(float x) { return _mm512_set1_ps(x); }
    static V load(const float* p) { return _mm512_loadu_ps(p); }
    static void store(float* p, V x) { _mm512_storeu_ps(p, x); }
    static V load_f16(const uint8_t* p) {
        return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    }
    static V load_bf16(const uint16_t* p) {
        const __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
        return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
    }
    static V load_u8(const uint8_t* p) {
        const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
        return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(x));
    }
    static V load_i8(const uint8_t* p) {
        const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
        return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(x));
    }

    static V add(V a, V b) { return _mm512_add_ps(a, b); }
    static V sub(V a, V b) { return _mm512_sub_ps(a, b); }
    static V mul(V a, V b) { return _mm512_mul_ps(a, b); }
    static V div(V a, V b) { return _mm512_div_ps(a, b); }
    static V fma(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
    static V neg(V a) {
        return _mm512_castsi512_ps(
            _mm512_xor_si512(_mm512_castps_si512(a), _mm512_set1_epi32(INT32_MIN)));
    }
    // a > b ? a : b, so that a NaN in either gives b
    static V max(V a, V b) { return _mm512_max_ps(a, b); }
    static V min(V a, V b) { return _mm512_min_ps(a, b); }
    static V less(V a, V b, V yes, V no) {
        return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), no, yes);
    }
    static float largest(V x) { return _mm512_reduce_max_ps(x); }
    // Lane i with i + 8, then + 4, + 2, + 1.
    static float tree_sum(V x) {
        const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
        const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
        const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
    }

    static I izero() { return _mm512_setzero_si512(); }
    static I iload(const uint8_t* p) { return _mm512_loadu_si512(p); }
    static void istore(uint8_t* p, I a) { _mm512_storeu_si512(p, a); }
    static I iset1(int32_t x) { return _mm512_set1_epi32(x); }
    static I iadd(I a, I b) { return _mm512_add_epi32(a, b); }
    template <int n>
    static I ishl(I a) { return _mm512_slli_epi32(a, n); }
    template <int n>
    static I ishr(I a) { return _mm512_srli_epi32(a, n); }
    static I iand(I a, I b) { return _mm512_and_si512(a, b); }
    static I bits(V a) { return _mm512_castps_si512(a); }
    static V of_bits(I a) { return _mm512_castsi512_ps(a); }
    static V to_float(I a) { return _mm512_cvtepi32_ps(a); }
    static I round(V a) { return _mm512_cvtps_epi32(a); }
    // a * 2^n, n in the low bits of the float `shifted`
    static V scale2(V a, V shifted) {
        const I n = _mm512_slli_epi32(_mm512_castps_si512(shifted), 23);
        return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(a), n));
    }
    static void store_i8(int8_t* p, I a) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(a));
    }
    static void store_u16(uint16_t* p, I a) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(a));
    }
    static int32_t isum(I a) { return _mm512_reduce_add_epi32(a); }
    // The same of numbers that fit into 8 bits.
    static int32_t sum_codes(I a) {
        const __m128i moved = _mm_xor_si128(_mm512_cvtepi32_epi8(a), _mm_set1_epi8(-128));
        const __m128i two = _mm_sad_epu8(moved, _mm_setzero_si128());
        return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_unpackhi_epi64(two, two))) - 16 * 128;
    }
    // Largest magnitude of a and b as float bits, which order like integers; NaN above all.
    static uint32_t max_magnitude(V a, V b) {
        const I m = _mm512_set1_epi32(INT32_MAX);
        return _mm512_reduce_max_epu32(_mm512_max_epu32(_mm512_and_si512(_mm512_castps_si512(a), m),
                                                        _mm512_and_si512(_mm512_castps_si512(b), m)));
    }

    static W wload(const uint8_t* p) { return _mm512_loadu_si512(p); }
    static void wstore(uint8_t* p, W w) { _mm512_storeu_si512(p, w); }
    static W low_nibbles(W w) { return _mm512_and_si512(w, _mm512_set1_epi8(15)); }
    static W high_nibbles(W w) { return low_nibbles(_mm512_srli_epi16(w, 4)); }
    // w with the bits of h, moved left (right where negative), that fall under mask
    template <int left, int mask>
    static W insert(W w, W h) {
        const W moved = left >= 0 ? _mm512_slli_epi16(h, left >= 0 ? left : 0)
                                  : _mm512_srli_epi16(h, left < 0 ? -left : 0);
        // w | (moved & mask)
        return _mm512_ternarylogic_epi32(w, moved, _mm512_set1_epi8(mask), 0xf8);
    }
    // Per row, the four codes times four activations. wide: codes may exceed 127.
    template <bool wide>
    static I dot(I acc, W codes, const int8_t* x4) {
        int32_t x;
        std::memcpy(&x, x4, 4);
        return _mm512_dpbusd_epi32(acc, codes, _mm512_set1_epi32(x));
    }
#ifdef __AVX512BF16__
    // Sixteen pairs of bfloat16, the even one in the low half.
    using P = __m512bh;
    static P load_pairs(const uint8_t* p) { return (P)_mm512_loadu_si512(p); }
    static P only(I mask, const uint8_t* p) { return (P)iand(iload(p), mask); }
    static P set1_pairs(uint32_t pair) { return (P)_mm512_set1_epi32(static_cast<int32_t>(pair)); }
    static void store_weights(uint16_t* p, V x) {
        const __m256bh weights = _mm512_cvtneps_pbh(x);
        std::memcpy(p, &weights, 32);
    }
    static V dot_pairs(V acc, P a, P b) { return _mm512_dpbf16_ps(acc, a, b); }
#endif
    static W wsub(W w, int8_t x) { return _mm512_sub_epi8(w, _mm512_set1_epi8(x)); }
    // Per row, four signed codes times four shifted values.
    static I dot_shifted(I acc, W codes, const int8_t* x4) {
        int32_t x;
        std::memcpy(&x, x4, 4);
        return _mm512_dpbusd_epi32(acc, _mm512_set1_epi32(x), codes);
    }
    // acc - 128 * the sum of each row's four codes
    static I unshift(I acc, W codes) {
        const I sum = _mm512_dpbusd_epi32(izero(), _mm512_set1_epi8(-128), codes);
        return _mm512_sub_epi32(acc, sum);
    }
    static void prefetch(const uint8_t* p) {
        _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T0);
    }
};

}  // namespace
}  // namespace freehold

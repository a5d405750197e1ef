// Sixteen lanes on AArch64 with the dot-product extension, as four quarters of four.
#pragma once

#include <arm_neon.h>

#include <cstdint>
#include <cstring>

#define FREEHOLD_UNROLL _Pragma("GCC unroll 8")

namespace freehold {
namespace {

struct Simd {
    struct V { float32x4_t q[4]; };  // lanes 4i .. 4i + 3
    struct I { int32x4_t q[4]; };
    struct W { uint8x16_t q[4]; };   // rows 4i .. 4i + 3

    // Codes are unsigned and values signed.
    static constexpr int32_t kShift = 0;

    template <class T, class F>
    static T each(F f) {
        return {f(0), f(1), f(2), f(3)};
    }

    static V zero() { return set1(0); }
    static V set1(float x) { return each<V>([&](int) { return vdupq_n_f32(x); }); }
    static V load(const float* p) { return each<V>([&](int i) { return vld1q_f32(p + 4 * i); }); }
    static void store(float* p, V x) {
        for (int i = 0; i < 4; i++) vst1q_f32(p + 4 * i, x.q[i]);
    }
    static V load_f16(const uint8_t* p) {
        return each<V>([&](int i) {
            uint16x4_t bits;
            std::memcpy(&bits, p + 8 * i, 8);
            return vcvt_f32_f16(vreinterpret_f16_u16(bits));
        });
    }
    static V load_bf16(const uint16_t* p) {
        return each<V>([&](int i) {
            return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p + 4 * i), 16));
        });
    }
    static V load_u8(const uint8_t* p) {
        const uint8x16_t x = vld1q_u8(p);
        const uint16x8_t low = vmovl_u8(vget_low_u8(x)), high = vmovl_u8(vget_high_u8(x));
        return {vcvtq_f32_u32(vmovl_u16(vget_low_u16(low))),
                vcvtq_f32_u32(vmovl_u16(vget_high_u16(low))),
                vcvtq_f32_u32(vmovl_u16(vget_low_u16(high))),
                vcvtq_f32_u32(vmovl_u16(vget_high_u16(high)))};
    }
    static V load_i8(const uint8_t* p) {
        const int8x16_t x = vreinterpretq_s8_u8(vld1q_u8(p));
        const int16x8_t low = vmovl_s8(vget_low_s8(x)), high = vmovl_s8(vget_high_s8(x));
        return {vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))),
                vcvtq_f32_s32(vmovl_s16(vget_high_s16(low))),
                vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))),
                vcvtq_f32_s32(vmovl_s16(vget_high_s16(high)))};
    }

    static V add(V a, V b) { return each<V>([&](int i) { return vaddq_f32(a.q[i], b.q[i]); }); }
    static V sub(V a, V b) { return each<V>([&](int i) { return vsubq_f32(a.q[i], b.q[i]); }); }
    static V mul(V a, V b) { return each<V>([&](int i) { return vmulq_f32(a.q[i], b.q[i]); }); }
    static V div(V a, V b) { return each<V>([&](int i) { return vdivq_f32(a.q[i], b.q[i]); }); }
    static V fma(V a, V b, V c) {
        return each<V>([&](int i) { return vfmaq_f32(c.q[i], a.q[i], b.q[i]); });
    }
    static V neg(V a) { return each<V>([&](int i) { return vnegq_f32(a.q[i]); }); }
    // a > b ? a : b, so that a NaN in either gives b
    static V max(V a, V b) {
        return each<V>([&](int i) { return vbslq_f32(vcgtq_f32(a.q[i], b.q[i]), a.q[i], b.q[i]); });
    }
    static V min(V a, V b) {
        return each<V>([&](int i) { return vbslq_f32(vcltq_f32(a.q[i], b.q[i]), a.q[i], b.q[i]); });
    }
    static V less(V a, V b, V yes, V no) {
        return each<V>([&](int i) { return vbslq_f32(vcltq_f32(a.q[i], b.q[i]), yes.q[i], no.q[i]); });
    }
    static float largest(V x) {
        return vmaxvq_f32(vmaxq_f32(vmaxq_f32(x.q[0], x.q[1]), vmaxq_f32(x.q[2], x.q[3])));
    }
    // Lane i with i + 8, then + 4, + 2, + 1.
    static float tree_sum(V x) {
        const float32x4_t four = vaddq_f32(vaddq_f32(x.q[0], x.q[2]), vaddq_f32(x.q[1], x.q[3]));
        const float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
        return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
    }

    static I izero() { return iset1(0); }
    static I iload(const uint8_t* p) {
        return each<I>([&](int i) { return vreinterpretq_s32_u8(vld1q_u8(p + 16 * i)); });
    }
    static I iset1(int32_t x) { return each<I>([&](int) { return vdupq_n_s32(x); }); }
    static I iadd(I a, I b) { return each<I>([&](int i) { return vaddq_s32(a.q[i], b.q[i]); }); }
    template <int n>
    static I ishl(I a) { return each<I>([&](int i) { return vshlq_n_s32(a.q[i], n); }); }
    template <int n>
    static I ishr(I a) {
        return each<I>([&](int i) {
            return vreinterpretq_s32_u32(vshrq_n_u32(vreinterpretq_u32_s32(a.q[i]), n));
        });
    }
    static I iand(I a, I b) { return each<I>([&](int i) { return vandq_s32(a.q[i], b.q[i]); }); }
    static I bits(V a) { return each<I>([&](int i) { return vreinterpretq_s32_f32(a.q[i]); }); }
    static V of_bits(I a) { return each<V>([&](int i) { return vreinterpretq_f32_s32(a.q[i]); }); }
    static V to_float(I a) { return each<V>([&](int i) { return vcvtq_f32_s32(a.q[i]); }); }
    static I round(V a) { return each<I>([&](int i) { return vcvtnq_s32_f32(a.q[i]); }); }
    // a * 2^n, n in the low bits of the float `shifted`
    static V scale2(V a, V shifted) {
        return each<V>([&](int i) {
            const int32x4_t n = vshlq_n_s32(vreinterpretq_s32_f32(shifted.q[i]), 23);
            return vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(a.q[i]), n));
        });
    }
    static void store_i8(int8_t* p, I a) {
        const int16x8_t low = vcombine_s16(vmovn_s32(a.q[0]), vmovn_s32(a.q[1]));
        const int16x8_t high = vcombine_s16(vmovn_s32(a.q[2]), vmovn_s32(a.q[3]));
        vst1q_s8(p, vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
    }
    static void store_u16(uint16_t* p, I a) {
        for (int i = 0; i < 4; i++) vst1_u16(p + 4 * i, vmovn_u32(vreinterpretq_u32_s32(a.q[i])));
    }
    static int32_t isum(I a) {
        return vaddvq_s32(vaddq_s32(vaddq_s32(a.q[0], a.q[1]), vaddq_s32(a.q[2], a.q[3])));
    }
    static int32_t sum_codes(I a) { return isum(a); }
    static uint32_t max_magnitude(V a, V b) {
        uint32x4_t top = vdupq_n_u32(0);
        for (int i = 0; i < 4; i++) {
            const uint32x4_t m = vdupq_n_u32(INT32_MAX);
            top = vmaxq_u32(top, vandq_u32(vreinterpretq_u32_f32(a.q[i]), m));
            top = vmaxq_u32(top, vandq_u32(vreinterpretq_u32_f32(b.q[i]), m));
        }
        return vmaxvq_u32(top);
    }

    static W wload(const uint8_t* p) { return each<W>([&](int i) { return vld1q_u8(p + 16 * i); }); }
    static void wstore(uint8_t* p, W w) {
        for (int i = 0; i < 4; i++) vst1q_u8(p + 16 * i, w.q[i]);
    }
    static W low_nibbles(W w) {
        return each<W>([&](int i) { return vandq_u8(w.q[i], vdupq_n_u8(15)); });
    }
    static W high_nibbles(W w) {
        return each<W>([&](int i) { return vshrq_n_u8(w.q[i], 4); });
    }
    // w with the bits of h, moved left (right where negative), that fall under mask
    template <int left, int mask>
    static W insert(W w, W h) {
        return each<W>([&](int i) {
            const uint8x16_t moved = vshlq_u8(h.q[i], vdupq_n_s8(left));
            return vorrq_u8(w.q[i], vandq_u8(moved, vdupq_n_u8(mask)));
        });
    }
    // Per row, the four codes times four activations. wide: codes may exceed 127.
    template <bool wide>
    static I dot(I acc, W codes, const int8_t* x4) {
        int32_t word;
        std::memcpy(&word, x4, 4);
        const int8x16_t x = vreinterpretq_s8_s32(vdupq_n_s32(word));
        return each<I>([&](int i) {
            if constexpr (wide) {
                // code = (code - 128) + 64 + 64: three signed products that are exact in any order
                const int8x16_t low = vreinterpretq_s8_u8(veorq_u8(codes.q[i], vdupq_n_u8(128)));
                int32x4_t sum = vdotq_s32(acc.q[i], low, x);
                sum = vdotq_s32(sum, vdupq_n_s8(64), x);
                return vdotq_s32(sum, vdupq_n_s8(64), x);
            }
            return vdotq_s32(acc.q[i], vreinterpretq_s8_u8(codes.q[i]), x);
        });
    }
    static void prefetch(const uint8_t* p) { __builtin_prefetch(p); }
};

}  // namespace
}  // namespace freehold

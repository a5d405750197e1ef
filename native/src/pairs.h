// Products of bfloat16 pairs: acc + odd * odd', then + even * even', each rounded once.
//
// This is what AVX-512's VDPBF16PS does (Intel SDM), but for subnormal numbers, which it takes for
// zero. Ours never are subnormal: what is multiplied was cut below kSmallest, so that every product is
// a multiple of 2^-114, and so is every sum.
// Included by each instruction set's own file, after its Simd.
#pragma once

#include "kernels.h"

namespace freehold {
namespace {

#ifdef __AVX512BF16__
using Pairs = Simd;
#else
struct Pairs {
    struct P {
        Simd::V odd, even;
    };
    static P split(Simd::I x) {
        return {Simd::of_bits(Simd::iand(x, Simd::iset1(static_cast<int32_t>(0xffff0000)))),
                Simd::of_bits(Simd::ishl<16>(x))};
    }
    static P load_pairs(const uint8_t* p) { return split(Simd::iload(p)); }
    static P only(Simd::I mask, const uint8_t* p) { return split(Simd::iand(Simd::iload(p), mask)); }
    static P set1_pairs(uint32_t pair) { return split(Simd::iset1(static_cast<int32_t>(pair))); }
    static Simd::V dot_pairs(Simd::V acc, const P& a, const P& b) {
        return Simd::fma(a.even, b.even, Simd::fma(a.odd, b.odd, acc));
    }
    // Weights from 0 to 1 (or NaN) as bfloat16, to nearest even.
    static void store_weights(uint16_t* p, Simd::V x) {
        // whatever a NaN holds, it stays one
        const Simd::I bits = Simd::bits(Simd::less(x, Simd::set1(2.0f), x, Simd::set1(__builtin_nanf(""))));
        const Simd::I odd = Simd::iand(Simd::ishr<16>(bits), Simd::iset1(1));
        Simd::store_u16(p, Simd::ishr<16>(Simd::iadd(bits, Simd::iadd(odd, Simd::iset1(0x7fff)))));
    }
};
#endif

}  // namespace
}  // namespace freehold

// IEEE 754 half and bfloat16, exact and in plain C++.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels.h"

namespace freehold {

inline float float_of_bits(uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}

inline uint32_t bits_of_float(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    return bits;
}

inline float half_to_float(uint16_t h) {
    const uint32_t sign = static_cast<uint32_t>(h & 0x8000) << 16;
    const uint32_t exponent = h >> 10 & 31, fraction = h & 1023;
    if (exponent == 31) return float_of_bits(sign | 0x7f800000 | fraction << 13);
    if (exponent) return float_of_bits(sign | (exponent + 112) << 23 | fraction << 13);
    return float_of_bits(sign | bits_of_float(static_cast<float>(fraction) * 0x1p-24f));
}

inline float half_at(const uint8_t* p) {
    uint16_t h;
    std::memcpy(&h, p, 2);
    return half_to_float(h);
}

// To nearest, ties to even; a NaN stays one.
inline uint16_t float_to_bf16(float x) {
    const uint32_t bits = bits_of_float(x);
    if (x != x) return static_cast<uint16_t>(bits >> 16 | 64);
    return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// The same; magnitudes below kSmallest become zero.
inline uint16_t cut_to_bf16(float x) {
    const bool small = x > -kSmallest && x < kSmallest;
    return float_to_bf16(small ? 0.0f : x);
}

}  // namespace freehold

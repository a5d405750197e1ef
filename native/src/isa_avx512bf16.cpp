#include "simd/avx512.h"

#include "half.h"
#include "table.h"

namespace freehold {
const Kernels& kernels_avx512bf16() {
    static const Kernels table = make_table("avx512bf16");
    return table;
}

// Manuals leave room for how a processor rounds between a pair's two products; our arithmetic does not.
bool multiplies_pairs_as_specified() {
    uint32_t state = 1;
    const auto next = [&state] { return state = state * 1664525u + 1013904223u, state >> 8; };
    // bfloat16 of any sign and fraction, from 2^-50 to 2^13
    const auto number = [&] { return (next() & 0x807fu) | (77 + next() % 64) << 7; };
    for (int round = 0; round < 64; round++) {
        alignas(64) uint32_t a[16], b[16];
        alignas(64) float sum[16], got[16];
        for (int i = 0; i < 16; i++) {
            a[i] = number() | number() << 16;
            b[i] = number() | number() << 16;
            sum[i] = float_of_bits(number() << 16 | (next() & 0xffff));
        }
        Simd::store(got, Simd::dot_pairs(Simd::load(sum), Simd::load_pairs(reinterpret_cast<uint8_t*>(a)),
                                         Simd::load_pairs(reinterpret_cast<uint8_t*>(b))));
        for (int i = 0; i < 16; i++) {
            const auto odd = [](uint32_t x) { return float_of_bits(x & 0xffff0000u); };
            const auto even = [](uint32_t x) { return float_of_bits(x << 16); };
            const float first = __builtin_fmaf(odd(a[i]), odd(b[i]), sum[i]);
            const float want = __builtin_fmaf(even(a[i]), even(b[i]), first);
            if (std::memcmp(&got[i], &want, 4)) return false;
        }
    }
    return true;
}
}  // namespace freehold

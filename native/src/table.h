// Fills one instruction set's table. Included last by its own file.
#pragma once

#include "attend.h"
#include "elementwise.h"
#include "linear.h"

namespace freehold {
namespace {

template <Format F>
void fill_format(Kernels& k) {
    constexpr int f = static_cast<int>(F);
    k.direct[f][0] = direct<F, 1>;
    k.direct[f][1] = direct<F, 2>;
    k.direct[f][2] = direct<F, 3>;
    k.direct[f][3] = direct<F, 4>;
    k.direct[f][4] = direct<F, 5>;
    k.direct[f][5] = direct<F, 6>;
    k.direct[f][6] = direct<F, 7>;
    k.direct[f][7] = direct<F, 8>;
    k.unpack[f] = unpack<F>;
    k.unpacked[f][0] = unpacked<F, 1>;
    k.unpacked[f][1] = unpacked<F, 2>;
    k.unpacked[f][3] = unpacked<F, 4>;
    k.unpacked[f][7] = unpacked<F, 8>;
    k.unpacked[f][8] = unpacked<F, 16>;
}

template <class T>
void fill_attend(Kernels& k, KvType type) {
    k.attend[static_cast<int>(type)] = attend<T>;
    k.attend_parts[static_cast<int>(type)] = attend_parts<T>;
}

Kernels make_table(const char* name) {
    Kernels k{};
    k.name = name;
    k.shift = Simd::kShift;
    fill_format<Format::q4_0>(k);
    fill_format<Format::q4_1>(k);
    fill_format<Format::q5_0>(k);
    fill_format<Format::q5_1>(k);
    fill_format<Format::q8_0>(k);
    fill_format<Format::q4_k>(k);
    fill_format<Format::q5_k>(k);
    fill_format<Format::q6_k>(k);
    k.quantise = quantise;
    k.rms_norm = rms_norm;
    k.swiglu = swiglu;
    k.gate_tile = gate_tile;
    k.raise[0] = raise<1>;
    k.raise[1] = raise<2>;
    k.raise[2] = raise<3>;
    k.raise[3] = raise<4>;
    k.raise[4] = raise<5>;
    k.raise[5] = raise<6>;
    k.raise[6] = raise<7>;
    k.raise[7] = raise<8>;
    k.rotate = rotate;
    fill_attend<float>(k, KvType::f32);
    fill_attend<uint16_t>(k, KvType::bf16);
    fill_attend<int8_t>(k, KvType::i8);
    k.merge_parts = merge_parts;
    k.read = read;
    return k;
}

}  // namespace
}  // namespace freehold

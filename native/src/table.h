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
    k.few[f][0] = few<F, 1>;
    k.few[f][1] = few<F, 2>;
    k.few[f][2] = few<F, 3>;
    k.few[f][3] = few<F, 4>;
    k.many[f] = many<F>;
    k.unpack[f] = unpack<F>;
    k.unpacked[f] = unpacked<F>;
}

template <class T>
void fill_attend(Kernels& k, KvType type) {
    k.attend[static_cast<int>(type)] = attend<T>;
    k.attend_parts[static_cast<int>(type)] = attend_parts<T>;
}

Kernels make_table(const char* name) {
    Kernels k{};
    k.name = name;
    k.blocks = Simd::kBlocks;
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

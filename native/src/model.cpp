#include "model.h"

#include <algorithm>
#include <cstring>

#include "half.h"

namespace freehold {

const Segment& Linear::segment_of(int64_t block) const {
    const auto after = std::upper_bound(
        segments.begin(), segments.end(), block,
        [](int64_t b, const Segment& s) { return b < s.first_block; });
    return *(after - 1);
}

void Linear::add(Format format, int64_t n, int64_t supers, const uint8_t* data,
                 std::shared_ptr<void> owner) {
    const Segment s{format, n, rows, blocks, supers, data};
    segments.push_back(s);
    owners.push_back(std::move(owner));
    cols = supers * layout_of(format).super_cols();
    groups = cols / kTileCols;
    rows += n;
    blocks += s.blocks();
    nbytes += s.stride() * static_cast<size_t>(s.blocks());
}

void Linear::set_bias(const float* values) {
    if (!values) return;
    bias.assign(values, values + rows);
    nbytes += 4 * bias.size();
}

void LowRank::add(int64_t out, int64_t first, const int8_t* values, const float* factors, int64_t rows,
                  int64_t rank) {
    Side side{out, rows, first, rank, {}, {}};
    const auto padded = static_cast<size_t>(side.blocks() * kBlockRows);
    side.codes.assign(padded * static_cast<size_t>(rank), 0);
    side.scale.assign(padded, 0);
    std::copy(factors, factors + rows, side.scale.begin());
    for (int64_t row = 0; row < rows; row++) {
        const int64_t block = row / kBlockRows, lane = row % kBlockRows;
        for (int64_t j = 0; j < rank; j++) {
            side.codes[static_cast<size_t>((block * rank + j) * kBlockRows + lane)] = values[row * rank + j];
        }
    }
    nbytes += padded * static_cast<size_t>(rank + 4);
    sides.push_back(std::move(side));
}

KvCache::KvCache(int layers_, int64_t pages_, int page_size_, int heads_, int dim_, KvType type_)
    : layers(layers_),
      page_size(page_size_),
      heads(heads_),
      dim(dim_),
      padded_dim((dim_ + 15) / 16 * 16),
      pages(pages_),
      type(type_),
      k_group(key_bytes(type_, static_cast<size_t>(dim_))),
      v_group(value_bytes(type_, static_cast<size_t>(padded_dim))),
      k_head(static_cast<size_t>(page_size_ / 16) * k_group),
      v_head(static_cast<size_t>(page_size_ / 16) * v_group),
      k_page(static_cast<size_t>(layers_) * static_cast<size_t>(heads_) * k_head),
      v_page(static_cast<size_t>(layers_) * static_cast<size_t>(heads_) * v_head),
      k_(static_cast<size_t>(pages_) * k_page),
      v_(static_cast<size_t>(pages_) * v_page) {}

void KvCache::copy_page(int64_t from, int64_t to) {
    const auto copy = [&](Memory& memory, size_t bytes) {
        std::memcpy(memory.data() + static_cast<size_t>(to) * bytes,
                    memory.data() + static_cast<size_t>(from) * bytes, bytes);
    };
    if (from == to) return;
    copy(k_, k_page);
    copy(v_, v_page);
}

const uint8_t* KvCache::keys(int layer, int head) const {
    return k_.data() + static_cast<size_t>(layer * heads + head) * k_head;
}

const uint8_t* KvCache::values(int layer, int head) const {
    return v_.data() + static_cast<size_t>(layer * heads + head) * v_head;
}

namespace {

void write_floats(uint8_t* keys, uint8_t* values, int slot, int dim, int padded, const float* k,
                  const float* v) {
    float* column = reinterpret_cast<float*>(keys) + slot;
    float* row = reinterpret_cast<float*>(values) + slot * padded;
    for (int e = 0; e < dim; e++) {
        column[16 * e] = k[e];
        row[e] = v[e];
    }
}

void write_pairs(uint8_t* keys, uint8_t* values, int slot, int dim, int padded, const float* k,
                 const float* v) {
    auto* column = reinterpret_cast<uint16_t*>(keys) + 2 * slot;
    auto* row = reinterpret_cast<uint16_t*>(values) + slot / 2 * 2 * padded + slot % 2;
    for (int e = 0; e < dim; e += 2) {
        column[16 * e] = cut_to_bf16(k[e]);
        column[16 * e + 1] = cut_to_bf16(k[e + 1]);
    }
    for (int e = 0; e < dim; e++) row[2 * e] = cut_to_bf16(v[e]);
}

// The scale of numbers whose largest magnitude is `top`, as bfloat16. Rounding it costs nothing: codes
// are taken for the rounded scale, and the largest is then at most 127 (1 + 2^-8), which still rounds
// to 127.
uint16_t scale_of(float top) {
    if (top < 0x1p-100f) return 0;
    if (!(top < float_of_bits(0x7f800000))) return 0x7fc0;  // infinity or NaN: NaN
    return float_to_bf16(top / 127.0f);
}

// Largest magnitude, or NaN where there is one.
float larger(float top, float x) {
    const float magnitude = x < 0 ? -x : x;
    return top != top || top > magnitude ? top : magnitude;
}

// To nearest, ties to even: adding 1.5 * 2^23 leaves no fraction bits.
int8_t code_of(float x, float scale) {
    return static_cast<int8_t>(static_cast<int>(x / scale + 0x1.8p23f - 0x1.8p23f));
}

// Hands over the codes of n numbers that share a scale; returns the scale.
template <class At, class Put>
uint16_t quantise_group(int n, At at, Put put) {
    float top = 0;
    for (int i = 0; i < n; i++) top = larger(top, at(i));
    const uint16_t stored = scale_of(top);
    const float scale = float_of_bits(static_cast<uint32_t>(stored) << 16);
    const bool ordinary = scale > 0;
    for (int i = 0; i < n; i++) put(i, ordinary ? code_of(at(i), scale) : int8_t{0});
    return stored;
}

void write_codes(uint8_t* keys, uint8_t* values, int slot, int dim, int padded, const float* k,
                 const float* v) {
    auto* column = reinterpret_cast<int8_t*>(keys) + slot;
    auto* row = reinterpret_cast<int8_t*>(values) + slot * padded;
    auto* key_scales = reinterpret_cast<uint16_t*>(keys + 16 * dim) + slot;
    auto* value_scales = reinterpret_cast<uint16_t*>(values + 16 * padded) + slot;
    const int half = dim / 2;
    for (int i = 0; i < half; i += kKeyPairs, key_scales += 16) {
        const int n = std::min(kKeyPairs, half - i);
        const auto dim_of = [&](int j) { return j < n ? i + j : half + i + j - n; };
        *key_scales = quantise_group(2 * n, [&](int j) { return k[dim_of(j)]; },
                                     [&](int j, int8_t code) { column[16 * dim_of(j)] = code; });
    }
    for (int e = 0; e < dim; e += kValueDims, value_scales += 16) {
        const int n = std::min(kValueDims, dim - e);
        *value_scales = quantise_group(n, [&](int j) { return v[e + j]; },
                                       [&](int j, int8_t code) { row[e + j] = code; });
    }
}

}  // namespace

void KvCache::write(int layer, int64_t page, int slot, int head, const float* k, const float* v) {
    const auto group = static_cast<size_t>(slot / 16);
    uint8_t* keys_at = const_cast<uint8_t*>(keys(layer, head)) + static_cast<size_t>(page) * k_page +
                       group * k_group;
    uint8_t* values_at = const_cast<uint8_t*>(values(layer, head)) +
                         static_cast<size_t>(page) * v_page + group * v_group;
    slot %= 16;
    switch (type) {
        case KvType::f32:
            return write_floats(keys_at, values_at, slot, dim, padded_dim, k, v);
        case KvType::bf16:
            return write_pairs(keys_at, values_at, slot, dim, padded_dim, k, v);
        case KvType::i8:
            return write_codes(keys_at, values_at, slot, dim, padded_dim, k, v);
    }
}

}  // namespace freehold

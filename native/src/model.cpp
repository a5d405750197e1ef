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

KvCache::KvCache(int layers_, int64_t pages_, int page_size_, int heads_, int dim_, KvType type_)
    : layers(layers_),
      page_size(page_size_),
      heads(heads_),
      dim(dim_),
      padded_dim((dim_ + 15) / 16 * 16),
      pages(pages_),
      type(type_),
      k_head(static_cast<size_t>(page_size_) * static_cast<size_t>(dim_)),
      v_head(static_cast<size_t>(page_size_) * static_cast<size_t>(padded_dim)),
      k_page(static_cast<size_t>(layers_) * static_cast<size_t>(heads_) * k_head),
      v_page(static_cast<size_t>(layers_) * static_cast<size_t>(heads_) * v_head),
      k_(static_cast<size_t>(pages_) * k_page * element()),
      v_(static_cast<size_t>(pages_) * v_page * element()) {}

void KvCache::copy_page(int64_t from, int64_t to) {
    const auto copy = [&](Memory& memory, size_t bytes) {
        std::memcpy(memory.data() + static_cast<size_t>(to) * bytes,
                    memory.data() + static_cast<size_t>(from) * bytes, bytes);
    };
    if (from == to) return;
    copy(k_, k_page * element());
    copy(v_, v_page * element());
}

const void* KvCache::keys(int layer, int head) const {
    return k_.data() + static_cast<size_t>(layer * heads + head) * k_head * element();
}

const void* KvCache::values(int layer, int head) const {
    return v_.data() + static_cast<size_t>(layer * heads + head) * v_head * element();
}

namespace {

template <class T, class Convert>
void write_slot(T* keys, T* values, int slot, int dim, int padded, const float* k, const float* v,
                Convert convert) {
    T* column = keys + static_cast<size_t>(slot / 16) * 16 * static_cast<size_t>(dim) + slot % 16;
    T* row = values + static_cast<size_t>(slot) * static_cast<size_t>(padded);
    for (int e = 0; e < dim; e++) {
        column[16 * e] = convert(k[e]);
        row[e] = convert(v[e]);
    }
}

}  // namespace

void KvCache::write(int layer, int64_t page, int slot, int head, const float* k, const float* v) {
    auto* keys_at = static_cast<uint8_t*>(const_cast<void*>(keys(layer, head))) +
                    static_cast<size_t>(page) * k_page * element();
    auto* values_at = static_cast<uint8_t*>(const_cast<void*>(values(layer, head))) +
                      static_cast<size_t>(page) * v_page * element();
    if (type == KvType::f32) {
        write_slot(reinterpret_cast<float*>(keys_at), reinterpret_cast<float*>(values_at), slot, dim,
                   padded_dim, k, v, [](float x) { return x; });
    } else {
        write_slot(reinterpret_cast<uint16_t*>(keys_at), reinterpret_cast<uint16_t*>(values_at),
                   slot, dim, padded_dim, k, v, float_to_bf16);
    }
}

}  // namespace freehold

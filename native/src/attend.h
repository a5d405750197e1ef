// Attention of up to eight query rows over one key-value head's pages.
//
// Positions are taken in chunks of 256 at multiples of 256. Within a chunk a row's weights are
// e^(score - the chunk's largest); chunks are merged in order. A row's result depends on the
// positions it sees alone: neither on the rows beside it nor on what lies beyond.
// Included by each instruction set's own file, after its Simd and elementwise.h.
#pragma once

#include "elementwise.h"
#include "kernels.h"
#include "pairs.h"

namespace freehold {
namespace {

constexpr int kR = kAttendRows;
constexpr int kC = kAttendChunk;

// The running softmax of one row.
struct Running {
    float largest, sum;
};

// Where 16 positions lie, from `position` (a multiple of 16) on.
inline const uint8_t* keys_at(const AttendTile& t, int position) {
    const int page = position / t.page_size, slot = position % t.page_size;
    return t.k + static_cast<size_t>(t.pages[page]) * t.k_page +
           static_cast<size_t>(slot / 16) * t.k_group;
}
inline const uint8_t* values_at(const AttendTile& t, int position) {
    const int page = position / t.page_size, slot = position % t.page_size;
    return t.v + static_cast<size_t>(t.pages[page]) * t.v_page +
           static_cast<size_t>(slot / 16) * t.v_group;
}

// Ask memory for 16 positions' keys or values ahead of their turn, where nothing else will have
// brought them: pages lie scattered, and hardware guesses only straight on.
inline void fetch(const uint8_t* from, size_t bytes) {
    for (size_t i = 0; i < bytes; i += 64) Simd::prefetch(from + i);
}

inline Simd::V load_bf16_at(const uint8_t* p) {
    return Simd::load_bf16(reinterpret_cast<const uint16_t*>(p));
}

inline uint32_t pair_at(const uint8_t* p) {
    uint32_t pair;
    __builtin_memcpy(&pair, p, 4);
    return pair;
}

// What differs from type to type: T is float, uint16_t (bfloat16) or int8_t. Floats and 8-bit codes are
// multiplied as floats; bfloat16 has functions of its own, which take pairs.
//
// Calls use(e, key) for each dimension in order, key[j] being 16 positions' keys in k[j].
template <class T, int n, class F>
inline void each_key(const uint8_t* const* k, int dim, F use) {
    if constexpr (sizeof(T) != 1) {
        for (int e = 0; e < dim; e++) {
            Simd::V key[n];
            for (int j = 0; j < n; j++) {
                key[j] = Simd::load(reinterpret_cast<const float*>(k[j]) + 16 * e);
            }
            use(e, key);
        }
        return;
    }
    const int half = dim / 2;
    for (int first = 0; first < dim; first += half) {
        const uint8_t* scales[n];
        for (int j = 0; j < n; j++) scales[j] = k[j] + 16 * dim;
        for (int pair = 0; pair < half; pair += kKeyPairs) {
            Simd::V scale[n];
            for (int j = 0; j < n; j++, scales[j - 1] += 32) scale[j] = load_bf16_at(scales[j]);
            const int stop = first + (pair + kKeyPairs < half ? pair + kKeyPairs : half);
            for (int e = first + pair; e < stop; e++) {
                Simd::V key[n];
                for (int j = 0; j < n; j++) key[j] = Simd::mul(Simd::load_i8(k[j] + 16 * e), scale[j]);
                use(e, key);
            }
        }
    }
}

// Values of dims e .. e + 15 (a multiple of 16) at up to 16 positions.
template <class T>
struct Values {
    const uint8_t* at;
    size_t stride;
    Values(const AttendTile& t, int position, int e)
        : at(values_at(t, position) + static_cast<size_t>(e) * sizeof(T)),
          stride(static_cast<size_t>(t.padded_dim) * sizeof(T)) {}
    Simd::V load(int slot, int j) const {
        const uint8_t* p = at + static_cast<size_t>(slot) * stride + 16 * static_cast<size_t>(j) * sizeof(T);
        return Simd::load(reinterpret_cast<const float*>(p));
    }
};
template <>
struct Values<int8_t> {
    const uint8_t* at;
    size_t stride;
    alignas(64) float scale[16];
    Values(const AttendTile& t, int position, int e)
        : at(values_at(t, position) + e), stride(static_cast<size_t>(t.padded_dim)) {
        const uint8_t* scales = at - e + 16 * t.padded_dim + 32 * (e / kValueDims);
        Simd::store(scale, load_bf16_at(scales));
    }
    // j counts within the dims that share a scale
    Simd::V load(int slot, int j) const {
        return Simd::mul(Simd::load_i8(at + static_cast<size_t>(slot) * stride + 16 * j),
                         Simd::set1(scale[slot]));
    }
};

// scores[row][position - chunk] of n * 16 positions from `at` (n is 1 or 2: two vectors of keys share
// each broadcast query).
template <class T, int n>
inline void score_groups(const AttendTile& t, int at, float* scores) {
    const uint8_t* k[n];
    for (int j = 0; j < n; j++) k[j] = keys_at(t, at + 16 * j);
    Simd::V sum[n][kR];
    for (int j = 0; j < n; j++) {
        for (int r = 0; r < kR; r++) sum[j][r] = Simd::zero();
    }
    if constexpr (sizeof(T) == 2) {
        const uint8_t* q = t.q;
        for (int e = 0; e < t.dim; e += 2, q += 4 * kR) {
            Pairs::P key[n];
            for (int j = 0; j < n; j++) key[j] = Pairs::load_pairs(k[j] + 32 * e);
FREEHOLD_UNROLL
            for (int r = 0; r < kR; r++) {
                const Pairs::P query = Pairs::set1_pairs(pair_at(q + 4 * r));
FREEHOLD_UNROLL
                for (int j = 0; j < n; j++) sum[j][r] = Pairs::dot_pairs(sum[j][r], query, key[j]);
            }
        }
    } else {
        const auto* queries = reinterpret_cast<const float*>(t.q);
        each_key<T, n>(k, t.dim, [&](int e, const Simd::V* key) __attribute__((always_inline)) {
FREEHOLD_UNROLL
            for (int r = 0; r < kR; r++) {
                const Simd::V query = Simd::set1(queries[kR * e + r]);
FREEHOLD_UNROLL
                for (int j = 0; j < n; j++) sum[j][r] = Simd::fma(query, key[j], sum[j][r]);
            }
        });
    }
    for (int r = 0; r < kR; r++) {
        for (int j = 0; j < n; j++) Simd::store(scores + kC * r + 16 * j, sum[j][r]);
    }
}

// Scores of the 16-position groups that hold first .. end - 1.
template <class T>
inline void score(const AttendTile& t, int chunk, int first, int end, float* scores) {
    int at = first / 16 * 16;
    for (; at + 16 < end; at += 32) {
        if (t.alone) {
            if (at + 32 < end) fetch(keys_at(t, at + 32), t.k_group);
            if (at + 48 < end) fetch(keys_at(t, at + 48), t.k_group);
            // and the values of these positions, which are next
            fetch(values_at(t, at), t.v_group);
            fetch(values_at(t, at + 16), t.v_group);
        }
        score_groups<T, 2>(t, at, scores + at - chunk);
    }
    if (at < end) score_groups<T, 1>(t, at, scores + at - chunk);
}

// Scores of one row to weights, in place; zero where the row does not see. bfloat16 weights take the
// first half of the row's room.
template <class T>
inline Running soften(float* row, int first, int end) {
    const int begin = first / 16 * 16, stop = (end + 15) / 16 * 16;
    for (int i = begin; i < first; i++) row[i] = -__builtin_inff();
    for (int i = end; i < stop; i++) row[i] = -__builtin_inff();
    Simd::V top = Simd::set1(-__builtin_inff());
    for (int i = begin; i < stop; i += 16) top = Simd::max(Simd::load(row + i), top);
    const float largest = Simd::largest(top);
    Simd::V sum = Simd::zero();
    const Simd::V m = Simd::set1(largest);
    for (int i = begin; i < stop; i += 16) {
        const Simd::V below = Simd::sub(Simd::load(row + i), m);
        if constexpr (sizeof(T) == 2) {
            const Simd::V weight = exp(below, kLowestPower);
            Pairs::store_weights(reinterpret_cast<uint16_t*>(row) + i, weight);
            sum = Simd::add(sum, weight);
        } else {
            const Simd::V weight = exp(below);
            Simd::store(row + i, weight);
            sum = Simd::add(sum, weight);
        }
    }
    return {largest, Simd::tree_sum(sum)};
}

// Adds weight * value of positions from .. to - 1, which are even, to n * 16 dims of every row's sum.
template <int n>
inline void weigh_dim_pairs(const AttendTile& t, int chunk, int from, int to, int e, const uint16_t* weights,
                            float* out) {
    Simd::V sum[n][kR];
FREEHOLD_UNROLL
    for (int r = 0; r < kR; r++) {
        for (int j = 0; j < n; j++) sum[j][r] = Simd::load(out + t.padded_dim * r + e + 16 * j);
    }
    for (int at = from; at < to;) {
        const int group = at / 16 * 16;
        const uint8_t* values = values_at(t, group) + 4 * e;
        const int stop = group + 16 < to ? group + 16 : to;
        for (; at < stop; at += 2) {
            Pairs::P value[n];
            for (int j = 0; j < n; j++) {
                value[j] = Pairs::load_pairs(values + (at - group) * 2 * t.padded_dim + 64 * j);
            }
            const auto* w = reinterpret_cast<const uint8_t*>(weights + at - chunk);
FREEHOLD_UNROLL
            for (int r = 0; r < kR; r++) {
                const Pairs::P weight = Pairs::set1_pairs(pair_at(w + 4 * kC * r));
FREEHOLD_UNROLL
                for (int j = 0; j < n; j++) sum[j][r] = Pairs::dot_pairs(sum[j][r], weight, value[j]);
            }
        }
    }
FREEHOLD_UNROLL
    for (int r = 0; r < kR; r++) {
        for (int j = 0; j < n; j++) Simd::store(out + t.padded_dim * r + e + 16 * j, sum[j][r]);
    }
}

// Adds weight * value of positions from .. to - 1 to n * 16 dims of every row's sum.
template <class T, int n>
inline void weigh_dims(const AttendTile& t, int chunk, int from, int to, int e, const float* weights,
                       float* out) {
    Simd::V sum[n][kR];
FREEHOLD_UNROLL
    for (int r = 0; r < kR; r++) {
        for (int j = 0; j < n; j++) sum[j][r] = Simd::load(out + t.padded_dim * r + e + 16 * j);
    }
    for (int at = from; at < to;) {
        const int group = at / 16 * 16;
        const Values<T> values(t, group, e);
        const int stop = group + 16 < to ? group + 16 : to;
        for (; at < stop; at++) {
            Simd::V value[n];
            for (int j = 0; j < n; j++) value[j] = values.load(at - group, j);
            const float* w = weights + at - chunk;
FREEHOLD_UNROLL
            for (int r = 0; r < kR; r++) {
                const Simd::V weight = Simd::set1(w[kC * r]);
FREEHOLD_UNROLL
                for (int j = 0; j < n; j++) sum[j][r] = Simd::fma(weight, value[j], sum[j][r]);
            }
        }
    }
FREEHOLD_UNROLL
    for (int r = 0; r < kR; r++) {
        for (int j = 0; j < n; j++) Simd::store(out + t.padded_dim * r + e + 16 * j, sum[j][r]);
    }
}

// The same for all dims.
template <class T>
inline void weigh(const AttendTile& t, int chunk, int from, int to, const float* weights, float* out) {
    int e = 0;
    if constexpr (sizeof(T) == 2) {
        const auto* halves = reinterpret_cast<const uint16_t*>(weights);
        for (; e + 16 < t.padded_dim; e += 32) weigh_dim_pairs<2>(t, chunk, from, to, e, halves, out);
        if (e < t.padded_dim) weigh_dim_pairs<1>(t, chunk, from, to, e, halves, out);
    } else {
        for (; e + 16 < t.padded_dim; e += 32) weigh_dims<T, 2>(t, chunk, from, to, e, weights, out);
        if (e < t.padded_dim) weigh_dims<T, 1>(t, chunk, from, to, e, weights, out);
    }
}

// The same for one row and few positions, which may be odd. The other half of an odd one's pair has the
// weight zero, but its value may never have been written, or be another sequence's: it is left out.
inline void weigh_row_pairs(const AttendTile& t, int chunk, int from, int to, const uint16_t* weights,
                            float* out) {
    for (int at = from / 2 * 2; at < to; at += 2) {
        const auto* values = values_at(t, at) + at % 16 * 2 * t.padded_dim;
        const uint32_t seen = (at < from ? 0 : 0xffffu) | (at + 1 < to ? 0xffff0000u : 0);
        const Simd::I mask = Simd::iset1(static_cast<int32_t>(seen));
        const Pairs::P weight = Pairs::set1_pairs(pair_at(reinterpret_cast<const uint8_t*>(weights + at - chunk)));
        for (int e = 0; e < t.padded_dim; e += 16) {
            const Pairs::P value = Pairs::only(mask, values + 4 * e);
            Simd::store(out + e, Pairs::dot_pairs(Simd::load(out + e), weight, value));
        }
    }
}

template <class T>
inline void weigh_row(const AttendTile& t, int chunk, int from, int to, const float* weights,
                      float* out) {
    if constexpr (sizeof(T) == 2) {
        weigh_row_pairs(t, chunk, from, to, reinterpret_cast<const uint16_t*>(weights), out);
    } else {
        for (int e = 0; e < t.padded_dim; e += 16) {
            Simd::V sum = Simd::load(out + e);
            for (int at = from; at < to;) {
                const int group = at / 16 * 16;
                const Values<T> values(t, group, e);
                const int stop = group + 16 < to ? group + 16 : to;
                for (; at < stop; at++) {
                    sum = Simd::fma(Simd::set1(weights[at - chunk]), values.load(at - group, 0), sum);
                }
            }
            Simd::store(out + e, sum);
        }
    }
}

inline void merge(Running& all, const Running& part, float* sums, const float* part_sums, int n) {
    const float largest = part.largest > all.largest ? part.largest : all.largest;
    // One call of exp for both factors.
    alignas(64) float lane[16] = {all.largest - largest, part.largest - largest};
    Simd::store(lane, exp(Simd::load(lane)));
    const float old = lane[0], fresh = lane[1];
    all = {largest, __builtin_fmaf(part.sum, fresh, all.sum * old)};
    const Simd::V a = Simd::set1(old), b = Simd::set1(fresh);
    for (int e = 0; e < n; e += 16) {
        const Simd::V kept = Simd::mul(Simd::load(sums + e), a);
        Simd::store(sums + e, Simd::fma(Simd::load(part_sums + e), b, kept));
    }
}

// What row r sees of a chunk: none where end <= first.
struct Seen {
    int first, end;
};
inline Seen seen(const AttendTile& t, int r, int chunk) {
    const int first = t.first[r] > chunk ? t.first[r] : chunk;
    const int end = t.end[r] < chunk + kC ? t.end[r] : chunk + kC;
    return {first, end > first ? end : first};
}

// One chunk's softmax and weighted values of every row that sees of it.
template <class T>
void attend_chunk(const AttendTile& t, int chunk, float* scores, Running* now, float* part) {
    const int n = t.padded_dim;
    Seen see[kR];
    int common_first = chunk, common_end = chunk + kC, low = chunk + kC, high = chunk;
    for (int r = 0; r < t.rows; r++) {
        see[r] = seen(t, r, chunk);
        common_first = see[r].first > common_first ? see[r].first : common_first;
        common_end = see[r].end < common_end ? see[r].end : common_end;
        low = see[r].first < low ? see[r].first : low;
        high = see[r].end > high ? see[r].end : high;
    }
    if constexpr (sizeof(T) == 2) {  // whole pairs
        common_first = (common_first + 1) / 2 * 2;
        common_end = common_end / 2 * 2;
    }
    if (common_end < common_first) common_end = common_first;
    score<T>(t, chunk, low, high, scores);
    for (int r = 0; r < t.rows; r++) {
        if (see[r].end > see[r].first) {
            now[r] = soften<T>(scores + kC * r, see[r].first - chunk, see[r].end - chunk);
        }
    }
    for (int i = 0; i < kR * n; i++) part[i] = 0;
    for (int r = 0; r < t.rows; r++) {
        const int stop = see[r].end < common_first ? see[r].end : common_first;
        weigh_row<T>(t, chunk, see[r].first, stop, scores + kC * r, part + n * r);
    }
    weigh<T>(t, chunk, common_first, common_end, scores, part);
    for (int r = 0; r < t.rows; r++) {
        const int from = see[r].first > common_end ? see[r].first : common_end;
        // a row that ended before the common part began was done above
        if (see[r].end > common_first) {
            weigh_row<T>(t, chunk, from, see[r].end, scores + kC * r, part + n * r);
        }
    }
}

// All rows' merged chunks.
struct Merged {
    Running all[kR];
    bool begun[kR] = {};
    float* sums;  // [row][padded dim]

    void add(const AttendTile& t, int chunk, const Running* now, const float* part) {
        const int n = t.padded_dim;
        for (int r = 0; r < t.rows; r++) {
            const Seen see = seen(t, r, chunk);
            if (see.end <= see.first) continue;
            if (begun[r]) {
                merge(all[r], now[r], sums + n * r, part + n * r, n);
            } else {
                all[r] = now[r];
                for (int e = 0; e < n; e++) sums[n * r + e] = part[n * r + e];
                begun[r] = true;
            }
        }
    }
    void finish(const AttendTile& t) const {
        for (int r = 0; r < t.rows; r++) {
            const float inverse = 1.0f / all[r].sum;
            for (int e = 0; e < t.dim; e++) t.out[r][e] = sums[t.padded_dim * r + e] * inverse;
        }
    }
};

template <class T>
void attend(const AttendTile& t) {
    Merged merged;
    merged.sums = t.scratch + kR * kC;
    float* part = merged.sums + kR * t.padded_dim;
    Running now[kR];
    for (int chunk = t.from; chunk < t.to; chunk += kC) {
        attend_chunk<T>(t, chunk, t.scratch, now, part);
        merged.add(t, chunk, now, part);
    }
    merged.finish(t);
}

// The same in two steps, so that threads can share one row's chunks: chunks from .. to into their
// places in `parts`, and later all of them, in order, merged.
template <class T>
void attend_parts(const AttendTile& t, float* parts) {
    for (int chunk = t.from; chunk < t.to; chunk += kC, parts += attend_part(t.padded_dim)) {
        Running now[kR];
        attend_chunk<T>(t, chunk, t.scratch, now, parts + 2 * kR);
        __builtin_memcpy(parts, now, sizeof now);
    }
}

void merge_parts(const AttendTile& t, const float* parts) {
    Merged merged;
    merged.sums = t.scratch;
    for (int chunk = t.from; chunk < t.to; chunk += kC, parts += attend_part(t.padded_dim)) {
        Running now[kR];
        __builtin_memcpy(now, parts, sizeof now);
        merged.add(t, chunk, now, parts + 2 * kR);
    }
    merged.finish(t);
}

}  // namespace
}  // namespace freehold

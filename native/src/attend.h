// Attention of up to eight query rows over one key-value head's pages.
//
// Positions are taken in chunks of 256 at multiples of 256. Within a chunk a row's weights are
// e^(score - the chunk's largest); chunks are merged in order. A row's result depends on the
// positions it sees alone: neither on the rows beside it nor on what lies beyond.
// Included by each instruction set's own file, after its Simd and elementwise.h.
#pragma once

#include "elementwise.h"
#include "kernels.h"

namespace freehold {
namespace {

constexpr int kR = kAttendRows;
constexpr int kC = kAttendChunk;

inline Simd::V load_kv(const float* p) { return Simd::load(p); }
inline Simd::V load_kv(const uint16_t* p) { return Simd::load_bf16(p); }
inline float one_kv(float x) { return x; }
inline float one_kv(uint16_t x) {
    const uint32_t bits = static_cast<uint32_t>(x) << 16;
    float value;
    __builtin_memcpy(&value, &bits, 4);
    return value;
}

// The running softmax of one row.
struct Running {
    float largest, sum;
};

template <class T>
struct Pages {
    const AttendTile& t;

    // Keys of the 16 positions from `position` (a multiple of 16): [dim][16]
    const T* keys(int position) const {
        const int page = position / t.page_size, slot = position % t.page_size;
        return static_cast<const T*>(t.k) + static_cast<size_t>(t.pages[page]) * t.k_page +
               static_cast<size_t>(slot) * t.dim;
    }
    // Ask memory for 16 positions' keys or values ahead of their turn, where nothing else will have
    // brought them: pages lie scattered, and hardware guesses only straight on.
    void fetch(const T* from, int dims) const {
        const auto* p = reinterpret_cast<const uint8_t*>(from);
        const int bytes = 16 * dims * static_cast<int>(sizeof(T));
        for (int i = 0; i < bytes; i += 64) Simd::prefetch(p + i);
    }
    const T* values(int position) const {
        const int page = position / t.page_size, slot = position % t.page_size;
        return static_cast<const T*>(t.v) + static_cast<size_t>(t.pages[page]) * t.v_page +
               static_cast<size_t>(slot) * t.padded_dim;
    }
};

// scores[row][position - chunk] of n * 16 positions from `at` (n is 1 or 2: two vectors of keys share
// each broadcast query).
template <class T, int n>
inline void score_groups(const AttendTile& t, int at, float* scores) {
    const T* k[n];
    for (int j = 0; j < n; j++) k[j] = Pages<T>{t}.keys(at + 16 * j);
    Simd::V sum[n][kR];
    for (int j = 0; j < n; j++) {
        for (int r = 0; r < kR; r++) sum[j][r] = Simd::zero();
    }
    for (int e = 0; e < t.dim; e++) {
        Simd::V key[n];
        for (int j = 0; j < n; j++) key[j] = load_kv(k[j] + 16 * e);
FREEHOLD_UNROLL
        for (int r = 0; r < kR; r++) {
            const Simd::V q = Simd::set1(t.q[kR * e + r]);
FREEHOLD_UNROLL
            for (int j = 0; j < n; j++) sum[j][r] = Simd::fma(q, key[j], sum[j][r]);
        }
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
        const Pages<T> pages{t};
        if (t.alone && at + 32 < end) pages.fetch(pages.keys(at + 32), t.dim);
        if (t.alone && at + 48 < end) pages.fetch(pages.keys(at + 48), t.dim);
        // and the values of these positions, which are next
        if (t.alone) pages.fetch(pages.values(at), t.padded_dim);
        if (t.alone) pages.fetch(pages.values(at + 16), t.padded_dim);
        score_groups<T, 2>(t, at, scores + at - chunk);
    }
    if (at < end) score_groups<T, 1>(t, at, scores + at - chunk);
}

// Scores of one row to weights, in place; zero where the row does not see.
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
        const Simd::V weight = exp(Simd::sub(Simd::load(row + i), m));
        Simd::store(row + i, weight);
        sum = Simd::add(sum, weight);
    }
    return {largest, Simd::tree_sum(sum)};
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
    int at = from;
    while (at < to) {
        const int page_end = (at / t.page_size + 1) * t.page_size;
        const int stop = page_end < to ? page_end : to;
        const T* v = Pages<T>{t}.values(at) + e;
        for (; at < stop; at++, v += t.padded_dim) {
            Simd::V value[n];
            for (int j = 0; j < n; j++) value[j] = load_kv(v + 16 * j);
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
    for (; e + 16 < t.padded_dim; e += 32) weigh_dims<T, 2>(t, chunk, from, to, e, weights, out);
    if (e < t.padded_dim) weigh_dims<T, 1>(t, chunk, from, to, e, weights, out);
}

// The same for one row and few positions.
template <class T>
inline void weigh_row(const AttendTile& t, int chunk, int from, int to, const float* weights,
                      float* out) {
    for (int at = from; at < to; at++) {
        const T* v = Pages<T>{t}.values(at);
        const Simd::V w = Simd::set1(weights[at - chunk]);
        for (int e = 0; e < t.padded_dim; e += 16) {
            Simd::store(out + e, Simd::fma(w, load_kv(v + e), Simd::load(out + e)));
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

template <class T>
void attend(const AttendTile& t) {
    const int n = t.padded_dim;
    float* scores = t.scratch;
    float* sums = scores + kR * kC;
    float* part = sums + kR * n;
    Running all[kR];
    bool begun[kR] = {};
    int lowest = t.first[0], highest = t.end[0];
    for (int r = 1; r < t.rows; r++) {
        lowest = t.first[r] < lowest ? t.first[r] : lowest;
        highest = t.end[r] > highest ? t.end[r] : highest;
    }
    for (int chunk = lowest / kC * kC; chunk < highest; chunk += kC) {
        int first[kR], end[kR];  // what each row sees of this chunk
        int common_first = chunk, common_end = chunk + kC, low = chunk + kC, high = chunk;
        for (int r = 0; r < t.rows; r++) {
            first[r] = t.first[r] > chunk ? t.first[r] : chunk;
            end[r] = t.end[r] < chunk + kC ? t.end[r] : chunk + kC;
            if (end[r] < first[r]) end[r] = first[r];
            common_first = first[r] > common_first ? first[r] : common_first;
            common_end = end[r] < common_end ? end[r] : common_end;
            low = first[r] < low ? first[r] : low;
            high = end[r] > high ? end[r] : high;
        }
        if (common_end < common_first) common_end = common_first;
        score<T>(t, chunk, low, high, scores);
        Running now[kR];
        for (int r = 0; r < t.rows; r++) {
            if (end[r] > first[r]) {
                now[r] = soften(scores + kC * r, first[r] - chunk, end[r] - chunk);
            }
        }
        for (int i = 0; i < kR * n; i++) part[i] = 0;
        for (int r = 0; r < t.rows; r++) {
            const int stop = end[r] < common_first ? end[r] : common_first;
            weigh_row<T>(t, chunk, first[r], stop, scores + kC * r, part + n * r);
        }
        weigh<T>(t, chunk, common_first, common_end, scores, part);
        for (int r = 0; r < t.rows; r++) {
            const int from = first[r] > common_end ? first[r] : common_end;
            // a row that ended before the common part began was done above
            if (end[r] > common_first) {
                weigh_row<T>(t, chunk, from, end[r], scores + kC * r, part + n * r);
            }
        }
        for (int r = 0; r < t.rows; r++) {
            if (end[r] <= first[r]) continue;
            if (begun[r]) {
                merge(all[r], now[r], sums + n * r, part + n * r, n);
            } else {
                all[r] = now[r];
                for (int e = 0; e < n; e++) sums[n * r + e] = part[n * r + e];
                begun[r] = true;
            }
        }
    }
    for (int r = 0; r < t.rows; r++) {
        const float inverse = 1.0f / all[r].sum;
        for (int e = 0; e < t.dim; e++) t.out[r][e] = sums[n * r + e] * inverse;
    }
}

}  // namespace
}  // namespace freehold

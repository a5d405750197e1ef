// Heads: normalised, turned, remembered, attended.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "engine.h"

namespace freehold {

// Queries to queries_ [row][head][dim], ready to score; keys and values to the cache.
void Engine::turn(In qkv, const Batch& batch, int layer, const Heads& heads, KvCache& cache) {
    const int dim = cache.dim, half = dim / 2, groups = cache.heads;
    const float scale = 1.0f / std::sqrt(static_cast<float>(dim));
    const auto padded = static_cast<size_t>(cache.padded_dim);
    float* queries = queries_.at_least(static_cast<size_t>(qkv.rows * heads.queries * dim));
    pool_.run(qkv.rows, qkv.rows < 16 ? qkv.rows : 4, [&](int64_t begin, int64_t end, int thread) {
        PerThread& mine = mine_[static_cast<size_t>(thread)];
        float* head = mine.row.at_least(2 * padded);
        float* weight = head + padded;
        const auto normed = [&](const float* x, const float* norm) {
            if (!norm) return x;
            std::memset(head, 0, 2 * padded * 4);
            std::memcpy(head, x, static_cast<size_t>(dim) * 4);
            std::memcpy(weight, norm, static_cast<size_t>(dim) * 4);
            kernels_.rms_norm(head, weight, dim, heads.eps, head);
            return static_cast<const float*>(head);
        };
        float* turned = mine.norm.at_least(padded);
        for (int64_t row = begin; row < end; row++) {
            const float* x = qkv.row(row);
            const float* cos = batch.cos.data() + row * half;
            const float* sin = batch.sin.data() + row * half;
            for (int h = 0; h < heads.queries; h++) {
                kernels_.rotate(normed(x + h * dim, heads.q_norm), cos, sin, half, scale,
                                queries + (row * heads.queries + h) * dim);
            }
            const BatchSpan& span = batch.spans[static_cast<size_t>(batch.span_of_row[static_cast<size_t>(row)])];
            const int64_t position = span.first + row - span.row;
            const int32_t page = batch.pages[static_cast<size_t>(span.pages + position / cache.page_size)];
            const float* k = x + heads.queries * dim;
            for (int g = 0; g < groups; g++) {
                kernels_.rotate(normed(k + g * dim, heads.k_norm), cos, sin, half, 1.0f, turned);
                cache.write(layer, page, static_cast<int>(position % cache.page_size), g, turned,
                            k + (groups + g) * dim);
            }
        }
    });
}

void Engine::attend(In qkv, const Batch& batch, int layer, const Heads& heads, KvCache& cache, Out out) {
    const std::lock_guard<std::mutex> lock(one_at_a_time_);
    turn(qkv, batch, layer, heads, cache);
    const int dim = cache.dim;
    const int64_t shared = heads.queries / cache.heads;  // query heads per key-value head
    const float* queries = queries_.at_least(0);
    // A task is one head's tile of eight query rows: row i is token i / shared, head i % shared.
    struct Task {
        int32_t span, head;
        int64_t first, rows;
    };
    std::vector<Task> tasks;
    for (size_t s = 0; s < batch.spans.size(); s++) {
        const int64_t rows = batch.spans[s].n * shared;
        for (int g = 0; g < cache.heads; g++) {
            for (int64_t first = 0; first < rows; first += kAttendRows) {
                tasks.push_back({static_cast<int32_t>(s), g, first, std::min<int64_t>(kAttendRows, rows - first)});
            }
        }
    }
    pool_.run(static_cast<int64_t>(tasks.size()), 1, [&](int64_t begin, int64_t end, int thread) {
        const auto padded = static_cast<size_t>(cache.padded_dim);
        const size_t q_floats = static_cast<size_t>(dim) * kAttendRows;
        float* q = mine_[static_cast<size_t>(thread)].attend.at_least(attend_scratch(padded) + q_floats + 16);
        for (int64_t i = begin; i < end; i++) {
            const Task& task = tasks[static_cast<size_t>(i)];
            const BatchSpan& span = batch.spans[static_cast<size_t>(task.span)];
            AttendTile t{};
            t.q = q;
            t.scratch = q + (q_floats + 15) / 16 * 16;
            t.rows = static_cast<int>(task.rows);
            t.k = cache.keys(layer, task.head);
            t.v = cache.values(layer, task.head);
            t.k_page = cache.k_page;
            t.v_page = cache.v_page;
            t.alone = span.n * shared <= kAttendRows;
            t.pages = batch.pages.data() + span.pages;
            t.page_size = cache.page_size;
            t.dim = dim;
            t.padded_dim = cache.padded_dim;
            std::memset(q, 0, q_floats * 4);
            for (int r = 0; r < t.rows; r++) {
                const int64_t token = (task.first + r) / shared;
                const int64_t head = task.head * shared + (task.first + r) % shared;
                const int64_t position = span.first + token;
                t.end[r] = static_cast<int32_t>(position + 1);
                t.first[r] = heads.window && heads.window <= position
                                 ? static_cast<int32_t>(position + 1 - heads.window) : 0;
                t.out[r] = out.row(span.row + token) + head * dim;
                const float* from = queries + ((span.row + token) * heads.queries + head) * dim;
                for (int e = 0; e < dim; e++) q[kAttendRows * e + r] = from[e];
            }
            kernels_.attend[static_cast<int>(cache.type)](t);
        }
    });
}

}  // namespace freehold

// Heads: normalised, turned, remembered, attended.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "engine.h"
#include "half.h"

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
    const auto padded = static_cast<size_t>(cache.padded_dim);
    const int64_t shared = heads.queries / cache.heads;  // query heads per key-value head
    const float* queries = queries_.at_least(0);
    const int type = static_cast<int>(cache.type);
    // One head's tile of eight query rows: row i is token i / shared, head i % shared.
    const auto tiles_of = [&](const BatchSpan& span) { return (span.n * shared + kAttendRows - 1) / kAttendRows; };
    // Its chunks, some or all of them.
    struct Task {
        int32_t span, head;
        int64_t tile, from, to;
        size_t parts;  // where the first chunk's part goes
        bool alone;
    };
    const auto lowest = [&](int64_t position) {
        return heads.window && heads.window <= position ? position + 1 - heads.window : int64_t{0};
    };
    const auto prepare = [&](const Task& task, float* memory) {
        const BatchSpan& span = batch.spans[static_cast<size_t>(task.span)];
        const size_t q_floats = (static_cast<size_t>(dim) * kAttendRows + 15) / 16 * 16;
        AttendTile t{};
        t.q = reinterpret_cast<const uint8_t*>(memory);
        t.scratch = memory + q_floats;
        const int64_t first = task.tile * kAttendRows;
        t.rows = static_cast<int>(std::min<int64_t>(kAttendRows, span.n * shared - first));
        t.k = cache.keys(layer, task.head);
        t.v = cache.values(layer, task.head);
        t.k_page = cache.k_page;
        t.v_page = cache.v_page;
        t.k_group = cache.k_group;
        t.v_group = cache.v_group;
        t.alone = task.alone;
        t.pages = batch.pages.data() + span.pages;
        t.page_size = cache.page_size;
        t.dim = dim;
        t.padded_dim = cache.padded_dim;
        t.from = static_cast<int32_t>(task.from);
        t.to = static_cast<int32_t>(task.to);
        std::memset(memory, 0, q_floats * 4);
        for (int r = 0; r < t.rows; r++) {
            const int64_t token = (first + r) / shared;
            const int64_t head = task.head * shared + (first + r) % shared;
            const int64_t position = span.first + token;
            t.end[r] = static_cast<int32_t>(position + 1);
            t.first[r] = static_cast<int32_t>(lowest(position));
            t.out[r] = out.row(span.row + token) + head * dim;
            const float* from = queries + ((span.row + token) * heads.queries + head) * dim;
            if (cache.type == KvType::bf16) {
                auto* pairs = reinterpret_cast<uint16_t*>(memory) + 2 * r;
                for (int e = 0; e < dim; e += 2, pairs += 2 * kAttendRows) {
                    pairs[0] = cut_to_bf16(from[e]);
                    pairs[1] = cut_to_bf16(from[e + 1]);
                }
            } else {
                for (int e = 0; e < dim; e++) memory[kAttendRows * e + r] = from[e];
            }
        }
        return t;
    };
    // Tiles are whole tasks where there are many. Where few rows see far, as one new token does, their
    // chunks become tasks too; and all tiles meet a chunk's keys and values one after the other.
    int64_t tiles = 0;
    for (const BatchSpan& span : batch.spans) tiles += tiles_of(span) * cache.heads;
    const bool few = tiles < 8 * pool_.threads() && pool_.threads() > 1;
    std::vector<Task> whole, pieces, merges;
    size_t parts = 0;
    for (size_t s = 0; s < batch.spans.size(); s++) {
        const BatchSpan& span = batch.spans[s];
        const int64_t n_tiles = tiles_of(span);
        // Chunks that any row of a tile sees.
        const auto from = [&](int64_t tile) {
            return lowest(span.first + tile * kAttendRows / shared) / kAttendChunk * kAttendChunk;
        };
        const auto to = [&](int64_t tile) {
            const int64_t last = std::min(span.n * shared, (tile + 1) * kAttendRows) - 1;
            return span.first + last / shared + 1;
        };
        const int64_t begin = from(0), end = to(n_tiles - 1);
        const bool split = few && end - begin > 2 * kAttendChunk;
        for (int g = 0; g < cache.heads; g++) {
            const auto task = [&](int64_t tile) {
                return Task{static_cast<int32_t>(s), g, tile, from(tile), to(tile), parts, tile == 0};
            };
            if (!split) {
                for (int64_t tile = 0; tile < n_tiles; tile++) whole.push_back(task(tile));
                continue;
            }
            const size_t first_merge = merges.size();
            for (int64_t tile = 0; tile < n_tiles; tile++) {
                merges.push_back(task(tile));
                const auto chunks = (to(tile) - from(tile) + kAttendChunk - 1) / kAttendChunk;
                parts += static_cast<size_t>(chunks) * attend_part(padded);
            }
            for (int64_t chunk = begin; chunk < end; chunk += kAttendChunk) {
                for (size_t m = first_merge; m < merges.size(); m++) {
                    Task piece = merges[m];
                    if (chunk < piece.from || chunk >= piece.to) continue;
                    piece.parts += static_cast<size_t>((chunk - piece.from) / kAttendChunk) * attend_part(padded);
                    piece.from = chunk;
                    piece.to = std::min(piece.to, chunk + kAttendChunk);
                    pieces.push_back(piece);
                }
            }
        }
    }
    float* shared_parts = parts_.at_least(parts);
    const size_t memory = attend_scratch(padded) + static_cast<size_t>(dim) * kAttendRows + 16;
    const auto each = [&](const std::vector<Task>& tasks, auto&& use) {
        pool_.run(static_cast<int64_t>(tasks.size()), 1, [&](int64_t begin, int64_t end, int thread) {
            float* mine = mine_[static_cast<size_t>(thread)].attend.at_least(memory);
            for (int64_t i = begin; i < end; i++) {
                const Task& task = tasks[static_cast<size_t>(i)];
                use(prepare(task, mine), task);
            }
        });
    };
    each(pieces, [&](const AttendTile& t, const Task& task) {
        kernels_.attend_parts[type](t, shared_parts + task.parts);
    });
    each(merges, [&](const AttendTile& t, const Task& task) {
        kernels_.merge_parts(t, shared_parts + task.parts);
    });
    each(whole, [&](const AttendTile& t, const Task&) { kernels_.attend[type](t); });
}

}  // namespace freehold

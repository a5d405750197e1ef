// Activations into panels, panels through packed weights.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>

#include "engine.h"
#include "pack.h"

namespace freehold {
namespace {

constexpr int64_t kDirectTokens = 16;          // fewer than this go straight over packed weights
constexpr int64_t kPanelBytes = 384 << 10;     // of activations that one pass of weights meets
constexpr int64_t kTakeBytes = 64 << 10;       // of weights that a thread takes at a time

// The smallest tile that holds `rows`, of any size or of a power of two.
int size_index_of(int64_t rows, bool any) {
    const auto fits = [&](int n) { return n >= rows && (any || !(n & (n - 1))); };
    int i = 0;
    while (!fits(kTileSizes[i])) i++;
    return i;
}

// Tiles that meet a block of weights while both are in the cache.
int64_t tiles_per_pass(int64_t groups) {
    return std::max<int64_t>(1, kPanelBytes / (16 * groups * kTileCols));
}

// Whether 32 columns of gate and up are two whole blocks of each.
bool pairs_up(const Linear& gate_up) {
    const auto& s = gate_up.segments;
    return s.size() == 2 && s[0].rows == s[1].rows && s[0].rows % kTileCols == 0 && gate_up.bias.empty();
}

constexpr int64_t kLowTile = 8;  // rows of one low-rank pair that go together

// One token's activations out of a tile of `size`, into a tile of `into_size`. Both are stored unshifted.
void copy_token(const Panel& from, int64_t size, int64_t token, const Panel& into, int64_t into_size,
                int64_t into_token, int64_t groups) {
    for (int64_t g = 0; g < groups; g++) {
        const int64_t a = g * size + token, b = g * into_size + into_token;
        std::memcpy(into.values + 32 * b, from.values + 32 * a, 32);
        into.scale[b] = from.scale[a];
        into.scaled_sum[b] = from.scaled_sum[a];
        into.neg_sum[b] = from.neg_sum[a];
        into.neg_half[2 * b] = from.neg_half[2 * a];
        into.neg_half[2 * b + 1] = from.neg_half[2 * a + 1];
    }
}

}  // namespace

void Panels::shape(int64_t tokens, int64_t groups, int32_t shift) {
    if (tokens == tokens_ && groups == groups_) return;
    tokens_ = tokens;
    groups_ = groups;
    tiles_.clear();
    // Few tokens meet weights in registers, where tiles of 8 fit; many meet them unpacked.
    const int64_t largest = tokens < kDirectTokens ? 8 : 16;
    size_t bytes = 0;
    std::vector<size_t> starts;
    const auto token_bytes = static_cast<size_t>(groups) * (32 + 4 + 4 + 4 + 8);
    for (int64_t first = 0; first < tokens; first += largest) {
        const int64_t rows = std::min(largest, tokens - first);
        const int index = size_index_of(rows, largest == 8);
        starts.push_back(bytes);
        tiles_.push_back({first, static_cast<int>(rows), kTileSizes[index], index, {}});
        bytes += (token_bytes * static_cast<size_t>(kTileSizes[index]) + 63) / 64 * 64;
    }
    uint8_t* base = memory_.at_least(bytes);
    std::memset(base, 0, bytes);
    for (size_t i = 0; i < tiles_.size(); i++) {
        Tile& t = tiles_[i];
        const auto n = static_cast<size_t>(groups * t.size);
        uint8_t* p = base + starts[i];
        t.panel.values = reinterpret_cast<int8_t*>(p);
        t.panel.scale = reinterpret_cast<float*>(p + 32 * n);
        t.panel.scaled_sum = t.panel.scale + n;
        t.panel.neg_sum = reinterpret_cast<int32_t*>(t.panel.scaled_sum + n);
        t.panel.neg_half = t.panel.neg_sum + n;
        t.panel.shift = tokens < kDirectTokens ? 0 : shift;
    }
}

Engine::Engine(int threads, const Kernels& kernels)
    : kernels_(kernels), pool_(threads), mine_(static_cast<size_t>(threads)) {}

std::shared_ptr<Linear> Engine::pack(const std::vector<Part>& parts, const float* bias) {
    const std::lock_guard<std::mutex> lock(one_at_a_time_);
    auto linear = std::make_shared<Linear>();
    for (const Part& part : parts) {
        const int64_t supers = part.cols / layout_of(part.format).super_cols();
        const Segment s{part.format, part.rows, 0, 0, supers, nullptr};
        const Arena::Piece piece = arena_.take(s.stride() * static_cast<size_t>(s.blocks()));
        pool_.run(s.blocks(), 4, [&](int64_t begin, int64_t end, int) {
            const auto source_row = static_cast<size_t>(supers * layout_of(part.format).source_bytes);
            for (int64_t b = begin; b < end; b++) {
                const uint8_t* rows[kBlockRows];
                for (int r = 0; r < kBlockRows; r++) {
                    const int64_t row = b * kBlockRows + r;
                    rows[r] = row < part.rows ? part.data + static_cast<size_t>(row) * source_row : nullptr;
                }
                pack_block(part.format, rows, supers, piece.data + static_cast<size_t>(b) * s.stride());
            }
        });
        linear->add(part.format, part.rows, supers, piece.data, piece.owner);
    }
    linear->set_bias(bias);
    return linear;
}

double Engine::read_rate() {
    const std::lock_guard<std::mutex> lock(one_at_a_time_);
    constexpr size_t kBytes = size_t{512} << 20, kPiece = size_t{1} << 20;
    const bool fresh = unread_.empty();
    uint8_t* data = unread_.at_least(kBytes);
    if (fresh) std::memset(data, 1, kBytes);  // untouched pages would all be one zero page
    std::atomic<uint64_t> total{0};
    const auto begin = std::chrono::steady_clock::now();
    pool_.run(kBytes / kPiece, 1, [&](int64_t first, int64_t last, int) {
        for (int64_t i = first; i < last; i++) {
            total += kernels_.read(data + static_cast<size_t>(i) * kPiece, kPiece);
        }
    });
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - begin;
    // The sum is wanted so that no compiler leaves the reading out.
    return total ? static_cast<double>(kBytes) / taken.count() : 0;
}

void Engine::embed(const Linear& table, const int64_t* ids, Out out) {
    const std::lock_guard<std::mutex> lock(one_at_a_time_);
    pool_.run(out.rows, 16, [&](int64_t begin, int64_t end, int) {
        for (int64_t i = begin; i < end; i++) {
            const auto after = std::upper_bound(
                table.segments.begin(), table.segments.end(), ids[i],
                [](int64_t id, const Segment& s) { return id < s.out; });
            const Segment& s = *(after - 1);
            const int64_t row = ids[i] - s.out;
            dequantise_row(s.format, s.data + static_cast<size_t>(row / kBlockRows) * s.stride(),
                           static_cast<int>(row % kBlockRows), s.supers, out.row(i));
        }
    });
}

void Engine::fill_token(Panels& panels, const Panels::Tile& tile, int token, const float* x, int64_t n,
                        const float* norm, float eps, PerThread& mine) {
    const int64_t padded = panels.groups() * kTileCols;
    if (norm || padded != n) {
        float* row = mine.row.at_least(static_cast<size_t>(padded));
        std::memcpy(row, x, static_cast<size_t>(n) * 4);
        std::memset(row + n, 0, static_cast<size_t>(padded - n) * 4);
        if (norm) {
            float* weight = mine.norm.at_least(static_cast<size_t>(padded));
            std::memcpy(weight, norm, static_cast<size_t>(n) * 4);
            std::memset(weight + n, 0, static_cast<size_t>(padded - n) * 4);
            kernels_.rms_norm(row, weight, n, eps, row);
        }
        x = row;
    }
    kernels_.quantise(x, panels.groups(), tile.panel, token, tile.size);
}

void Engine::fill(Panels& panels, In x, const float* norm, float eps) {
    panels.shape(x.rows, (x.cols + kTileCols - 1) / kTileCols, kernels_.shift);
    // A tile at a time for many tokens; few are not worth waking anyone for.
    const auto tiles = static_cast<int64_t>(panels.tiles().size());
    pool_.run(tiles, x.rows < 32 ? tiles : 1, [&](int64_t begin, int64_t end, int thread) {
        for (int64_t i = begin; i < end; i++) {
            const Panels::Tile& tile = panels.tiles()[static_cast<size_t>(i)];
            for (int r = 0; r < tile.rows; r++) {
                fill_token(panels, tile, r, x.row(tile.first + r), x.cols, norm, eps,
                           mine_[static_cast<size_t>(thread)]);
            }
        }
    });
}

void Engine::finish(const Segment& s, int64_t block, const Panels::Tile& tile, const float* sums,
                    const Linear& weights, const float* residual, Out out) {
    const int64_t in_segment = block - s.first_block;
    const int64_t rows = std::min<int64_t>(kBlockRows, s.rows - in_segment * kBlockRows);
    const int64_t first = s.out + in_segment * kBlockRows;
    const float* bias = weights.bias.empty() ? nullptr : weights.bias.data() + first;
    if (rows == kBlockRows && !bias) {  // of a length that the compiler knows
        for (int m = 0; m < tile.rows; m++) {
            const float* sum = sums + kBlockRows * m;
            float* y = out.row(tile.first + m) + first;
            const float* x = residual ? residual + (tile.first + m) * out.cols + first : nullptr;
            if (!x) {
                std::memcpy(y, sum, kBlockRows * 4);
                continue;
            }
            float added[kBlockRows];
            for (int i = 0; i < kBlockRows; i++) added[i] = x[i] + sum[i];
            std::memcpy(y, added, kBlockRows * 4);
        }
        return;
    }
    for (int m = 0; m < tile.rows; m++) {
        const float* sum = sums + kBlockRows * m;
        float* y = out.row(tile.first + m) + first;
        const float* x = residual ? residual + (tile.first + m) * out.cols + first : nullptr;
        for (int64_t i = 0; i < rows; i++) {
            const float biased = bias ? sum[i] + bias[i] : sum[i];
            y[i] = x ? x[i] + biased : biased;
        }
    }
}

void Engine::multiply(const Panels& panels, const Linear& weights, const float* residual, Out out,
                      const Fill* fill) {
    const auto& tiles = panels.tiles();
    const auto n_tiles = static_cast<int64_t>(tiles.size());
    const auto n_low = fill ? static_cast<int64_t>(low_parts_.size()) : 0;
    if (panels.tokens() < kDirectTokens) {
        const auto bytes = static_cast<int64_t>(weights.segments.front().stride());
        const int64_t grain = std::max<int64_t>(1, kTakeBytes / bytes);
        // Low-rank parts are work like any block: waking everyone for them would cost more than they do.
        pool_.run(weights.blocks + n_low, grain, [&](int64_t begin, int64_t end, int thread) {
            alignas(64) float sums[8 * kBlockRows];
            for (int64_t block = begin; block < end; block++) {
                if (block >= weights.blocks) {
                    narrow_part(panels, block - weights.blocks, *fill, mine_[static_cast<size_t>(thread)]);
                    continue;
                }
                const Segment& s = weights.segment_of(block);
                const uint8_t* data = s.data + static_cast<size_t>(block - s.first_block) * s.stride();
                for (const Panels::Tile& tile : tiles) {
                    kernels_.direct[static_cast<int>(s.format)][tile.size_index](data, s.supers,
                                                                                 tile.panel, sums);
                    finish(s, block, tile, sums, weights, residual, out);
                }
            }
        });
        return;
    }
    const int64_t per_pass = tiles_per_pass(weights.groups);
    const int64_t passes = (n_tiles + per_pass - 1) / per_pass;
    pool_.run(passes * weights.blocks, 2, [&](int64_t begin, int64_t end, int thread) {
        alignas(64) float sums[16 * kBlockRows];
        uint8_t* unpacked = mine_[static_cast<size_t>(thread)].tiles.at_least(
            static_cast<size_t>(weights.groups) * kUnpackedTile);
        for (int64_t i = begin; i < end; i++) {
            const int64_t pass = i / weights.blocks, block = i % weights.blocks;
            const Segment& s = weights.segment_of(block);
            const int f = static_cast<int>(s.format);
            const uint8_t* data = s.data + static_cast<size_t>(block - s.first_block) * s.stride();
            kernels_.unpack[f](data, s.supers, unpacked);
            const uint8_t* next = data + s.stride();
            const int64_t stop = std::min(n_tiles, (pass + 1) * per_pass);
            for (int64_t t = pass * per_pass; t < stop; t++) {
                const Panels::Tile& tile = tiles[static_cast<size_t>(t)];
                kernels_.unpacked[f][tile.size_index](unpacked, weights.groups, tile.panel, next, sums);
                next = nullptr;
                finish(s, block, tile, sums, weights, residual, out);
            }
        }
    });
    pool_.run(n_low, 1, [&](int64_t begin, int64_t end, int thread) {
        for (int64_t i = begin; i < end; i++) {
            narrow_part(panels, i, *fill, mine_[static_cast<size_t>(thread)]);
        }
    });
}

// Gate and up side by side, 32 columns at a time, straight into the hidden panels: as floats between
// two matrices they would be the largest thing a prompt writes, at a stride that caches dislike.
void Engine::multiply_gated(const Panels& panels, const Linear& gate_up, const Panels& hidden) {
    constexpr int kBlocks = 4;  // gate, gate, up, up
    const auto& tiles = panels.tiles();
    const auto n_tiles = static_cast<int64_t>(tiles.size());
    const int64_t per_pass = tiles_per_pass(gate_up.groups);
    const int64_t passes = (n_tiles + per_pass - 1) / per_pass, groups = hidden.groups();
    const auto bytes = static_cast<size_t>(gate_up.groups) * kUnpackedTile;
    pool_.run(passes * groups, 1, [&](int64_t begin, int64_t end, int thread) {
        alignas(64) float sums[kBlocks * 16 * kBlockRows];
        uint8_t* unpacked = mine_[static_cast<size_t>(thread)].tiles.at_least(kBlocks * bytes);
        for (int64_t i = begin; i < end; i++) {
            const int64_t pass = i / groups, group = i % groups;
            const uint8_t* data[kBlocks];
            for (int b = 0; b < kBlocks; b++) {
                const Segment& s = gate_up.segments[static_cast<size_t>(b / 2)];
                data[b] = s.data + static_cast<size_t>(2 * group + b % 2) * s.stride();
                kernels_.unpack[static_cast<int>(s.format)](data[b], s.supers,
                                                            unpacked + static_cast<size_t>(b) * bytes);
            }
            const int64_t first = pass * per_pass, stop = std::min(n_tiles, first + per_pass);
            for (int64_t t = first; t < stop; t++) {
                const Panels::Tile& tile = tiles[static_cast<size_t>(t)];
                for (int b = 0; b < kBlocks; b++) {
                    const Segment& s = gate_up.segments[static_cast<size_t>(b / 2)];
                    kernels_.unpacked[static_cast<int>(s.format)][tile.size_index](
                        unpacked + static_cast<size_t>(b) * bytes, gate_up.groups, tile.panel,
                        t == first ? data[b] + 2 * s.stride() : nullptr, sums + b * kBlockRows * tile.size);
                }
                const Panel& panel = hidden.tiles()[static_cast<size_t>(t)].panel;
                kernels_.gate_tile(sums, tile.rows, panel.from(group * tile.size), tile.size);
            }
        }
    });
}

// Tiles of up to 8 rows of one pair each: first what A makes of them, beside the weights' own work, then,
// many outputs at a time, what B makes of that. No sum runs over more than one row, and each is one chain
// on one thread.
void Engine::multiply_low(const Panels& panels, const Linear& weights, const float* residual,
                          const Low& low, Out out, const Fill& fill) {
    constexpr int64_t kChunk = 64;  // blocks of outputs that a thread takes at a time
    low_parts_.clear();
    low_chunks_.clear();
    int64_t floats = 0;
    for (const LowRows& rows : low) {
        const int64_t stride = rows.pair->narrow->blocks * kBlockRows;
        for (int64_t i = 0; i < rows.n; i += kLowTile) {
            const int64_t n = std::min(kLowTile, rows.n - i);
            for (const LowRank::Side& side : rows.pair->sides) {
                for (int64_t b = 0; b < side.blocks(); b += kChunk) {
                    low_chunks_.push_back({low_parts_.size(), &side, b, std::min(b + kChunk, side.blocks())});
                }
            }
            low_parts_.push_back({rows.pair.get(), rows.first + i, n, floats, stride});
            floats += n * stride;
        }
    }
    narrow_.at_least(static_cast<size_t>(floats));
    multiply(panels, weights, residual, out, low_parts_.empty() ? nullptr : &fill);
    raise_low(out);
}

// What A makes of one part's rows. They are there already as the weights met them; where they were stored
// for another kernel, `fill` makes them again.
void Engine::narrow_part(const Panels& panels, int64_t i, const Fill& fill, PerThread& mine) {
    const LowPart& part = low_parts_[static_cast<size_t>(i)];
    const Linear& a = *part.pair->narrow;
    const Panels::Tile* tile = nullptr;
    for (const Panels::Tile& whole : panels.tiles()) {
        if (panels.tokens() < kDirectTokens && whole.first == part.first && whole.rows == part.rows) {
            tile = &whole;
        }
    }
    if (!tile) {
        mine.low.shape(part.rows, a.groups, 0);
        tile = &mine.low.tiles().front();
        for (int r = 0; r < tile->rows; r++) {
            if (panels.tokens() >= kDirectTokens) {
                fill(mine.low, *tile, r, part.first + r, mine);
                continue;
            }
            const int64_t row = part.first + r;
            const Panels::Tile& from = panels.tiles()[static_cast<size_t>(row / kLowTile)];
            copy_token(from.panel, from.size, row - from.first, tile->panel, tile->size, r, a.groups);
        }
    }
    alignas(64) float sums[kLowTile * kBlockRows];
    float* u = narrow_.data() + part.at;
    for (int64_t block = 0; block < a.blocks; block++) {
        const Segment& s = a.segment_of(block);
        const uint8_t* data = s.data + static_cast<size_t>(block - s.first_block) * s.stride();
        kernels_.direct[static_cast<int>(s.format)][tile->size_index](data, s.supers, tile->panel, sums);
        for (int r = 0; r < tile->rows; r++) {
            std::memcpy(u + r * part.stride + block * kBlockRows, sums + r * kBlockRows, kBlockRows * 4);
        }
    }
}

void Engine::raise_low(Out out) {
    pool_.run(static_cast<int64_t>(low_chunks_.size()), 1, [&](int64_t begin, int64_t end, int) {
        for (int64_t i = begin; i < end; i++) {
            const LowChunk& chunk = low_chunks_[static_cast<size_t>(i)];
            const LowPart& part = low_parts_[chunk.part];
            const LowRank::Side& side = *chunk.side;
            for (int64_t b = chunk.begin; b < chunk.end; b++) {
                float* y[kLowTile];
                for (int64_t r = 0; r < part.rows; r++) {
                    y[r] = out.row(part.first + r) + side.out + b * kBlockRows;
                }
                const auto n = static_cast<int>(std::min<int64_t>(kBlockRows, side.rows - b * kBlockRows));
                kernels_.raise[part.rows - 1](
                    side.codes.data() + b * side.rank * kBlockRows, side.scale.data() + b * kBlockRows,
                    narrow_.data() + part.at + side.first, part.stride, side.rank, n, y);
            }
        }
    });
}

void Engine::norm_linear(In x, const float* norm, float eps, const Linear& weights, const Low& low,
                         Out out) {
    const std::lock_guard<std::mutex> lock(one_at_a_time_);
    fill(panels_, x, norm, eps);
    multiply_low(panels_, weights, nullptr, low, out,
                 [&](Panels& panels, const Panels::Tile& tile, int r, int64_t row, PerThread& mine) {
                     fill_token(panels, tile, r, x.row(row), x.cols, norm, eps, mine);
                 });
}

void Engine::linear_add(In x, In a, const Linear& weights, const Low& low, Out out) {
    const std::lock_guard<std::mutex> lock(one_at_a_time_);
    fill(panels_, a, nullptr, 0);
    multiply_low(panels_, weights, x.data, low, out,
                 [&](Panels& panels, const Panels::Tile& tile, int r, int64_t row, PerThread& mine) {
                     fill_token(panels, tile, r, a.row(row), a.cols, nullptr, 0, mine);
                 });
}

void Engine::mlp_add(In x, const float* norm, float eps, const Linear& gate_up, const Linear& down,
                     const Low& low_gate_up, const Low& low_down, Out out) {
    const std::lock_guard<std::mutex> lock(one_at_a_time_);
    // Many rows go a slice at a time, so that gate and up stay in the cache.
    constexpr int64_t kSlice = 256;
    const auto within = [](const Low& low, int64_t first, int64_t n) {
        Low found;
        for (const LowRows& rows : low) {
            const int64_t begin = std::max(rows.first, first);
            const int64_t end = std::min(rows.first + rows.n, first + n);
            if (begin < end) found.push_back({rows.pair, begin - first, end - begin});
        }
        return found;
    };
    for (int64_t first = 0; first < x.rows; first += kSlice) {
        const int64_t n = std::min(kSlice, x.rows - first);
        mlp_rows({x.row(first), n, x.cols}, norm, eps, gate_up, down, within(low_gate_up, first, n),
                 within(low_down, first, n), {out.row(first), n, out.cols});
    }
}

void Engine::mlp_rows(In x, const float* norm, float eps, const Linear& gate_up, const Linear& down,
                      const Low& low_gate_up, const Low& low_down, Out out) {
    const int64_t n = gate_up.rows / 2;
    if (x.rows >= kDirectTokens && pairs_up(gate_up) && low_gate_up.empty() && low_down.empty()) {
        fill(panels_, x, norm, eps);
        inner_.shape(x.rows, n / kTileCols, kernels_.shift);
        multiply_gated(panels_, gate_up, inner_);
        multiply(inner_, down, x.data, out);
        return;
    }
    const Out both{gate_up_.at_least(static_cast<size_t>(x.rows * 2 * n + 16)), x.rows, 2 * n};
    fill(panels_, x, norm, eps);
    multiply_low(panels_, gate_up, nullptr, low_gate_up, both,
                 [&](Panels& panels, const Panels::Tile& tile, int r, int64_t row, PerThread& mine) {
                     fill_token(panels, tile, r, x.row(row), x.cols, norm, eps, mine);
                 });
    inner_.shape(x.rows, (n + kTileCols - 1) / kTileCols, kernels_.shift);
    // Few tokens are cut along the columns: threads then write to cache lines of their own.
    constexpr int64_t kSliceGroups = 16;
    const auto tiles = static_cast<int64_t>(inner_.tiles().size());
    const int64_t groups = inner_.groups();
    const int64_t slice = tiles < pool_.threads() ? kSliceGroups : groups;
    const int64_t slices = (groups + slice - 1) / slice;
    pool_.run(tiles * slices, 1, [&](int64_t begin, int64_t end, int thread) {
        PerThread& mine = mine_[static_cast<size_t>(thread)];
        float* hidden = mine.row.at_least(static_cast<size_t>(slice * kTileCols + 16));
        for (int64_t i = begin; i < end; i++) {
            const Panels::Tile& tile = inner_.tiles()[static_cast<size_t>(i / slices)];
            const int64_t first = i % slices * slice, count = std::min(slice, groups - first);
            const int64_t from = first * kTileCols, cols = std::min(count * kTileCols, n - from);
            const Panel panel = tile.panel.from(first * tile.size);
            for (int r = 0; r < tile.rows; r++) {
                const float* gate = both.row(tile.first + r) + from;
                kernels_.swiglu(gate, gate + n, cols, hidden);
                std::memset(hidden + cols, 0, static_cast<size_t>(count * kTileCols - cols) * 4);
                kernels_.quantise(hidden, count, panel, r, tile.size);
            }
        }
    });
    multiply_low(inner_, down, x.data, low_down, out,
                 [&](Panels&, const Panels::Tile& tile, int r, int64_t row, PerThread& mine) {
                     float* hidden = mine.row.at_least(static_cast<size_t>(groups * kTileCols + 16));
                     kernels_.swiglu(both.row(row), both.row(row) + n, n, hidden);
                     std::memset(hidden + n, 0, static_cast<size_t>(groups * kTileCols - n) * 4);
                     kernels_.quantise(hidden, groups, tile.panel, r, tile.size);
                 });
}

}  // namespace freehold

// The Python module: checks every size before a pointer is used, and lets go of the interpreter
// lock while it computes.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#include "engine.h"
#include "pack.h"

namespace nb = nanobind;

namespace freehold {
namespace {

template <class T, int n>
using Array = nb::ndarray<T, nb::numpy, nb::ndim<n>, nb::c_contig, nb::device::cpu>;
using Floats1 = Array<const float, 1>;
using Floats2 = Array<const float, 2>;
using Out2 = Array<float, 2>;
using Bytes = Array<const uint8_t, 1>;
using Ids = Array<const int64_t, 1>;

void require(bool good, const char* what) {
    if (!good) throw std::invalid_argument(what);
}

In in(const Floats2& x) {
    return {x.data(), static_cast<int64_t>(x.shape(0)), static_cast<int64_t>(x.shape(1))};
}
Out out(const Out2& x) {
    return {x.data(), static_cast<int64_t>(x.shape(0)), static_cast<int64_t>(x.shape(1))};
}

const char* const kFormatNames[kFormats] = {"Q4_0", "Q4_1", "Q5_0", "Q5_1",
                                            "Q8_0", "Q4_K", "Q5_K", "Q6_K"};

Format format_named(const std::string& name) {
    for (int f = 0; f < kFormats; f++) {
        if (name == kFormatNames[f]) return static_cast<Format>(f);
    }
    throw std::invalid_argument("unknown weight format " + name);
}

std::shared_ptr<Engine> make_engine(int threads, const std::string& isa) {
    require(threads >= 1 && threads <= 1024, "threads must lie between 1 and 1024");
    const Kernels* kernels = kernels_for(isa.c_str());
    if (!kernels) throw std::invalid_argument("this machine cannot run the kernels named " + isa);
    return std::make_shared<Engine>(threads, *kernels);
}

// What Python gives of a layer: (format, rows, cols, bytes) of each part, and the bias.
struct Given {
    std::vector<Engine::Part> parts;
    std::vector<Bytes> alive;
    const float* bias = nullptr;

    Given(const std::vector<nb::tuple>& tuples, const std::optional<Floats1>& biases) {
        require(!tuples.empty(), "a layer needs weights");
        int64_t rows = 0;
        for (const nb::tuple& part : tuples) {
            const Format format = format_named(nb::cast<std::string>(part[0]));
            const auto n = nb::cast<int64_t>(part[1]), cols = nb::cast<int64_t>(part[2]);
            constexpr int64_t kMost = int64_t{1} << 31;
            require(n > 0 && cols > 0 && n < kMost && cols < kMost, "weights need rows and columns");
            require(cols % layout_of(format).super_cols() == 0, "columns must be whole blocks");
            require(parts.empty() || parts.front().cols == cols, "parts differ in columns");
            alive.push_back(nb::cast<Bytes>(part[3], false));
            parts.push_back({format, n, cols, alive.back().data()});
            rows += n;
        }
        require(!biases || static_cast<int64_t>(biases->size()) == rows,
                "the bias needs a value per row");
        if (biases) bias = biases->data();
    }
};

int64_t supers_of(const Engine::Part& part) { return part.cols / layout_of(part.format).super_cols(); }

// From GGUF blocks.
std::shared_ptr<Linear> pack(Engine& engine, const std::vector<nb::tuple>& parts,
                             const std::optional<Floats1>& bias) {
    const Given given(parts, bias);
    for (size_t i = 0; i < given.parts.size(); i++) {
        const Engine::Part& part = given.parts[i];
        const int64_t bytes = part.rows * supers_of(part) * layout_of(part.format).source_bytes;
        require(static_cast<int64_t>(given.alive[i].size()) == bytes,
                "bytes do not fit rows and columns");
    }
    const nb::gil_scoped_release release;
    return engine.pack(given.parts, given.bias);
}

// Over packed bytes that lie somewhere already, which are neither copied nor written to.
std::shared_ptr<Linear> hold(const std::vector<nb::tuple>& parts, const std::optional<Floats1>& bias) {
    const Given given(parts, bias);
    auto linear = std::make_shared<Linear>();
    for (size_t i = 0; i < given.parts.size(); i++) {
        const Engine::Part& part = given.parts[i];
        const Bytes& bytes = given.alive[i];
        const auto blocks = static_cast<size_t>((part.rows + kBlockRows - 1) / kBlockRows);
        require(bytes.size() == blocks * block_bytes(part.format, supers_of(part)),
                "bytes do not fit rows and columns");
        require(reinterpret_cast<uintptr_t>(part.data) % 64 == 0, "packed bytes must be aligned to 64");
        // The buffer lives as long as the layer; layers are let go of under the interpreter's lock.
        linear->add(part.format, part.rows, supers_of(part), part.data, std::make_shared<Bytes>(bytes));
    }
    linear->set_bias(given.bias);
    return linear;
}

// The packed bytes of each part: (format, rows, cols, bytes), what `hold` takes.
nb::list parts_of(const std::shared_ptr<Linear>& linear) {
    const nb::object owner = nb::cast(linear);
    nb::list parts;
    for (const Segment& s : linear->segments) {
        const size_t shape[] = {s.stride() * static_cast<size_t>(s.blocks())};
        parts.append(nb::make_tuple(kFormatNames[static_cast<int>(s.format)], s.rows, linear->cols,
                                    nb::ndarray<const uint8_t, nb::numpy>(s.data, 1, shape, owner)));
    }
    return parts;
}

nb::object bias_of(const std::shared_ptr<Linear>& linear) {
    if (linear->bias.empty()) return nb::none();
    const size_t shape[] = {linear->bias.size()};
    return nb::cast(nb::ndarray<const float, nb::numpy>(linear->bias.data(), 1, shape, nb::cast(linear)));
}

void embed(Engine& engine, const Linear& table, const Ids& ids, const Out2& y) {
    const Out o = out(y);
    require(o.rows == static_cast<int64_t>(ids.size()) && o.cols == table.cols, "embed: shapes differ");
    for (size_t i = 0; i < ids.size(); i++) {
        require(ids.data()[i] >= 0 && ids.data()[i] < table.rows, "an id lies outside the table");
    }
    const nb::gil_scoped_release release;
    engine.embed(table, ids.data(), o);
}

// Weights may have more columns than x: they were padded with zeros to a whole group.
bool fits(int64_t cols, const Linear& weights) {
    return cols <= weights.cols && (cols + kTileCols - 1) / kTileCols == weights.groups;
}

using Codes2 = Array<const int8_t, 2>;
using LowTuples = std::vector<std::tuple<std::shared_ptr<LowRank>, int64_t, int64_t>>;

// A low-rank pair: `narrow` is A of all sides, each side (first output, first of A's outputs, codes (rows,
// rank), scales (rows)).
std::shared_ptr<LowRank> make_low_rank(const std::shared_ptr<Linear>& narrow, int64_t outputs,
                                       const std::vector<nb::tuple>& sides) {
    require(narrow && narrow->bias.empty() && !sides.empty(), "a low-rank pair needs both its halves");
    auto pair = std::make_shared<LowRank>();
    pair->narrow = narrow;
    pair->inputs = narrow->cols;
    pair->outputs = outputs;
    pair->nbytes = narrow->nbytes;
    for (const nb::tuple& side : sides) {
        const auto at = nb::cast<int64_t>(side[0]), first = nb::cast<int64_t>(side[1]);
        const auto codes = nb::cast<Codes2>(side[2], false);
        const auto scale = nb::cast<Floats1>(side[3], false);
        const auto rows = static_cast<int64_t>(codes.shape(0)), rank = static_cast<int64_t>(codes.shape(1));
        require(rows > 0 && rank > 0 && static_cast<int64_t>(scale.size()) == rows && at >= 0 &&
                    rows <= outputs && at <= outputs - rows && first >= 0 && rank <= narrow->rows &&
                    first <= narrow->rows - rank,
                "low rank: a side's shapes do not fit");
        pair->add(at, first, codes.data(), scale.data(), rows, rank);
    }
    return pair;
}

// Rows of a step that go through pairs, for as many steps as have them.
struct LowStep {
    Engine::Low low;
};

std::shared_ptr<LowStep> make_low_rows(const LowTuples& tuples) {
    auto step = std::make_shared<LowStep>();
    int64_t from = 0;
    for (const auto& [pair, first, n] : tuples) {
        require(pair && first >= from && n > 0 && n <= INT64_MAX - first, "low rank: rows are named in order");
        step->low.push_back({pair, first, n});
        from = first + n;
    }
    return step;
}

const Engine::Low& fitting(const LowStep* step, int64_t rows, int64_t cols, int64_t outputs) {
    static const Engine::Low none;
    if (!step) return none;
    for (const LowRows& one : step->low) {
        require(one.n <= rows && one.first <= rows - one.n, "low rank: rows are named in order");
        require(one.pair->outputs == outputs && cols <= one.pair->inputs &&
                    (cols + kTileCols - 1) / kTileCols == one.pair->narrow->groups,
                "low rank: a pair is made for another layer");
    }
    return step->low;
}

void norm_linear(Engine& engine, const Floats2& x, const Floats1& norm, float eps,
                 const Linear& weights, const Out2& y, const LowStep* low) {
    const In i = in(x);
    const Out o = out(y);
    require(static_cast<int64_t>(norm.size()) == i.cols && fits(i.cols, weights) &&
                o.rows == i.rows && o.cols == weights.rows,
            "norm_linear: shapes differ");
    const Engine::Low& beside = fitting(low, i.rows, i.cols, o.cols);
    const nb::gil_scoped_release release;
    engine.norm_linear(i, norm.data(), eps, weights, beside, o);
}

void linear_add(Engine& engine, const Floats2& x, const Floats2& a, const Linear& weights,
                const Out2& y, const LowStep* low) {
    const In i = in(x), j = in(a);
    const Out o = out(y);
    require(i.rows == o.rows && i.cols == o.cols && j.rows == i.rows && fits(j.cols, weights) &&
                o.cols == weights.rows,
            "linear_add: shapes differ");
    const Engine::Low& beside = fitting(low, j.rows, j.cols, o.cols);
    const nb::gil_scoped_release release;
    engine.linear_add(i, j, weights, beside, o);
}

void mlp_add(Engine& engine, const Floats2& x, const Floats1& norm, float eps, const Linear& gate_up,
             const Linear& down, const Out2& y, const LowStep* low_gate_up,
             const LowStep* low_down) {
    const In i = in(x);
    const Out o = out(y);
    require(i.rows == o.rows && i.cols == o.cols && static_cast<int64_t>(norm.size()) == i.cols &&
                fits(i.cols, gate_up) && gate_up.rows % 2 == 0 &&
                fits(gate_up.rows / 2, down) && down.rows == o.cols,
            "mlp_add: shapes differ");
    const Engine::Low& beside = fitting(low_gate_up, i.rows, i.cols, gate_up.rows);
    const Engine::Low& below = fitting(low_down, i.rows, gate_up.rows / 2, o.cols);
    const nb::gil_scoped_release release;
    engine.mlp_add(i, norm.data(), eps, gate_up, down, beside, below, o);
}

std::shared_ptr<KvCache> make_cache(int layers, int64_t pages, int page_size, int heads, int dim,
                                    const std::string& type) {
    require(layers > 0 && pages > 0 && heads > 0 && dim > 0 && dim % 2 == 0, "cache: sizes");
    require(page_size > 0 && page_size % 16 == 0 && page_size <= 1 << 16,
            "page_size must be a multiple of 16");
    require(layers <= 1 << 16 && heads <= 1 << 16 && dim <= 1 << 16 && pages < int64_t{1} << 31,
            "cache: sizes");
    const char* const types[kKvTypes] = {"float32", "bfloat16", "int8"};
    const auto known = std::find(types, types + kKvTypes, type);
    require(known != types + kKvTypes, "cache: float32, bfloat16 or int8");
    const double bytes = 1.0 * layers * static_cast<double>(pages) * page_size * heads * (dim + 16) * 8;
    require(bytes < 1e15, "cache: sizes");
    return std::make_shared<KvCache>(layers, pages, page_size, heads, dim,
                                     static_cast<KvType>(known - types));
}

void copy_page(KvCache& cache, int64_t from, int64_t to) {
    require(from >= 0 && to >= 0 && from < cache.pages && to < cache.pages, "no such page");
    cache.copy_page(from, to);
}

// spans (n, 4): first row, rows, first position, where its pages begin; rows follow each other.
std::shared_ptr<Batch> make_batch(const KvCache& cache, const Array<const int64_t, 2>& spans,
                                  const Array<const int32_t, 1>& pages, const Floats2& cos,
                                  const Floats2& sin) {
    auto batch = std::make_shared<Batch>();
    require(spans.shape(1) == 4, "batch: spans are (n, 4)");
    batch->half = cache.dim / 2;
    batch->pages.assign(pages.data(), pages.data() + pages.size());
    for (const int32_t page : batch->pages) require(page >= 0 && page < cache.pages, "no such page");
    const auto n_pages = static_cast<int64_t>(pages.size());
    constexpr int64_t kMost = int64_t{1} << 30;
    for (size_t s = 0; s < spans.shape(0); s++) {
        const int64_t* v = spans.data() + 4 * s;
        const BatchSpan span{v[0], v[1], v[2], v[3]};
        require(span.row == batch->rows && span.n > 0 && span.n < kMost && span.first >= 0 &&
                    span.first < kMost && span.pages >= 0,
                "batch: spans follow each other");
        const int64_t needed = (span.first + span.n + cache.page_size - 1) / cache.page_size;
        require(span.pages <= n_pages && needed <= n_pages - span.pages, "batch: too few pages");
        batch->rows += span.n;
        require(batch->rows < kMost, "batch: too many rows");
        batch->spans.push_back(span);
        batch->span_of_row.resize(static_cast<size_t>(batch->rows), static_cast<int32_t>(s));
    }
    for (const Floats2* t : {&cos, &sin}) {
        require(static_cast<int64_t>(t->shape(0)) == batch->rows &&
                    static_cast<int>(t->shape(1)) == batch->half,
                "batch: angles are (rows, dim / 2)");
    }
    batch->cos.assign(cos.data(), cos.data() + cos.size());
    batch->sin.assign(sin.data(), sin.data() + sin.size());
    return batch;
}

void attend(Engine& engine, const Floats2& qkv, const Batch& batch, int layer, int queries,
            const std::optional<Floats1>& q_norm, const std::optional<Floats1>& k_norm, float eps,
            int64_t window, KvCache& cache, const Out2& y) {
    const In i = in(qkv);
    const Out o = out(y);
    require(layer >= 0 && layer < cache.layers, "attend: no such layer");
    require(queries > 0 && queries <= 1 << 16 && queries % cache.heads == 0, "attend: heads");
    const int64_t dim = cache.dim;
    require(i.rows == batch.rows && o.rows == i.rows && batch.half == cache.dim / 2 &&
                i.cols == (queries + 2 * cache.heads) * dim && o.cols == queries * dim,
            "attend: shapes differ");
    require(q_norm.has_value() == k_norm.has_value(), "attend: both norms or none");
    require(!q_norm || (static_cast<int64_t>(q_norm->size()) == dim &&
                        static_cast<int64_t>(k_norm->size()) == dim),
            "attend: norms are (dim,)");
    require(window >= 0, "attend: window");
    // A batch is made for a cache; one made for another could name pages that this one lacks.
    for (const int32_t page : batch.pages) require(page < cache.pages, "no such page");
    for (const BatchSpan& s : batch.spans) {
        const int64_t needed = (s.first + s.n + cache.page_size - 1) / cache.page_size;
        require(needed <= static_cast<int64_t>(batch.pages.size()) - s.pages, "batch: too few pages");
    }
    const Engine::Heads heads{queries, q_norm ? q_norm->data() : nullptr,
                              k_norm ? k_norm->data() : nullptr, eps, window};
    const nb::gil_scoped_release release;
    engine.attend(i, batch, layer, heads, cache, o);
}

}  // namespace

NB_MODULE(_kernels, m) {
    // A process that ends while its globals still hold weights is no leak worth a page of warnings.
    nb::set_leak_warnings(false);
    nb::class_<Linear>(m, "Linear")
        .def_ro("rows", &Linear::rows)
        .def_ro("cols", &Linear::cols)
        .def_ro("nbytes", &Linear::nbytes)
        .def_prop_ro("parts", parts_of)
        .def_prop_ro("bias", bias_of);
    nb::class_<LowRank>(m, "LowRank").def_ro("nbytes", &LowRank::nbytes);
    nb::class_<LowStep>(m, "LowRows");
    nb::class_<KvCache>(m, "KvCache")
        .def_prop_ro("nbytes", &KvCache::nbytes)
        .def("copy_page", copy_page);
    nb::class_<Batch>(m, "Batch");
    nb::class_<Engine>(m, "Engine")
        .def_prop_ro("isa", &Engine::isa)
        .def_prop_ro("threads", &Engine::threads)
        .def("read_rate", &Engine::read_rate, nb::call_guard<nb::gil_scoped_release>())
        .def("pack", pack, nb::arg("parts"), nb::arg("bias").noconvert().none())
        .def("embed", embed, nb::arg("table"), nb::arg("ids").noconvert(), nb::arg("out").noconvert())
        .def("norm_linear", norm_linear, nb::arg("x").noconvert(), nb::arg("norm").noconvert(),
             nb::arg("eps"), nb::arg("weights"), nb::arg("out").noconvert(),
             nb::arg("low") = nb::none())
        .def("linear_add", linear_add, nb::arg("x").noconvert(), nb::arg("a").noconvert(),
             nb::arg("weights"), nb::arg("out").noconvert(), nb::arg("low") = nb::none())
        .def("mlp_add", mlp_add, nb::arg("x").noconvert(), nb::arg("norm").noconvert(),
             nb::arg("eps"), nb::arg("gate_up"), nb::arg("down"), nb::arg("out").noconvert(),
             nb::arg("low_gate_up") = nb::none(), nb::arg("low_down") = nb::none())
        .def("attend", attend, nb::arg("qkv").noconvert(), nb::arg("batch"), nb::arg("layer"),
             nb::arg("queries"), nb::arg("q_norm").noconvert().none(),
             nb::arg("k_norm").noconvert().none(), nb::arg("eps"), nb::arg("window"),
             nb::arg("cache"), nb::arg("out").noconvert());
    m.def("make_engine", make_engine, nb::arg("threads"), nb::arg("isa"));
    m.def("hold", hold, nb::arg("parts"), nb::arg("bias").noconvert().none());
    m.def("make_low_rank", make_low_rank, nb::arg("narrow"), nb::arg("outputs"), nb::arg("sides"));
    m.def("make_low_rows", make_low_rows, nb::arg("rows"));
    m.def("make_cache", make_cache, nb::arg("layers"), nb::arg("pages"), nb::arg("page_size"),
          nb::arg("heads"), nb::arg("dim"), nb::arg("type"));
    m.def("make_batch", make_batch, nb::arg("cache"), nb::arg("spans").noconvert(),
          nb::arg("pages").noconvert(), nb::arg("cos").noconvert(), nb::arg("sin").noconvert());
    m.def("isas", [] {
        std::vector<std::string> names;
        for (const char* const* name = runnable_isas(); *name; name++) names.emplace_back(*name);
        return names;
    });
}

}  // namespace freehold

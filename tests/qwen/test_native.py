"""The native operations against PyTorch's, and against themselves: a row's bits depend on nothing
but the row and what its sequence holds."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from freehold.errors import UsageError
from freehold.qwen import pack
from freehold.qwen.config import Config
from freehold.qwen.ops import _kernels, native
from freehold.qwen.ops.native import NativeOps
from freehold.qwen.quants import KINDS, dequantise
from freehold.types import RawTensor

FORMATS = pack.FORMATS
ISAS = _kernels.isas()
CACHES = ("float32", "bfloat16", "int8")


def config(**changes: Any) -> Config:
    fields: dict[str, Any] = {
        "family": "qwen3", "n_layers": 2, "width": 64, "mlp_width": 96, "n_heads": 4,
        "n_kv_heads": 2, "head_dim": 16, "vocab": 100, "context": 4096, "norm_eps": 1e-6,
        "rope_theta": 1e4, "rope_scaling": None, "qkv_bias": False, "out_bias": False,
        "qk_norm": False, "tied_head": True, "windows": (None, None),
    }  # fmt: skip
    return Config(**(fields | changes))


def open_native(shape: Config, **changes: Any) -> NativeOps:
    options: dict[str, Any] = {"threads": 2, "n_pages": 64, "page_size": 16, "isa": ""}
    return native.open_ops(shape, **(options | changes))


def weights_of(rng: np.random.Generator, kind: str, rows: int, cols: int) -> RawTensor:
    """Random codes and sub-scales under scales of an ordinary size."""
    blocks = rows * cols // KINDS[kind].weights
    records = rng.integers(0, 256, (blocks, KINDS[kind].record.itemsize), dtype=np.uint8)
    records = records.view(KINDS[kind].record)[:, 0]
    for field in {"d", "m", "dmin"} & set(records.dtype.names):
        records[field] = rng.uniform(-0.02, 0.02, blocks).astype(np.float16)
    return RawTensor(name="w", dtype=kind, shape=(rows, cols), data=records.view(np.uint8))


def quantised(x: np.ndarray) -> np.ndarray:
    """What the kernels make of activations, in float64: groups of 32, 8 bits."""
    padded = np.zeros((len(x), -(-x.shape[1] // 32) * 32), np.float32)
    padded[:, : x.shape[1]] = x
    groups = padded.reshape(len(x), -1, 32)
    top = np.abs(groups).max(axis=-1, keepdims=True)
    inverse = np.divide(np.float32(127), top, out=np.zeros_like(top), where=top > 0)
    codes = np.rint(groups * inverse).astype(np.float64)
    return (codes * (top / np.float32(127))).reshape(len(x), -1)[:, : x.shape[1]]


def linear(ops: NativeOps, x: np.ndarray, weights: Any) -> np.ndarray:
    zeros = np.zeros((len(x), weights.rows), np.float32)
    return ops.linear_add(zeros, x, weights)


# --- linear layers --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("isa", ISAS)
def test_linear_is_the_exact_product_of_what_was_quantised(kind: str, isa: str) -> None:
    rng = np.random.default_rng(3)
    ops = open_native(config(), isa=isa)
    tensor = weights_of(rng, kind, 37, 512)
    packed = ops.pack([tensor])
    w = dequantise(tensor).astype(np.float64)
    for rows in (1, 2, 3, 5, 8, 15, 16, 17, 40):
        x = rng.normal(size=(rows, 512)).astype(np.float32)
        q = quantised(x)
        error = np.abs(linear(ops, x, packed) - q @ w.T)
        assert (error <= 1e-6 * (np.abs(q) @ np.abs(w.T)) + 1e-6).all()


@settings(max_examples=40, deadline=None)
@given(
    kinds=st.lists(st.sampled_from(FORMATS), min_size=1, max_size=3),
    outputs=st.lists(st.integers(1, 70), min_size=3, max_size=3),
    blocks=st.integers(1, 3),
    rows=st.integers(1, 50),
    biased=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_row_has_the_same_bits_alone_in_any_batch_and_on_any_machine(
    *, kinds: list[str], outputs: list[int], blocks: int, rows: int, biased: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    cols = 256 * blocks
    tensors = [weights_of(rng, k, n, cols) for k, n in zip(kinds, outputs, strict=False)]
    total = sum(t.shape[0] for t in tensors)
    bias = rng.normal(size=total).astype(np.float32)
    biases = [RawTensor(name="b", dtype="F32", shape=(total,), data=bias.view(np.uint8))]
    x = rng.normal(size=(rows, cols)).astype(np.float32) * 10.0 ** rng.integers(-5, 5, (rows, 1))
    x = x.astype(np.float32)
    norm = rng.uniform(0.5, 1.5, cols).astype(np.float32)
    results = []
    for isa in ISAS:
        for threads in (1, 3):
            ops = open_native(config(), isa=isa, threads=threads)
            packed = ops.pack(tensors, biases if biased else [])
            results.append(ops.norm_linear(x, norm, packed))
    row = int(rng.integers(rows))
    results.append(np.tile(ops.norm_linear(x[row : row + 1], norm, packed), (rows, 1)))
    assert np.array_equal(results[-1][row].view(np.uint32), results[0][row].view(np.uint32))
    for other in results[1:-1]:
        assert np.array_equal(other.view(np.uint32), results[0].view(np.uint32))


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(FORMATS),
    outputs=st.integers(1, 40),
    blocks=st.integers(1, 3),
    rows=st.integers(1, 20),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_bytes_at_all_are_weights_like_any_other(
    kind: str, outputs: int, blocks: int, rows: int, seed: int
) -> None:
    """Scales too are random bytes: infinite, NaN or subnormal. No machine falls over or differs."""
    rng = np.random.default_rng(seed)
    cols = 256 * blocks
    data = rng.integers(0, 256, outputs * cols // KINDS[kind].weights * KINDS[kind].record.itemsize)
    tensor = RawTensor(name="w", dtype=kind, shape=(outputs, cols), data=data.astype(np.uint8))
    x = rng.normal(size=(rows, cols)).astype(np.float32)
    results = []
    for isa in ISAS:
        ops = open_native(config(), isa=isa)
        results.append(linear(ops, x, ops.pack([tensor])))
    for other in results[1:]:
        assert np.array_equal(other, results[0], equal_nan=True)


@pytest.mark.parametrize("isa", ISAS)
def test_extreme_rows_stay_to_themselves(isa: str) -> None:
    rng = np.random.default_rng(5)
    ops = open_native(config(), isa=isa)
    packed = ops.pack([weights_of(rng, "Q5_0", 40, 64)])
    x = rng.normal(size=(20, 64)).astype(np.float32)
    calm = linear(ops, x, packed)
    x[3, 7] = np.nan
    x[5, 40] = -np.inf
    x[6] = 0
    x[7] *= 1e-42  # subnormal: too small to matter, and treated as zero
    x[8] = 3e38
    wild = linear(ops, x, packed)
    untouched = [i for i in range(20) if i not in (3, 5, 6, 7, 8)]
    assert np.array_equal(wild[untouched], calm[untouched])
    assert np.isnan(wild[[3, 5]]).all(), "trouble must stay visible"
    assert not wild[[6, 7]].any()


def test_swiglu_and_norm_are_torchs() -> None:
    import torch
    from torch.nn import functional as F  # noqa: N812

    rng = np.random.default_rng(6)
    shape = config(width=96, mlp_width=160)
    ops = open_native(shape)
    x = (rng.normal(size=(21, 96)) * 3).astype(np.float32)
    norm = rng.uniform(0.5, 1.5, 96).astype(np.float32)
    gate_up, down = weights_of(rng, "Q8_0", 320, 96), weights_of(rng, "Q8_0", 96, 160)
    got = ops.mlp_add(x, norm, ops.pack([gate_up]), ops.pack([down]))
    y = F.rms_norm(torch.from_numpy(x), (96,), torch.from_numpy(norm), shape.norm_eps)
    both = torch.from_numpy(quantised(y.numpy())).float() @ torch.from_numpy(dequantise(gate_up)).T
    gate, up = both.chunk(2, dim=-1)
    hidden = quantised((F.silu(gate) * up).numpy())
    wanted = x + hidden @ dequantise(down).T.astype(np.float64)
    # A value on the edge between two 8-bit codes may fall to either side.
    assert np.abs(got - wanted).max() <= 2e-2 * np.abs(wanted).max()
    assert np.abs(got - wanted).mean() <= 1e-4 * np.abs(wanted).max()


@pytest.mark.parametrize("isa", ISAS)
def test_silu_is_right_at_every_size(isa: str) -> None:
    """gate = x and up = 1 through identity matrices: exp, division and 8 bits remain."""
    ops = open_native(config(width=64, mlp_width=64), isa=isa)
    eye = np.eye(64, dtype=np.float32)
    # Column 32 holds the 1, in another group of 32 than x, so that neither coarsens the other.
    gate_up, down = (
        ops.pack(
            [RawTensor(name="w", dtype="F32", shape=m.shape, data=m.reshape(-1).view(np.uint8))]
        )
        for m in (np.vstack([eye, np.tile(eye[32], (64, 1))]), eye)
    )
    for size in (-100.0, -87.4, -20.0, -1.0, 0.5, 10.0, 90.0, 1000.0):
        x = np.zeros((1, 64), np.float32)
        x[0, 0], x[0, 32] = size, 1.0
        # RMSNorm is undone by its own weights.
        norm = np.full(64, np.sqrt((x.astype(np.float64) ** 2).mean() + 1e-6), np.float32)
        got = ops.mlp_add(x, norm, gate_up, down)[0, 0] - size
        wanted = size / (1 + np.exp(-size))
        # Each of the three 8-bit roundings, and each fp16 scale, may cost half a step.
        assert abs(got - wanted) <= 0.01 * abs(wanted) + 1e-5


# --- attention ------------------------------------------------------------------------------------


def spans_of(ops: NativeOps, lengths: list[int], new: list[int]) -> list[SimpleNamespace]:
    spans = []
    for old, n in zip(lengths, new, strict=True):
        state = ops.cache.new()
        state.append(old + n)
        spans.append(SimpleNamespace(state=state, ids=[0] * n))
    return spans


@settings(max_examples=25, deadline=None)
@given(
    head_dim=st.sampled_from([2, 10, 16, 40, 64, 128]),
    groups=st.sampled_from([(1, 1), (2, 7), (3, 4), (2, 1)]),
    tokens=st.integers(1, 330),
    window=st.sampled_from([None, 1, 7, 100, 256, 300]),
    normed=st.booleans(),
    page_size=st.sampled_from([16, 32, 48, 256]),
    kv_dtype=st.sampled_from(["float32", "bfloat16"]),
    isa=st.sampled_from(ISAS),
    seed=st.integers(0, 2**32 - 1),
)
def test_attention_is_torchs(
    *,
    head_dim: int,
    groups: tuple[int, int],
    tokens: int,
    window: int | None,
    normed: bool,
    page_size: int,
    kv_dtype: str,
    isa: str,
    seed: int,
) -> None:
    """In float32; and with a bfloat16 cache as near as three roundings to 8 bits leave it."""
    import torch

    from freehold.qwen.ops import torch as torch_ops

    rng = np.random.default_rng(seed)
    kv_heads, shared = groups
    shape = config(
        n_kv_heads=kv_heads, n_heads=kv_heads * shared, head_dim=head_dim, windows=(None, window)
    )
    ops = open_native(shape, isa=isa, page_size=page_size, n_pages=60, kv_dtype=kv_dtype)
    twin = torch_ops.open_ops(
        shape, dtype="float32", device="cpu", threads=2, n_pages=60, page_size=page_size
    )
    qkv = rng.normal(size=(tokens, (shared + 2) * kv_heads * head_dim)).astype(np.float32)
    norms = rng.uniform(0.5, 1.5, (2, head_dim)).astype(np.float32)
    ours = ops.attend(
        qkv, ops.batch(spans_of(ops, [0], [tokens])), 1, (norms[0], norms[1]) if normed else None
    )
    with torch.inference_mode():
        theirs = twin.attend(
            torch.from_numpy(qkv),
            twin.batch(spans_of(twin, [0], [tokens])),  # type: ignore[arg-type]
            1,
            (torch.from_numpy(norms[0]), torch.from_numpy(norms[1])) if normed else None,
        )
    error = np.abs(ours - theirs.numpy())
    assert error.max() <= (2e-5 if kv_dtype == "float32" else 0.2)
    assert error.mean() <= (2e-6 if kv_dtype == "float32" else 0.005)


@settings(max_examples=15, deadline=None)
@given(
    cuts=st.lists(st.integers(1, 60), min_size=1, max_size=8),
    window=st.sampled_from([None, 33]),
    head_dim=st.sampled_from([2, 10, 16, 40, 64]),
    page_size=st.sampled_from([16, 48]),
    kv_dtype=st.sampled_from(CACHES),
    powers=st.tuples(st.integers(-80, 2), st.integers(0, 40)),
    seed=st.integers(0, 2**32 - 1),
)
def test_attention_has_the_same_bits_however_it_is_cut(
    *,
    cuts: list[int],
    window: int | None,
    head_dim: int,
    page_size: int,
    kv_dtype: str,
    powers: tuple[int, int],
    seed: int,
) -> None:
    """Also of numbers so small that some count as zero, and of small ones among large ones."""
    rng = np.random.default_rng(seed)
    shape = config(windows=(window, window), head_dim=head_dim)
    total = sum(cuts)
    qkv = rng.normal(size=(total, 8 * head_dim)).astype(np.float32)
    low, wide = powers
    qkv *= np.exp2(rng.integers(low, low + wide + 1, qkv.shape)).astype(np.float32)
    results = []
    for isa in ISAS:
        ops = open_native(shape, isa=isa, kv_dtype=kv_dtype, page_size=page_size, n_pages=128)
        whole = ops.attend(qkv, ops.batch(spans_of(ops, [0], [total])), 0, None)
        results.append(whole)
    state = ops.cache.new()
    other = spans_of(ops, [0], [20])
    pieces, at = [], 0
    for n in cuts:
        state.append(n)
        # The second sequence shares every batch and must not matter.
        batch = ops.batch([*other, SimpleNamespace(state=state, ids=[0] * n)])
        rows = np.concatenate([qkv[:1].repeat(20, axis=0), qkv[at : at + n]])
        pieces.append(ops.attend(rows, batch, 0, None)[20:])
        at += n
    results.append(np.concatenate(pieces))
    for result in results[1:]:
        assert np.array_equal(result.view(np.uint32), results[0].view(np.uint32))


@settings(max_examples=12, deadline=None)
@given(
    held=st.integers(0, 2600),
    new=st.integers(1, 9),
    others=st.lists(st.integers(0, 700), max_size=2),
    window=st.sampled_from([None, 300, 900]),
    kv_dtype=st.sampled_from(CACHES),
    seed=st.integers(0, 2**32 - 1),
)
def test_few_rows_that_see_far_have_the_same_bits_on_any_number_of_threads(  # noqa: PLR0917
    held: int, new: int, others: list[int], window: int | None, kv_dtype: str, seed: int
) -> None:
    """Several threads share the chunks of one row; one thread takes row by row."""
    rng = np.random.default_rng(seed)
    shape = config(windows=(window, window))
    lengths = [held, *others]
    rows = [rng.normal(size=(n + new, 8 * 16)).astype(np.float32) for n in lengths]
    results = []
    for isa, threads in [(ISAS[0], 1), *((isa, n) for isa in ISAS for n in (2, 3))]:
        ops = open_native(shape, isa=isa, threads=threads, kv_dtype=kv_dtype, n_pages=400)
        states = [ops.cache.new() for _ in lengths]
        for state, n, qkv in zip(states, lengths, rows, strict=True):
            if n:
                state.append(n)
                ops.attend(qkv[:n], ops.batch([SimpleNamespace(state=state, ids=[0] * n)]), 0, None)
        for state in states:
            state.append(new)
        batch = ops.batch([SimpleNamespace(state=state, ids=[0] * new) for state in states])
        last = np.concatenate([qkv[n:] for n, qkv in zip(lengths, rows, strict=True)])
        results.append(ops.attend(last, batch, 0, None))
    for result in results[1:]:
        assert np.array_equal(result.view(np.uint32), results[0].view(np.uint32))


def unturned(cache: Any, rows: int, pages: int) -> Any:
    """One sequence's batch whose rotation changes nothing (head_dim 40): what is cached is what is
    given."""
    half = np.ones((rows, 20), np.float32)
    return _kernels.make_batch(
        cache, np.array([[0, rows, 0, 0]]), np.arange(pages, dtype=np.int32), half, half * 0
    )


def held_in_8_bits(x: np.ndarray, groups: list[list[int]]) -> np.ndarray:
    """Float32 rows as an 8-bit cache returns them: docs/numerics.md, in numpy."""
    out = np.empty_like(x)
    for dims in groups:
        part = x[:, dims]
        top = np.abs(part).max(axis=1, keepdims=True)
        bits = (top / np.float32(127)).astype(np.float32).view(np.uint32).astype(np.uint64)
        bits = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000
        scale = bits.astype(np.uint32).view(np.float32)
        scale[top < 2.0**-100] = 0
        scale[~np.isfinite(top)] = np.nan
        with np.errstate(all="ignore"):
            codes = np.where(scale > 0, np.rint(part / scale), 0).astype(np.float32)
            assert np.abs(codes).max(initial=0) <= 127
            out[:, dims] = codes * scale
    return out


@pytest.mark.parametrize("isa", ISAS)
def test_an_8_bit_cache_is_a_float_cache_of_what_its_codes_stand_for(isa: str) -> None:
    """Bit for bit, over ordinary rows, rows with outliers, and the largest and smallest numbers."""
    dim, heads, rows = 40, 2, 300
    rng = np.random.default_rng(11)
    qkv = rng.normal(size=(rows, (4 + 2 * heads) * dim)).astype(np.float32)
    keys = qkv[:, 4 * dim : 6 * dim].reshape(rows, heads, dim)
    values = qkv[:, 6 * dim :].reshape(rows, heads, dim)
    keys[:, :, 3] *= 100
    keys[7], values[8] = 0, 0
    keys[9] *= np.float32(1e-42)
    values[10] *= np.float32(1e-30)
    values[11] *= np.float32(1e-38)
    keys[12, 0, ::4], values[13, 1, 5] = -1e20, -3.4e38
    # The largest ratio of a group's top to its rounded scale.
    values[14, :, 32] = np.float32(127 * (1 + 2**-8 - 2**-20))
    half = dim // 2
    key_groups = [[*range(i, i + 4), *range(half + i, half + i + 4)] for i in range(0, half, 4)]
    value_groups = [list(range(32)), list(range(32, dim))]
    seen = qkv.copy()
    for h in range(heads):
        at = (4 + h) * dim
        seen[:, at : at + dim] = held_in_8_bits(keys[:, h], key_groups)
        at += heads * dim
        seen[:, at : at + dim] = held_in_8_bits(values[:, h], value_groups)
    results = []
    for kind, given_rows in (("int8", qkv), ("float32", seen)):
        engine = _kernels.make_engine(2, isa)
        cache = _kernels.make_cache(1, 19, 16, heads, dim, kind)
        out = np.empty((rows, 4 * dim), np.float32)
        batch = unturned(cache, rows, 19)
        engine.attend(given_rows, batch, 0, 4, None, None, 1e-6, 0, cache, out)
        results.append(out)
    assert np.isfinite(results[1]).all()
    assert np.array_equal(results[0].view(np.uint32), results[1].view(np.uint32))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", CACHES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("part", ["key", "value"])
def test_trouble_in_the_cache_reaches_those_who_see_it_and_no_one_else(
    isa: str, kind: str, bad: float, part: str
) -> None:
    rng = np.random.default_rng(12)
    dim, rows, at = 40, 60, 20
    qkv = rng.normal(size=(rows, 4 * dim)).astype(np.float32)
    outs = []
    for value in (0.0, bad):
        qkv[at, 2 * dim + 4 + (dim if part == "value" else 0)] = value
        cache = _kernels.make_cache(1, 5, 16, 1, dim, kind)
        # Slots that another sequence left trouble in are written anew before anyone sees them.
        dirty = np.full((80, 4 * dim), np.nan, np.float32)
        engine, out = _kernels.make_engine(2, isa), np.empty((80, 2 * dim), np.float32)
        engine.attend(dirty, unturned(cache, 80, 5), 0, 2, None, None, 1e-6, 0, cache, out)
        out = np.empty((rows, 2 * dim), np.float32)
        engine.attend(qkv, unturned(cache, rows, 4), 0, 2, None, None, 1e-6, 0, cache, out)
        outs.append(out)
    calm, wild = outs
    assert np.isfinite(calm).all()
    assert np.array_equal(wild[:at], calm[:at])
    assert not np.isfinite(wild[at:]).all(axis=1).any(), "trouble must stay visible"


def test_attention_over_many_chunks_stays_exact() -> None:
    rng = np.random.default_rng(9)
    shape = config(n_heads=2, n_kv_heads=1, head_dim=32)
    ops = open_native(shape, n_pages=300, kv_dtype="float32")
    qkv = rng.normal(size=(2100, 4 * 32)).astype(np.float32) * 3
    out = ops.attend(qkv, ops.batch(spans_of(ops, [0], [2100])), 0, None)
    # The last row by hand, in float64, from the rotation the batch was given.
    cos, sin = ops._rotation(range(2100))

    def rotated(x: np.ndarray) -> np.ndarray:
        a, b = x[:, :16].astype(np.float64), x[:, 16:].astype(np.float64)
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=1)

    k, v = rotated(qkv[:, 64:96]), qkv[:, 96:].astype(np.float64)
    for head in range(2):
        q = rotated(qkv[:, 32 * head : 32 * head + 32])[-1]
        scores = k @ q / np.sqrt(32)
        p = np.exp(scores - scores.max())
        wanted = p @ v / p.sum()
        assert np.abs(out[-1, 32 * head : 32 * head + 32] - wanted).max() <= 3e-5


# --- options and misuse ---------------------------------------------------------------------------


def test_an_unknown_instruction_set_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FREEHOLD_ISA", "sparkle")
    with pytest.raises(UsageError, match=r"'sparkle': this machine runs .*plain"):
        native.open_ops(config(), threads=1, n_pages=4, page_size=16)


def test_the_environment_chooses_the_instruction_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FREEHOLD_ISA", "plain")
    ops = native.open_ops(config(), threads=1, n_pages=4, page_size=16)
    assert ops.engine.isa == "plain"


def test_pages_must_be_multiples_of_16() -> None:
    with pytest.raises(UsageError, match="page_size is 8"):
        open_native(config(), page_size=8)


@pytest.mark.parametrize(
    ("text", "most"), [("max 100000\n", 1 << 20), ("100000 100000\n", 1), ("50000 100000\n", 1)]
)
def test_a_cgroup_quota_bounds_the_threads(tmp_path: Path, text: str, most: int) -> None:
    (tmp_path / "cpu.max").write_text(text)
    assert 1 <= native.available_threads(tmp_path / "cpu.max") <= most
    assert native.available_threads(tmp_path / "none") >= 1


@settings(max_examples=150, deadline=None)
@given(
    x=st.tuples(st.integers(0, 4), st.sampled_from([63, 64, 96])),
    norm=st.sampled_from([63, 64, 96]),
    out=st.tuples(st.integers(0, 4), st.sampled_from([39, 40, 64])),
)
def test_shapes_that_differ_are_refused(
    x: tuple[int, int], norm: int, out: tuple[int, int]
) -> None:
    ops = open_native(config(), threads=1)
    packed = ops.pack([weights_of(np.random.default_rng(0), "Q4_0", 40, 64)])
    arrays = np.ones(x, np.float32), np.ones(norm, np.float32), np.empty(out, np.float32)
    # Fewer columns than the weights have are weights padded to a whole group.
    fits = x[1] == norm and x[1] in (63, 64) and out == (x[0], 40)
    if fits:
        ops.engine.norm_linear(arrays[0], arrays[1], 1e-6, packed, arrays[2])
    else:
        with pytest.raises(ValueError, match="shapes differ"):
            ops.engine.norm_linear(arrays[0], arrays[1], 1e-6, packed, arrays[2])


@settings(max_examples=150, deadline=None)
@given(
    span=st.tuples(*[st.integers(-2, 70)] * 4),
    pages=st.lists(st.integers(-2, 6), max_size=5),
    rows=st.integers(0, 70),
)
def test_batches_that_name_what_is_not_there_are_refused(
    span: tuple[int, int, int, int], pages: list[int], rows: int
) -> None:
    cache = _kernels.make_cache(1, 5, 16, 1, 16, "int8")
    row, n, first, start = span
    sound = (
        row == 0
        and n > 0
        and first >= 0
        and start >= 0
        and rows == n
        and all(0 <= p < 5 for p in pages)
        and start <= len(pages)
        and -(-(first + n) // 16) <= len(pages) - start
    )
    angles = np.zeros((rows, 8), np.float32)
    arguments = (np.array([span]), np.array(pages, np.int32), angles, angles)
    if sound:
        _kernels.make_batch(cache, *arguments)
    else:
        with pytest.raises(ValueError, match=r"batch|page"):
            _kernels.make_batch(cache, *arguments)


def test_a_span_without_a_state_is_refused() -> None:
    ops = open_native(config())
    with pytest.raises(UsageError, match="give a state"):
        ops.batch([SimpleNamespace(state=None, ids=[1])])


def fitting() -> dict[str, Any]:
    """Arguments of an ``attend`` call that fits: 5 rows, 4 heads over 2, head_dim 16."""
    cache = _kernels.make_cache(2, 3, 16, 2, 16, "bfloat16")
    angles = np.zeros((5, 8), np.float32)
    batch = _kernels.make_batch(
        cache, np.array([[0, 5, 0, 0]]), np.array([1], np.int32), angles, angles
    )
    return {
        "qkv": np.ones((5, 128), np.float32), "batch": batch, "layer": 0, "queries": 4,
        "q_norm": None, "k_norm": None, "eps": 1e-6, "window": 0, "cache": cache,
        "out": np.empty((5, 64), np.float32),
    }  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"qkv": np.ones((4, 128), np.float32)},
        {"qkv": np.ones((5, 127), np.float32)},
        {"layer": 2},
        {"layer": -1},
        {"queries": 3},
        {"queries": 0},
        {"queries": 6},
        {"window": -1},
        {"q_norm": np.ones(16, np.float32)},
        {"q_norm": np.ones(16, np.float32), "k_norm": np.ones(15, np.float32)},
        {"out": np.empty((5, 63), np.float32)},
        {"cache": _kernels.make_cache(2, 1, 16, 2, 16, "float32")},
        {"cache": _kernels.make_cache(2, 3, 16, 2, 32, "float32")},
    ],
)
def test_attention_that_does_not_fit_is_refused(change: dict[str, Any]) -> None:
    engine = _kernels.make_engine(2, "")
    engine.attend(**fitting())
    with pytest.raises(ValueError, match=r"attend|batch|page"):
        engine.attend(**(fitting() | change))


@pytest.mark.parametrize(
    "bad",
    [
        np.ones((5, 64), np.float64),
        np.ones((64, 5), np.float32).T,
        np.ones((5, 128), np.float32)[:, ::2],
        np.ones(64, np.float32),
    ],
)
def test_arrays_of_another_kind_are_refused_not_copied(bad: np.ndarray) -> None:
    ops = open_native(config(), threads=1)
    packed = ops.pack([weights_of(np.random.default_rng(0), "Q4_0", 64, 64)])
    x = np.ones((5, 64), np.float32)
    for arguments in ((bad, x, packed, x.copy()), (x, bad, packed, x.copy()), (x, x, packed, bad)):
        with pytest.raises(TypeError):
            ops.engine.linear_add(*arguments)


@pytest.mark.parametrize("bad", [[-1], [40], [2**40], [0, 40]])
def test_ids_outside_the_table_are_refused(bad: list[int]) -> None:
    ops = open_native(config(), threads=1)
    packed = ops.pack([weights_of(np.random.default_rng(0), "Q4_0", 40, 64)])
    with pytest.raises(ValueError, match="outside the table"):
        ops.engine.embed(packed, np.array(bad), np.empty((len(bad), 64), np.float32))


def test_mapped_files_are_let_go_and_can_be_read_again(tmp_path: Path) -> None:
    import mmap

    tensor = weights_of(np.random.default_rng(0), "Q8_0", 4096, 64)
    path = tmp_path / "weights"
    path.write_bytes(b"x" * 100 + tensor.data.tobytes())
    with path.open("rb") as file:
        mapping = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    mapped = RawTensor(
        name="w", dtype="Q8_0", shape=tensor.shape, data=np.frombuffer(mapping, np.uint8)[100:]
    )
    ops = open_native(config())
    from_file, from_memory = ops.pack([mapped]), ops.pack([tensor])
    x = np.ones((1, 64), np.float32)
    assert np.array_equal(linear(ops, x, from_file), linear(ops, x, from_memory))
    assert np.array_equal(mapped.data, tensor.data)

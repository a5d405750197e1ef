"""Packed weights: every value of every format is the file's, bit for bit."""

from __future__ import annotations

import gc
import math
from types import SimpleNamespace

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from freehold.errors import MalformedError
from freehold.qwen import pack
from freehold.qwen.ops import _kernels
from freehold.qwen.quants import KINDS
from freehold.types import RawTensor


def random_tensor(rng: np.random.Generator, kind: str, rows: int, blocks: int) -> RawTensor:
    """Any bytes at all: scales may be infinite, NaN or subnormal."""
    record = KINDS[kind].record
    data = rng.integers(0, 256, rows * blocks * record.itemsize, dtype=np.uint8)
    return RawTensor(name="w", dtype=kind, shape=(rows, blocks * KINDS[kind].weights), data=data)


def unpacked(tensors: list[RawTensor], threads: int = 1) -> np.ndarray:
    engine = _kernels.make_engine(threads, "")
    parts = [pack.blocks_of(tensor) for tensor in tensors]
    linear = engine.pack([(p.format, p.rows, p.cols, p.data) for p in parts], None)
    out = np.empty((linear.rows, linear.cols), np.float32)
    engine.embed(linear, np.arange(linear.rows), out)
    return out


def oracle(tensor: RawTensor) -> np.ndarray:
    kind = gguf.GGMLQuantizationType[tensor.dtype]
    with np.errstate(all="ignore"):
        values = gguf.dequantize(tensor.data, kind)
    return values.reshape(tensor.shape)


def assert_same_bits(ours: np.ndarray, theirs: np.ndarray) -> None:
    nan = np.isnan(theirs)
    assert np.array_equal(np.isnan(ours), nan)
    assert np.array_equal(ours[~nan].view(np.uint32), theirs[~nan].view(np.uint32))


@pytest.mark.parametrize("kind", pack.FORMATS)
@pytest.mark.parametrize("rows", [1, 15, 16, 17, 50])
def test_values_are_the_gguf_packages(kind: str, rows: int) -> None:
    rng = np.random.default_rng(rows)
    tensor = random_tensor(rng, kind, rows, 3)
    assert_same_bits(unpacked([tensor], threads=2), oracle(tensor))


@settings(max_examples=60, deadline=None)
@given(
    kinds=st.lists(st.sampled_from(pack.FORMATS), min_size=1, max_size=4),
    rows=st.lists(st.integers(1, 40), min_size=4, max_size=4),
    seed=st.integers(0, 2**32 - 1),
)
def test_parts_of_mixed_formats_keep_their_values(
    kinds: list[str], rows: list[int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    tensors = [
        random_tensor(rng, kind, n, 256 // KINDS[kind].weights)
        for kind, n in zip(kinds, rows, strict=False)
    ]
    assert_same_bits(unpacked(tensors), np.concatenate([oracle(t) for t in tensors]))


@pytest.mark.parametrize("kind", pack.FORMATS)
def test_packed_bytes_stay_within_three_percent(kind: str) -> None:
    tensor = random_tensor(np.random.default_rng(0), kind, 64, 4)
    part = pack.blocks_of(tensor)
    linear = _kernels.make_engine(1, "").pack([(kind, part.rows, part.cols, part.data)], None)
    assert linear.nbytes <= 1.03 * tensor.data.nbytes


@pytest.mark.parametrize("cols", [32, 31, 33, 1, 100])
def test_floats_become_the_nearest_q8_0(cols: int) -> None:
    rng = np.random.default_rng(cols)
    values = rng.normal(size=(9, cols)).astype(np.float32) * 10.0 ** rng.integers(-4, 4, (9, 1))
    values = values.astype(np.float32)
    tensor = RawTensor(
        name="w", dtype="F32", shape=values.shape, data=values.reshape(-1).view(np.uint8)
    )
    got = unpacked([tensor])
    assert got.shape == (9, math.ceil(cols / 32) * 32)
    assert not got[:, cols:].any()
    groups = np.zeros(got.shape, np.float32)
    groups[:, :cols] = values
    limit = np.abs(groups.reshape(9, -1, 32)).max(axis=-1) / 127
    # Half a step, and the rounding of the step itself to fp16 (2^-11 of it, 127 times; near zero
    # fp16 is coarser: 2^-25).
    bound = np.repeat(limit * (0.5 + 127 / 2048) + 127 * 2.0**-25, 32, axis=-1)
    assert (np.abs(got - groups.reshape(9, -1)) <= bound).all()


def test_zeros_infinities_and_nan_survive_quantising() -> None:
    values = np.zeros((4, 32), np.float32)
    values[1, 3] = np.inf
    values[2, 4] = np.nan
    values[3, 5] = 1e30
    tensor = RawTensor(name="w", dtype="F32", shape=(4, 32), data=values.reshape(-1).view(np.uint8))
    got = unpacked([tensor])
    assert not got[0].any()
    assert not np.isfinite(got[1:]).all(axis=1).any(), "no such row may look sound"


def test_what_is_no_matrix_is_refused() -> None:
    data = np.zeros(32 * 4, np.uint8)
    with pytest.raises(MalformedError, match="a linear layer is a matrix"):
        pack.blocks_of(RawTensor(name="w", dtype="F32", shape=(32,), data=data))


@settings(max_examples=200, deadline=None)
@given(
    kind=st.sampled_from([*pack.FORMATS, "Q3_K", ""]),
    rows=st.integers(-2, 40),
    cols=st.integers(-300, 600),
    size=st.integers(0, 4000),
)
def test_the_packer_refuses_bytes_that_do_not_fit(
    kind: str, rows: int, cols: int, size: int
) -> None:
    data = np.zeros(size, np.uint8)
    fits = (
        kind in pack.FORMATS
        and rows > 0
        and cols > 0
        and cols % KINDS[kind].weights == 0
        and rows * cols // KINDS[kind].weights * KINDS[kind].record.itemsize == size
    )
    engine = _kernels.make_engine(1, "")
    if fits:
        assert engine.pack([(kind, rows, cols, data)], None).rows == rows
    else:
        with pytest.raises(ValueError, match=r"format|rows|columns|bytes"):
            engine.pack([(kind, rows, cols, data)], None)


@pytest.mark.parametrize(
    ("dtype", "choice"),
    [("Q4_K", "file"), ("Q8_0", "file"), ("F16", "4bit"), ("BF16", "4bit"), ("F32", "4bit")],
)
def test_only_matrices_of_plain_floats_leave_a_choice(
    dtype: str, choice: str, make: SimpleNamespace
) -> None:
    data = np.zeros(0, np.uint8)
    norm = RawTensor(name="norm", dtype="F32", shape=(32,), data=data)
    matrix = RawTensor(name="matrix", dtype=dtype, shape=(32, 32), data=data)
    model = make.verified(tensors={"norm": norm, "matrix": matrix})
    assert pack.choice_of(model, "4bit") == choice


# --- layers over bytes that lie somewhere already -------------------------------------------------


def aligned(data: np.ndarray) -> np.ndarray:
    room = np.empty(len(data) + 64, np.uint8)
    start = -room.ctypes.data % 64
    room[start : start + len(data)] = data
    return room[start : start + len(data)]


def values_of(linear: _kernels.Linear) -> np.ndarray:
    out = np.empty((linear.rows, linear.cols), np.float32)
    _kernels.make_engine(1, "").embed(linear, np.arange(linear.rows), out)
    return out


@pytest.mark.parametrize("kind", pack.FORMATS)
def test_a_layer_over_its_own_packed_bytes_has_the_same_values(kind: str) -> None:
    rng = np.random.default_rng(5)
    blocks = [pack.blocks_of(random_tensor(rng, kind, rows, 2)) for rows in (21, 16)]
    bias = rng.standard_normal(37, dtype=np.float32)
    made = _kernels.make_engine(2, "").pack(
        [(b.format, b.rows, b.cols, b.data) for b in blocks], bias
    )
    copies = [(f, rows, cols, aligned(data)) for f, rows, cols, data in made.parts]
    held = _kernels.hold(copies, made.bias)
    del copies
    gc.collect()  # the layer keeps its bytes alive
    assert (held.rows, held.cols, held.nbytes) == (made.rows, made.cols, made.nbytes)
    assert np.array_equal(values_of(held), values_of(made), equal_nan=True)
    assert held.bias is not None
    assert np.array_equal(held.bias, bias)
    assert not made.parts[0][3].flags.writeable


def test_parts_outlive_their_layer() -> None:
    tensor = random_tensor(np.random.default_rng(6), "Q8_0", 16, 1)
    block = pack.blocks_of(tensor)
    engine = _kernels.make_engine(1, "")
    parts = engine.pack([(block.format, block.rows, block.cols, block.data)], None).parts
    before = parts[0][3].copy()
    del engine
    gc.collect()
    assert np.array_equal(parts[0][3], before)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_bytes_that_are_no_layer_are_refused(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(pack.FORMATS))
    good = random_tensor(np.random.default_rng(7), kind, 16, 1)
    block = pack.blocks_of(good)
    packed = (
        _kernels.make_engine(1, "")
        .pack([(block.format, block.rows, block.cols, block.data)], None)
        .parts[0][3]
    )
    rows = data.draw(st.integers(-2, 40) | st.sampled_from([1 << 31, 1 << 40]))
    cols = data.draw(st.sampled_from([0, -32, 16, block.cols, 2 * block.cols, 1 << 40]))
    size = data.draw(st.sampled_from([0, 1, len(packed) - 1, len(packed)]))
    shift = data.draw(st.sampled_from([0, 0, 1, 32]))
    room = aligned(np.zeros(len(packed) + 64, np.uint8))[shift : shift + size]
    fits = 1 <= rows <= 16 and cols == block.cols and size == len(packed) and shift == 0
    if fits:
        assert _kernels.hold([(kind, rows, cols, room)], None).rows == rows
    else:
        with pytest.raises(ValueError, match=r"rows|columns|bytes|aligned"):
            _kernels.hold([(kind, rows, cols, room)], None)

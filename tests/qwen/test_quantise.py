"""Rounding plain floats: near what they were, in the structures that ggml reads."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from freehold.qwen.pack import format_for
from freehold.qwen.quantise import FORMATS, quantise
from freehold.qwen.quants import KINDS, dequantise
from freehold.types import RawTensor

# Relative mean squared error on heavy-tailed values, somewhat above what was seen.
BOUNDS = {"Q8_0": 5e-5, "Q6_K": 6e-4, "Q4_1": 7.5e-3, "Q4_K": 8e-3}


def tensor_of(values: np.ndarray, dtype: str = "F32") -> RawTensor:
    if dtype == "BF16":
        data = (np.ascontiguousarray(values, np.float32).view(np.uint32) >> 16).astype(np.uint16)
    else:
        data = np.ascontiguousarray(values, np.float32 if dtype == "F32" else np.float16)
    return RawTensor(
        name="w", dtype=dtype, shape=values.shape, data=data.reshape(-1).view(np.uint8)
    )


def back(data: np.ndarray, format: str, rows: int) -> np.ndarray:
    cols = data.nbytes // rows // KINDS[format].record.itemsize * KINDS[format].weights
    return dequantise(RawTensor(name="w", dtype=format, shape=(rows, cols), data=data))


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_values_stay_near(format: str, dtype: str) -> None:
    values = np.random.default_rng(1).standard_t(6, (70, 512)).astype(np.float32) * 0.02
    source = tensor_of(values, dtype)
    wanted = dequantise(source)
    got = back(quantise(source, format, threads=2), format, 70)
    assert ((got - wanted) ** 2).mean() <= BOUNDS[format] * wanted.var()


@pytest.mark.parametrize("format", FORMATS)
def test_ggml_reads_the_same_values(format: str) -> None:
    values = np.random.default_rng(2).standard_normal((8, 512), dtype=np.float32)
    data = quantise(tensor_of(values), format)
    theirs = gguf.quants.dequantize(data.reshape(8, -1), gguf.GGMLQuantizationType[format])
    assert np.array_equal(back(data, format, 8), theirs)


@pytest.mark.parametrize("format", ["Q8_0", "Q4_1"])
def test_no_worse_than_ggmls_own_rounding(format: str) -> None:
    values = np.random.default_rng(3).standard_t(5, (64, 256)).astype(np.float32)
    kind = gguf.GGMLQuantizationType[format]
    theirs = gguf.quants.dequantize(gguf.quants.quantize(values, kind), kind)
    ours = back(quantise(tensor_of(values), format), format, 64)
    assert ((ours - values) ** 2).mean() <= 1.001 * ((theirs - values) ** 2).mean()


@pytest.mark.parametrize("format", FORMATS)
def test_threads_and_pieces_change_no_bit(format: str) -> None:
    values = np.random.default_rng(4).standard_normal((1100, 256), dtype=np.float32)
    whole = quantise(tensor_of(values), format)
    assert np.array_equal(quantise(tensor_of(values), format, threads=3), whole)
    rows = [quantise(tensor_of(row[None]), format) for row in values[:20]]
    assert np.array_equal(np.concatenate(rows), whole[: len(rows) * len(rows[0])])


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(list(FORMATS)),
    st.lists(
        st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-8, 1e-42, 6e4, -3e38, np.inf, -np.inf, np.nan]),
        min_size=1,
        max_size=64,
    ),
    st.integers(1, 300),
)
def test_any_values_are_taken(format: str, few: list[float], cols: int) -> None:
    values = np.resize(np.array(few, np.float32), (2, cols))
    got = back(quantise(tensor_of(values), format), format, 2)
    if not values.any():
        assert not got.any()


@pytest.mark.parametrize("format", FORMATS)
def test_constant_groups_are_kept(format: str) -> None:
    values = np.repeat(np.array([[0.5], [-0.25], [0.0]], np.float32), 256, axis=1)
    assert back(quantise(tensor_of(values), format), format, 3) == pytest.approx(values, rel=2e-2)


def test_the_structure_follows_the_width_and_the_place() -> None:
    assert format_for(896, "8bit", fine=False) == "Q8_0"
    assert format_for(1024, "8bit", fine=True) == "Q8_0"
    assert format_for(4864, "4bit", fine=False) == "Q4_K"
    assert format_for(896, "4bit", fine=False) == "Q4_1"
    assert format_for(896, "4bit", fine=True) == "Q8_0"
    assert format_for(1024, "4bit", fine=True) == "Q6_K"

"""Dequantisation against the ``gguf`` package, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from freehold.errors import MalformedError
from freehold.qwen.quants import KINDS, PIECE_WEIGHTS, dequantise
from freehold.types import RawTensor

gguf = pytest.importorskip("gguf")


def reference(kind: str, data: np.ndarray, rows: int) -> np.ndarray:
    packed = data.reshape(rows, -1)
    plain = {"F32": np.float32, "F16": np.float16}
    if kind in plain:
        return packed.view(plain[kind]).astype(np.float32)
    with np.errstate(all="ignore"):
        return gguf.dequantize(packed, gguf.GGMLQuantizationType[kind])


def assert_same_bits(ours: np.ndarray, theirs: np.ndarray) -> None:
    """NaNs must stand in the same places; their payloads are nobody's business."""
    assert ours.shape == theirs.shape
    nan = np.isnan(theirs)
    assert np.array_equal(np.isnan(ours), nan)
    assert np.array_equal(ours.view(np.uint32)[~nan], theirs.view(np.uint32)[~nan])


def packed(kind: str, data: np.ndarray, rows: int) -> RawTensor:
    n_weights = data.size // KINDS[kind].record.itemsize * KINDS[kind].weights
    return RawTensor(name="w", dtype=kind, shape=(rows, n_weights // rows), data=data)


@pytest.mark.parametrize("kind", KINDS)
@given(seed=st.integers(0, 2**32 - 1), blocks=st.integers(1, 9), rows=st.integers(1, 5))
@settings(max_examples=25, deadline=None)
def test_random_bytes(kind: str, seed: int, blocks: int, rows: int) -> None:
    """Random bytes hold every code, and infinite, NaN and subnormal scales."""
    size = rows * blocks * KINDS[kind].record.itemsize
    data = np.random.default_rng(seed).integers(0, 256, size, np.uint8)
    assert_same_bits(dequantise(packed(kind, data, rows)), reference(kind, data, rows))


@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if "d" in (KINDS[kind].record.names or ())]
)
@pytest.mark.parametrize("scale", [0x0000, 0x8000, 0x0001, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x7E01])
def test_extreme_scales(kind: str, scale: int) -> None:
    """Zero, negative zero, the smallest subnormal, the largest, infinities and NaN."""
    record = KINDS[kind].record
    data = np.random.default_rng(scale).integers(0, 256, 64 * record.itemsize, np.uint8)
    blocks = data.view(record)
    for field in {"d", "m", "dmin"} & set(record.names):
        blocks[field] = np.uint16(scale).view(np.float16)
    assert_same_bits(dequantise(packed(kind, data, 4)), reference(kind, data, 4))


@pytest.mark.parametrize("kind", KINDS)
def test_more_than_one_piece(kind: str) -> None:
    """Large tensors are worked through in pieces: the seams must not show."""
    n_blocks = 2 * PIECE_WEIGHTS // KINDS[kind].weights + 3
    size = n_blocks * KINDS[kind].record.itemsize
    data = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    assert_same_bits(dequantise(packed(kind, data, 1)), reference(kind, data, 1))


@pytest.mark.parametrize(
    ("dtype", "shape", "n_bytes"),
    [
        ("Q4_0", (1, 32), 17),
        ("Q4_0", (1, 32), 19),
        ("Q4_0", (2, 16), 18),  # a block may not run over the end of a row
        ("Q4_K", (1, 255), 144),
        ("F32", (), 4),
        ("F32", (3,), 8),
        ("Q2_K", (1, 256), 84),
        ("I32", (1,), 4),
        ("", (1,), 4),
    ],
)
def test_refused(dtype: str, shape: tuple[int, ...], n_bytes: int) -> None:
    tensor = RawTensor(name="w.x", dtype=dtype, shape=shape, data=np.zeros(n_bytes, np.uint8))
    with pytest.raises(MalformedError, match=r"w\.x"):
        dequantise(tensor)

"""From packed GGUF blocks (and plain float formats) to float32, bit for bit as ggml defines them.

Source: the block structures of ggml's ``ggml-common.h``. A legacy block holds 32 weights, a K block
256 in sub-blocks of 16 or 32 with their own small scales. Every kind is one ``numpy`` record type
and one function from records to floats; the values are products and one sum in float32, in the
order ggml does them, so nothing here rounds differently.

Shapes: n blocks, g groups in a block, w weights in a group.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from freehold.errors import MalformedError
from freehold.types import RawTensor

Records = npt.NDArray[np.void]
Floats = npt.NDArray[np.float32]

# Small enough that a piece's intermediates stay in the cache of one core.
PIECE_WEIGHTS = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One storage type: how many weights a record holds, its layout, and its meaning."""

    weights: int
    record: np.dtype[np.void]
    decode: Callable[[Records], Floats]


def dequantise(tensor: RawTensor) -> Floats:
    """The tensor's values, float32, in its own shape. Raises ``MalformedError``."""
    out = np.empty(tensor.shape, np.float32)
    dequantise_into(tensor, out)
    return out


def dequantise_into(tensor: RawTensor, out: Floats) -> None:
    """Write the tensor's values into ``out`` (C-contiguous, same shape), piece by piece so that
    little memory is needed beside it.

    Raises ``MalformedError`` where the type is unknown or the bytes do not fit the shape.
    """
    kind = check(tensor)
    flat = out.reshape(-1)
    assert np.shares_memory(flat, out), "out must be contiguous"
    # A memory map's own subclass of array costs more per slice than the slice's arithmetic.
    records = np.asarray(tensor.data).view(kind.record)
    step = max(1, PIECE_WEIGHTS // kind.weights)
    # A hostile file may hold infinite scales; inf - inf is then NaN by IEEE 754, no mishap.
    with np.errstate(all="ignore"):
        for start in range(0, len(records), step):
            values = kind.decode(records[start : start + step])
            begin = start * kind.weights
            flat[begin : begin + values.size] = values.reshape(-1)


def check(tensor: RawTensor) -> Kind:
    """The tensor's kind, once its name is known and its bytes fit its shape."""
    kind = KINDS.get(tensor.dtype)
    if kind is None:
        raise MalformedError(
            f"tensor {tensor.name} is stored as {tensor.dtype}: this version reads "
            f"{', '.join(KINDS)}",
            file=tensor.name,
        )
    n_weights = math.prod(tensor.shape)
    wanted = n_weights // kind.weights * kind.record.itemsize
    in_rows = bool(tensor.shape) and tensor.shape[-1] % kind.weights == 0
    if not in_rows or tensor.data.nbytes != wanted:
        raise MalformedError(
            f"tensor {tensor.name} ({tensor.dtype}, shape {tensor.shape}) has "
            f"{tensor.data.nbytes} bytes, not {wanted} in whole blocks of {kind.weights} weights",
            file=tensor.name,
        )
    return kind


# --- legacy blocks of 32 --------------------------------------------------------------------------


def _scale(records: Records, field: str = "d") -> Floats:
    return np.asarray(records[field].astype(np.float32)[:, None])


def _nibbles(packed_nw: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Low halves of all bytes first, then the high halves: (n, w) -> (n, 2w)."""
    return np.concatenate([packed_nw & 15, packed_nw >> 4], axis=-1)


def _five_bits(records: Records) -> npt.NDArray[np.uint8]:
    """Four low bits from ``qs``, the fifth from the bit string ``qh``, bit i for weight i."""
    fifth = np.unpackbits(records["qh"], axis=-1, bitorder="little")
    return _nibbles(records["qs"]) | (fifth << np.uint8(4))


def _q4_0(records: Records) -> Floats:
    return _scale(records) * (_nibbles(records["qs"]).astype(np.float32) - np.float32(8))


def _q4_1(records: Records) -> Floats:
    return _scale(records) * _nibbles(records["qs"]).astype(np.float32) + _scale(records, "m")


def _q5_0(records: Records) -> Floats:
    return _scale(records) * (_five_bits(records).astype(np.float32) - np.float32(16))


def _q5_1(records: Records) -> Floats:
    return _scale(records) * _five_bits(records).astype(np.float32) + _scale(records, "m")


def _q8_0(records: Records) -> Floats:
    return np.asarray(_scale(records) * records["qs"].astype(np.float32))


# --- K blocks of 256 ------------------------------------------------------------------------------


def _six_bit_pairs(packed: npt.NDArray[np.uint8]) -> tuple[Floats, Floats]:
    """Eight 6-bit scales and eight 6-bit minima out of 12 bytes: (n, 12) -> two (n, 8, 1).

    Bytes 0-3 hold scales 0-3, bytes 4-7 minima 0-3; their top two bits are the top of scales and
    minima 4-7, whose low four bits share bytes 8-11.
    """
    first, second, low = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    scales = np.concatenate([first & 63, (low & 15) | (first >> 6 << 4)], axis=-1)
    minima = np.concatenate([second & 63, (low >> 4) | (second >> 6 << 4)], axis=-1)
    return scales.astype(np.float32)[..., None], minima.astype(np.float32)[..., None]


def _affine_k(records: Records, codes_ngw: npt.NDArray[np.uint8]) -> Floats:
    scales, minima = _six_bit_pairs(records["scales"])
    step = _scale(records)[..., None] * scales
    floor = _scale(records, "dmin")[..., None] * minima
    return np.asarray(step * codes_ngw.astype(np.float32) - floor)


def _nibble_groups(packed: npt.NDArray[np.uint8], width: int) -> npt.NDArray[np.uint8]:
    """Nibbles of each run of ``width`` bytes, low halves before high: -> (n, 256 / 32, 32)."""
    runs = packed.reshape(len(packed), -1, width)
    return np.stack([runs & 15, runs >> 4], axis=2).reshape(len(packed), 8, 32)


def _q4_k(records: Records) -> Floats:
    return _affine_k(records, _nibble_groups(records["qs"], 32))


def _q5_k(records: Records) -> Floats:
    # Bit g of byte w is the fifth bit of weight w in group g.
    shifts = np.arange(8, dtype=np.uint8)[:, None]
    fifth = np.asarray(((records["qh"][:, None, :] >> shifts) & 1) << 4, dtype=np.uint8)
    return _affine_k(records, _nibble_groups(records["qs"], 32) | fifth)


def _q6_k(records: Records) -> Floats:
    n = len(records)
    # Each half of the block: 64 bytes of low nibbles, 32 bytes that hold four upper pairs each.
    shifts = np.arange(0, 8, 2, dtype=np.uint8)[:, None]
    upper = (records["qh"].reshape(n, 2, 1, 32) >> shifts) & 3
    lower = _nibble_groups(records["ql"], 64).reshape(n, 2, 4, 32)
    codes = (lower | (upper << 4)).reshape(n, 16, 16).astype(np.float32) - np.float32(32)
    step = _scale(records) * records["scales"].astype(np.float32)
    return np.asarray(step[..., None] * codes)


# --- plain floats ---------------------------------------------------------------------------------


def _f32(records: Records) -> Floats:
    return np.asarray(records["x"])


def _f16(records: Records) -> Floats:
    return np.asarray(records["x"].astype(np.float32))


def _bf16(records: Records) -> Floats:
    # bfloat16 is the upper half of a float32.
    return np.asarray((records["x"].astype(np.uint32) << 16).view(np.float32))


def _kind(weights: int, decode: Callable[[Records], Floats], *fields: tuple[str, str, int]) -> Kind:
    layout = [(name, code) if count == 1 else (name, code, count) for name, code, count in fields]
    return Kind(weights=weights, record=np.dtype(layout), decode=decode)


_D, _M, _DMIN = ("d", "<f2", 1), ("m", "<f2", 1), ("dmin", "<f2", 1)
_QH32, _QS16, _SCALES_K = ("qh", "u1", 4), ("qs", "u1", 16), ("scales", "u1", 12)

KINDS: dict[str, Kind] = {
    "F32": _kind(1, _f32, ("x", "<f4", 1)),
    "F16": _kind(1, _f16, ("x", "<f2", 1)),
    "BF16": _kind(1, _bf16, ("x", "<u2", 1)),
    "Q8_0": _kind(32, _q8_0, _D, ("qs", "i1", 32)),
    "Q4_0": _kind(32, _q4_0, _D, _QS16),
    "Q4_1": _kind(32, _q4_1, _D, _M, _QS16),
    "Q5_0": _kind(32, _q5_0, _D, _QH32, _QS16),
    "Q5_1": _kind(32, _q5_1, _D, _M, _QH32, _QS16),
    "Q4_K": _kind(256, _q4_k, _D, _DMIN, _SCALES_K, ("qs", "u1", 128)),
    "Q5_K": _kind(256, _q5_k, _D, _DMIN, _SCALES_K, ("qh", "u1", 32), ("qs", "u1", 128)),
    "Q6_K": _kind(256, _q6_k, ("ql", "u1", 128), ("qh", "u1", 64), ("scales", "i1", 16), _D),
}
"""Every storage type this version reads, by GGUF's name (safetensors uses the first three)."""

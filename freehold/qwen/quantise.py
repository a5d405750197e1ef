"""From plain floats to 8-, 6- and 4-bit codes in GGUF's own block structures.

8 and 6 bits: a scale from the largest magnitude. 4 bits: for each group of 32, codes from several
ranges, then the scale and minimum that fit those codes best (least squares), and the best of all is
kept. K blocks store eight groups' scales and minima in 6 bits each, so codes are chosen once more
for what those became. Source of the structures: ``quants``.

Shapes: n groups (or super-blocks), w weights in a group.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from freehold.qwen.quants import KINDS, PIECE_WEIGHTS, dequantise
from freehold.types import Bytes, RawTensor

Floats = npt.NDArray[np.float32]
Records = npt.NDArray[np.void]

GROUP = 32
SHRINKS = (1.0, 0.92, 0.84, 0.76)
"""Parts of a group's range that its 16 codes are spread over: outliers may cost more than they
are worth."""
_PIECE = 4 * PIECE_WEIGHTS


def quantise(tensor: RawTensor, format: str, threads: int = 1) -> Bytes:
    """Blocks of ``format`` (one of ``FORMATS``) with the values of a matrix of plain floats.

    Columns are padded with zeros to whole blocks. A few pieces of the matrix are float32 at any
    time, never all of it.
    """
    rows, cols = tensor.shape
    kind, encode = KINDS[format], FORMATS[format]
    padded = -(-cols // kind.weights) * kind.weights
    per_row = padded // kind.weights
    records = np.empty(rows * per_row, kind.record)
    row_bytes = tensor.data.nbytes // rows
    step = max(1, _PIECE // padded)

    def piece(start: int) -> None:
        stop = min(start + step, rows)
        part = RawTensor(
            name=tensor.name,
            dtype=tensor.dtype,
            shape=(stop - start, cols),
            data=tensor.data[start * row_bytes : stop * row_bytes],
        )
        values = np.zeros((stop - start, padded), np.float32)
        values[:, :cols] = dequantise(part)
        # NaN and infinity in a weight stay NaN in its group; that is no mishap of ours.
        with np.errstate(all="ignore"):
            encode(values.reshape(-1, kind.weights), records[start * per_row : stop * per_row])

    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(piece, range(0, rows, step)):
            pass
    return records.view(np.uint8)


def _codes(values: Floats, scales: Floats, low: int, high: int) -> Floats:
    """The nearest whole number of scales, within bounds; 0 where the scale is."""
    codes = np.divide(values, scales, out=np.zeros_like(values), where=scales != 0)
    return np.asarray(np.clip(np.rint(np.nan_to_num(codes, copy=False, nan=0.0)), low, high))


def _q8_0(values_nw: Floats, out: Records) -> None:
    """The scale is the group's largest magnitude / 127 rounded to fp16, and codes are rounded to
    the nearest for that scale. Beyond fp16's range times 127 values become infinite."""
    out["d"] = np.abs(values_nw).max(axis=1) / np.float32(127)
    scales = out["d"].astype(np.float32)[:, None]
    out["qs"] = _codes(values_nw, scales, -127, 127).astype(np.int8)


def _q6_k(values_nw: Floats, out: Records) -> None:
    n = len(values_nw)
    groups = values_nw.reshape(n, 16, 16)
    top = np.take_along_axis(groups, np.abs(groups).argmax(axis=2)[..., None], axis=2)[..., 0]
    scales = top / np.float32(-32)  # the value of largest magnitude gets the code -32
    largest = np.take_along_axis(scales, np.abs(scales).argmax(axis=1)[:, None], axis=1)[:, 0]
    out["d"] = largest / np.float32(-128)
    d = out["d"].astype(np.float32)[:, None]
    out["scales"] = _codes(scales, d, -128, 127).astype(np.int8)
    step = (d * out["scales"].astype(np.float32))[..., None]
    codes = (_codes(groups, step, -32, 31) + 32).astype(np.uint8).reshape(n, 2, 4, 32)
    low = codes & 15
    out["ql"] = np.concatenate(
        [low[:, :, :2].reshape(n, 2, 64) | low[:, :, 2:].reshape(n, 2, 64) << 4], axis=-1
    ).reshape(n, 128)
    upper = codes >> 4
    out["qh"] = (
        upper[:, :, 0] | upper[:, :, 1] << 2 | upper[:, :, 2] << 4 | upper[:, :, 3] << 6
    ).reshape(n, 64)


def _fit(values_nw: Floats, highest: bool = False) -> tuple[Floats, Floats]:
    """(scale, minimum) of each group, (n, 1), that 16 codes serve best. ``highest`` bounds the
    minimum by 0, as K blocks do."""
    low = values_nw.min(axis=1, keepdims=True)
    high = values_nw.max(axis=1, keepdims=True)
    if highest:
        low = np.minimum(low, np.float32(0))
    mean = values_nw.mean(axis=1, keepdims=True)
    centred = values_nw - mean
    best = (high - low) / np.float32(15), low
    least = np.full_like(low, np.inf)
    for shrink in SHRINKS:
        cut = (high - low) * np.float32((1 - shrink) / 2)
        scale = (high - low) * np.float32(shrink / 15)
        codes = _codes(values_nw - (low + cut), scale, 0, 15)
        about = codes.mean(axis=1, keepdims=True)
        spread = codes - about
        weight = np.einsum("nw,nw->n", spread, spread)[:, None]
        both = np.einsum("nw,nw->n", spread, centred)[:, None]
        scale = np.divide(both, weight, out=np.zeros_like(both), where=weight != 0)
        minimum = mean - scale * about
        if highest:  # where the minimum would be positive, a line through 0 fits best
            through = np.einsum("nw,nw->n", codes, values_nw)[:, None]
            squares = np.einsum("nw,nw->n", codes, codes)[:, None]
            line = np.divide(through, squares, out=np.zeros_like(through), where=squares != 0)
            scale = np.where(minimum > 0, line, scale)
            minimum = np.minimum(minimum, np.float32(0))
        codes *= scale
        codes += minimum
        codes -= values_nw
        error = np.einsum("nw,nw->n", codes, codes)[:, None]
        better = error < least
        least = np.where(better, error, least)
        best = np.where(better, scale, best[0]), np.where(better, minimum, best[1])
    return best


def _nibbles(codes: Floats, halves: int) -> npt.NDArray[np.uint8]:
    """Codes of runs of 2 x ``halves`` weights as bytes: the first half below, the second above."""
    pairs = codes.astype(np.uint8).reshape(len(codes), -1, 2, halves)
    return np.asarray(pairs[:, :, 0] | pairs[:, :, 1] << 4, np.uint8).reshape(len(codes), -1)


def _q4_1(values_nw: Floats, out: Records) -> None:
    scale, minimum = _fit(values_nw)
    out["d"], out["m"] = scale[:, 0], minimum[:, 0]
    d, m = (out[field].astype(np.float32)[:, None] for field in ("d", "m"))
    out["qs"] = _nibbles(_codes(values_nw - m, d, 0, 15), 16)


def _q4_k(values_nw: Floats, out: Records) -> None:
    n = len(values_nw)
    groups = values_nw.reshape(n * 8, GROUP)
    scale, minimum = (part.reshape(n, 8) for part in _fit(groups, highest=True))
    depth = -minimum
    out["d"] = scale.max(axis=1) / np.float32(63)
    out["dmin"] = depth.max(axis=1) / np.float32(63)
    d, dmin = (out[field].astype(np.float32)[:, None] for field in ("d", "dmin"))
    scales, minima = (_codes(x, y, 0, 63) for x, y in ((scale, d), (depth, dmin)))
    a, b = scales.astype(np.uint8), minima.astype(np.uint8)
    out["scales"] = np.concatenate(
        [
            a[:, :4] | a[:, 4:] >> 4 << 6,
            b[:, :4] | b[:, 4:] >> 4 << 6,
            (a[:, 4:] & 15) | (b[:, 4:] & 15) << 4,
        ],
        axis=1,
    )
    step, floor = ((x * y).reshape(n * 8, 1) for x, y in ((d, scales), (dmin, minima)))
    codes = _codes(groups + floor, step, 0, 15)
    out["qs"] = _nibbles(codes.reshape(n, 256), 32)


FORMATS: dict[str, Callable[[Floats, Records], None]] = {
    "Q8_0": _q8_0,
    "Q6_K": _q6_k,
    "Q4_1": _q4_1,
    "Q4_K": _q4_k,
}
"""What this version can round to."""

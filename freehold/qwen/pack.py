"""What the native kernels are given to pack: GGUF blocks as they are, or floats made into blocks.

The kernels reorder a file's own blocks (16 rows side by side) and keep every scale as it was, so
that dequantised values are the file's, bit for bit. Matrices stored as plain floats become Q8_0
blocks first: 8-bit codes in groups of 32 with one fp16 scale, which changes values; the model's
card says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from freehold.errors import MalformedError
from freehold.qwen.quants import KINDS, check, dequantise
from freehold.types import Bytes, RawTensor, VerifiedModel

FORMATS = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K")
"""The block formats that the kernels hold as they are."""

GROUP = 32

LAYOUT = "blocks-1"
"""Version of what ``native/src/formats.h`` lays out, and of the roundings below: a pack made with
another is made again from its source."""

WeightChoice = Literal["8bit", "4bit"]
"""What plain floats become."""

PLAIN = ("F32", "F16", "BF16")


def choice_of(model: VerifiedModel, weights: WeightChoice) -> str:
    """How the model's weights come to be packed: ``file`` where they are codes already."""
    if model.packed is not None:
        return model.packed.weights
    plain = any(len(t.shape) == 2 and t.dtype in PLAIN for t in model.tensors.values())
    return weights if plain else "file"


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """A matrix of ``rows`` x ``cols`` weights in GGUF blocks of one ``format``."""

    format: str
    rows: int
    cols: int
    data: Bytes


def blocks_of(tensor: RawTensor) -> Blocks:
    """The tensor's blocks. Raises ``MalformedError`` for what is no matrix or no known type."""
    check(tensor)
    if len(tensor.shape) != 2 or min(tensor.shape) < 1:
        raise MalformedError(
            f"tensor {tensor.name} has shape {tensor.shape}: a linear layer is a matrix",
            file=tensor.name,
        )
    rows, cols = tensor.shape
    if tensor.dtype in FORMATS:
        return Blocks(format=tensor.dtype, rows=rows, cols=cols, data=tensor.data)
    padded = -(-cols // GROUP) * GROUP
    return Blocks(format="Q8_0", rows=rows, cols=padded, data=quantise_q8_0(dequantise(tensor)))


def quantise_q8_0(values: npt.NDArray[np.float32]) -> Bytes:
    """Q8_0 blocks of a float32 matrix, its columns padded with zeros to whole groups of 32.

    The scale is the group's largest magnitude / 127 rounded to fp16, and codes are rounded to the
    nearest for that scale. Values beyond fp16's range times 127 become infinite; NaN stays NaN.
    """
    rows, cols = values.shape
    padded = -(-cols // GROUP) * GROUP
    records = np.empty(rows * padded // GROUP, KINDS["Q8_0"].record)
    step = max(1, (1 << 20) // padded)
    for start in range(0, rows, step):
        part = np.zeros((min(step, rows - start), padded), np.float32)
        part[:, :cols] = values[start : start + step]
        groups = part.reshape(-1, GROUP)
        begin = start * padded // GROUP
        out = records[begin : begin + len(groups)]
        with np.errstate(all="ignore"):
            out["d"] = np.abs(groups).max(axis=1) / np.float32(127)
            scales = out["d"].astype(np.float32)[:, None]
            codes = np.divide(groups, scales, out=np.zeros_like(groups), where=scales != 0)
            finite = np.nan_to_num(np.rint(codes), nan=0.0)
            out["qs"] = np.clip(finite, -127, 127).astype(np.int8)
    return records.view(np.uint8)

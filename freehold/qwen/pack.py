"""What the native kernels are given to pack: GGUF blocks as they are, or floats made into blocks.

The kernels reorder a file's own blocks (16 rows side by side) and keep every scale as it was, so
that dequantised values are the file's, bit for bit. Matrices stored as plain floats become blocks
of 8 or 4 bits first, which changes values: the owner chooses, and the pack's record says by how
much.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from freehold.errors import MalformedError
from freehold.qwen.quantise import quantise
from freehold.qwen.quants import KINDS, check
from freehold.types import Bytes, RawTensor, VerifiedModel

FORMATS = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K")
"""The block formats that the kernels hold as they are."""

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


def blocks_of(
    tensor: RawTensor, weights: WeightChoice = "8bit", *, fine: bool = False, threads: int = 1
) -> Blocks:
    """The tensor's blocks, made as ``weights`` says where they are plain floats. ``fine`` asks for
    more than 4 bits all the same.

    Raises ``MalformedError`` for what is no matrix or no known type.
    """
    check(tensor)
    if len(tensor.shape) != 2 or min(tensor.shape) < 1:
        raise MalformedError(
            f"tensor {tensor.name} has shape {tensor.shape}: a linear layer is a matrix",
            file=tensor.name,
        )
    rows, cols = tensor.shape
    if tensor.dtype in FORMATS:
        return Blocks(format=tensor.dtype, rows=rows, cols=cols, data=tensor.data)
    format = format_for(cols, weights, fine=fine)
    in_block = KINDS[format].weights
    return Blocks(
        format=format,
        rows=rows,
        cols=-(-cols // in_block) * in_block,
        data=quantise(tensor, format, threads),
    )


def format_for(cols: int, weights: WeightChoice, *, fine: bool) -> str:
    """The structure for a matrix of plain floats. K blocks are the smallest at their quality, and
    need rows of whole blocks of 256."""
    whole = cols % KINDS["Q4_K"].weights == 0
    if weights == "8bit":
        return "Q8_0"
    if fine:
        return "Q6_K" if whole else "Q8_0"
    return "Q4_K" if whole else "Q4_1"

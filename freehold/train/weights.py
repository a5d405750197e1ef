"""Where every value of a model lies while it is trained, and by which name it leaves.

In the forward pass layers are fused (``qkv``, ``gate_up``); files know them one by one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from freehold.qwen import forward as qwen
from freehold.qwen.config import Config
from freehold.qwen.names import FUSED, HF, Part, block_shapes
from freehold.qwen.ops.torch import Linear


@dataclass(frozen=True, kw_only=True)
class Whole:
    """A sequence that nothing is remembered of (``ops.SpanLike``)."""

    ids: list[int]
    state: None = None


def every(weights: qwen.Weights) -> Iterator[tuple[str, Tensor]]:
    """Every value of a model by its place in the forward pass; layers stay fused."""

    def layer(name: str, packed: Linear) -> Iterator[tuple[str, Tensor]]:
        yield f"{name}.weight", packed.weight_od
        if packed.bias_o is not None:
            yield f"{name}.bias", packed.bias_o

    yield from layer("embed", weights.embed)
    for i, block in enumerate(weights.blocks):
        yield f"{i}.attn_norm", block.attn_norm
        for fused in FUSED:
            yield from layer(f"{i}.{fused}", getattr(block, fused))
        if block.qk_norm is not None:
            yield f"{i}.q_norm", block.qk_norm[0]
            yield f"{i}.k_norm", block.qk_norm[1]
        yield f"{i}.mlp_norm", block.mlp_norm
    yield "norm", weights.norm
    if weights.head is not weights.embed:
        yield from layer("head", weights.head)


def unfused(config: Config, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The values of fully trained weights, by their names in transformers."""
    found = {HF.whole("norm"): parameters["norm"], HF.whole("embed"): parameters["embed.weight"]}
    if not config.tied_head:
        found[HF.whole("head")] = parameters["head.weight"]
    shapes = block_shapes(config)
    vectors: tuple[Part, ...] = ("attn_norm", "mlp_norm", "q_norm", "k_norm")
    for layer in range(config.n_layers):
        for part in vectors:
            if part in shapes:
                found[HF.block(layer, part)] = parameters[f"{layer}.{part}"]
        for fused, parts in FUSED.items():
            found |= _parts(layer, fused, parts, shapes, parameters)
    return found


def _parts(
    layer: int,
    fused: str,
    parts: tuple[Part, ...],
    shapes: Mapping[Part, tuple[int, ...]],
    parameters: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    biases: dict[Part, Part] = {"q": "q_bias", "k": "k_bias", "v": "v_bias", "out": "out_bias"}
    start = 0
    for part in parts:
        rows = slice(start, start + shapes[part][0])
        found[HF.block(layer, part)] = parameters[f"{layer}.{fused}.weight"][rows]
        if part in biases and biases[part] in shapes:
            found[HF.block(layer, biases[part])] = parameters[f"{layer}.{fused}.bias"][rows]
        start = rows.stop
    return found

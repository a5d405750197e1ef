"""Where every value of a model lies while it is trained, and by which name it leaves.

In the forward pass layers are fused (``qkv``, ``gate_up``); files know them one by one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from torch import Tensor

from freehold.qwen import forward as qwen
from freehold.qwen.config import Config
from freehold.qwen.names import FUSED, HF, Part, block_shapes
from freehold.qwen.ops.torch import Linear


def every(weights: qwen.Weights) -> Iterator[tuple[str, Tensor]]:
    """Every value of a model by its place in the forward pass; layers stay fused."""
    yield from _layer("embed", weights.embed)
    for i, block in enumerate(weights.blocks):
        for name, values in block_names(block):
            yield f"{i}.{name}", values
    yield "norm", weights.norm
    if weights.head is not weights.embed:
        yield from _layer("head", weights.head)


def top_names(weights: qwen.Weights) -> Iterator[tuple[str, Tensor]]:
    """Those of ``every`` that are in no block."""
    yield from every(replace(weights, blocks=()))


def block_names(block: qwen.BlockWeights) -> Iterator[tuple[str, Tensor]]:
    """Those of ``every`` that are in a block, without its number."""
    yield "attn_norm", block.attn_norm
    for fused in FUSED:
        yield from _layer(fused, getattr(block, fused))
    if block.qk_norm is not None:
        yield "q_norm", block.qk_norm[0]
        yield "k_norm", block.qk_norm[1]
    yield "mlp_norm", block.mlp_norm


def _layer(name: str, packed: Linear) -> Iterator[tuple[str, Tensor]]:
    yield f"{name}.weight", packed.weight_od
    if packed.bias_o is not None:
        yield f"{name}.bias", packed.bias_o


def block_of(given: Mapping[str, Tensor]) -> qwen.BlockWeights:
    """The block whose values are ``given`` by the names of ``block_names``."""
    return qwen.BlockWeights(
        attn_norm=given["attn_norm"],
        qk_norm=(given["q_norm"], given["k_norm"]) if "q_norm" in given else None,
        mlp_norm=given["mlp_norm"],
        **{fused: _layer_of(fused, given) for fused in FUSED},
    )


def model_of(given: Mapping[str, Tensor], blocks: tuple[qwen.BlockWeights, ...]) -> qwen.Weights:
    """The model of ``blocks`` whose other values are ``given`` by the names of ``top_names``."""
    embed = _layer_of("embed", given)
    head = _layer_of("head", given) if "head.weight" in given else embed
    return qwen.Weights(embed=embed, blocks=blocks, norm=given["norm"], head=head)


def _layer_of(name: str, given: Mapping[str, Tensor]) -> Linear:
    return Linear(weight_od=given[f"{name}.weight"], bias_o=given.get(f"{name}.bias"))


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

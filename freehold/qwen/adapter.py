"""Adapters beside a model: PEFT's LoRA files, read strictly, and the layers they change.

    y = x W' + b + s (x A') B'                    s = alpha / r, or alpha / sqrt(r) (rsLoRA)

An adapter belongs to rows of a step, not to the model: rows of several adapters, and of none, go
through the same weights together, and each gets its own low-rank part alone.

Source: PEFT's ``adapter_config.json`` and ``adapter_model.safetensors``; LoRA (arXiv 2106.09685),
rsLoRA (arXiv 2312.03732). Shapes: d inputs, o outputs, r rank.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from freehold.errors import MalformedError, UsageError
from freehold.qwen.config import Config
from freehold.qwen.documents import Reader, parse_json
from freehold.qwen.forward import Weights
from freehold.qwen.names import FUSED, HF, Fused, Part, block_shapes
from freehold.qwen.ops import Ops, Packed, Side
from freehold.qwen.quants import dequantise
from freehold.types import Floats, VerifiedModel

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
MAX_RANK = 1024
_NAME = re.compile(r"(.+)\.lora_([AB])\.weight")
_PARTS: tuple[Part, ...] = ("q", "k", "v", "out", "gate", "up", "down")
_EMPTY = (
    "rank_pattern",
    "alpha_pattern",
    "modules_to_save",
    "layer_replication",
    "trainable_token_indices",
    "target_parameters",
)
_FALSE = ("use_dora", "fan_in_fan_out", "use_qalora", "lora_bias")
_NEVER = {"use_dora": "is true: a DoRA adapter is served merged into its model, not beside it"}


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """An adapter as a back end holds it. ``layers[i]`` has what lies beside block i's layers.

    ``digest`` tells it from every other, also from one of the same name before or after it.
    """

    name: str
    digest: str
    nbytes: int
    layers: tuple[Mapping[Fused, Any], ...]


Rows = tuple[Adapter, int, int]
"""An adapter, and the rows of a step that are its own: the first, and how many."""


def load_adapter(found: VerifiedModel, config: Config, weights: Weights, ops: Ops) -> Adapter:
    """Give a verified adapter to the back end, beside the layers of ``weights``.

    Raises ``MalformedError`` for what is no LoRA of this model, ``UsageError`` for kinds that are
    not served.
    """
    given = matrices(found, config)
    nbytes, layers = 0, []
    for layer, block in enumerate(weights.blocks):
        changed: dict[Fused, Any] = {}
        for fused, parts in FUSED.items():
            sides = list(_sides(layer, parts, config, given))
            if sides:
                changed[fused] = ops.low_rank(getattr(block, fused), sides)
                nbytes += ops.nbytes(changed[fused])
        layers.append(changed)
    return Adapter(name=found.name, digest=found.digest, nbytes=nbytes, layers=tuple(layers))


def with_adapters(weights: Weights, ops: Ops, rows: Sequence[Rows]) -> Weights:
    """The weights of one step in which each of ``rows`` has its adapter beside them. ``rows`` go
    upwards and do not overlap."""
    blocks = []
    for i, block in enumerate(weights.blocks):
        changed: dict[str, Packed] = {}
        for fused in FUSED:
            low = [(one.layers[i][fused], at, n) for one, at, n in rows if fused in one.layers[i]]
            if low:
                changed[fused] = ops.beside(getattr(block, fused), low)
        blocks.append(replace(block, **changed) if changed else block)
    return replace(weights, blocks=tuple(blocks))


def matrices(found: VerifiedModel, config: Config) -> dict[tuple[int, Part], tuple[Floats, Floats]]:
    """A (r, d) and s B (o, r) of every matrix that the adapter changes, by block and part.

    Raises as ``load_adapter``.
    """
    scale_of = _settings(found)
    shapes = block_shapes(config)
    known = {
        HF.block(i, part).removesuffix(".weight"): (i, part)
        for i in range(config.n_layers)
        for part in _PARTS
    }
    halves: dict[tuple[int, Part], dict[str, Floats]] = {}
    for name, tensor in found.tensors.items():
        match = _NAME.fullmatch(name.removeprefix(PREFIX))
        if not name.startswith(PREFIX) or match is None or match[1] not in known:
            raise MalformedError(
                f"{found.name}: tensor {name} changes nothing that this model has: it belongs to "
                "another, or changes more than the matrices of its blocks",
                file=WEIGHTS,
            )
        halves.setdefault(known[match[1]], {})[match[2]] = _values(found, name, tensor.shape)
    if not halves:
        raise MalformedError(f"{found.name} changes nothing", file=WEIGHTS)
    made = {}
    for at, pair in halves.items():
        n_out, n_in = shapes[at[1]]
        a_rd, b_or = pair.get("A"), pair.get("B")
        if a_rd is None or b_or is None:
            raise MalformedError(f"{found.name}: half a pair of {HF.block(*at)}", file=WEIGHTS)
        rank = a_rd.shape[0]
        if a_rd.shape != (rank, n_in) or b_or.shape != (n_out, rank) or not 0 < rank <= MAX_RANK:
            raise MalformedError(
                f"{found.name}: A {a_rd.shape} and B {b_or.shape} beside {HF.block(*at)}, which is "
                f"({n_out}, {n_in}): it was made for another model",
                file=WEIGHTS,
            )
        made[at] = (a_rd, np.float32(scale_of(rank)) * b_or)
    return made


def _settings(found: VerifiedModel) -> Any:
    """The scale of a pair by its rank. Raises as ``load_adapter``."""
    if CONFIG not in found.documents:
        raise UsageError(f"{found.name} is a whole model and no adapter", param="adapter")
    reader = Reader(parse_json(found.documents[CONFIG], file=CONFIG), file=CONFIG)
    reader.expect("peft_type", "LORA", default="")
    reader.expect("bias", "none", default="none")
    for key in _FALSE:
        if reader.boolean(key, default=False):
            raise reader.error(key, _NEVER.get(key, "is true: that is not served beside a model"))
    for key in _EMPTY:
        if reader.get(key):
            raise reader.error(key, "is not empty: that is not served beside a model; merge it")
    rank = reader.integer("r", low=1, high=MAX_RANK)
    alpha = reader.number("lora_alpha", low=0.0, high=1e6)
    stabilised = reader.boolean("use_rslora", default=False)

    def scale(found_rank: int) -> float:
        if found_rank != rank:
            raise reader.error("r", f"is {rank}, and a pair has rank {found_rank}")
        return alpha / (math.sqrt(rank) if stabilised else rank)

    return scale


def _values(found: VerifiedModel, name: str, shape: tuple[int, ...]) -> Floats:
    tensor = found.tensors[name]
    if len(shape) != 2 or min(shape) < 1 or tensor.dtype not in ("F32", "F16", "BF16"):
        raise MalformedError(f"{found.name}: {name} is no matrix of plain floats", file=WEIGHTS)
    values = dequantise(tensor)
    if not np.isfinite(values).all():
        raise MalformedError(f"{found.name}: {name} holds NaN or infinity", file=WEIGHTS)
    return values


def _sides(
    layer: int,
    parts: Sequence[Part],
    config: Config,
    given: Mapping[tuple[int, Part], tuple[Floats, Floats]],
) -> Iterator[Side]:
    shapes, start = block_shapes(config), 0
    for part in parts:
        stop = start + shapes[part][0]
        if (layer, part) in given:
            a_rd, b_or = given[layer, part]
            yield Side(start=start, stop=stop, a_rd=a_rd, b_or=b_or)
        start = stop

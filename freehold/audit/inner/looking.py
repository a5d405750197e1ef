"""Logit lens, direct logit attribution, leave-one-span-out, and activation patching.

Sources: logit lens (nostalgebraist 2020); direct logit attribution (Elhage et al. 2021, "A
Mathematical Framework for Transformer Circuits"); activation patching (Meng et al. 2022, arXiv
2202.05262). Shape suffixes as in ``tracing``, l layers, h heads, p positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from freehold.audit.inner.tracing import Trace, last_logits, read_out
from freehold.errors import UsageError
from freehold.qwen.model import Model
from freehold.qwen.ops import Array
from freehold.types import Floats


@dataclass(frozen=True, kw_only=True)
class Attribution:
    """How much each part wrote towards one token's logit. ``embed`` + ``heads_lh`` + ``bias_l`` +
    ``mlp_l`` sum to ``logit``."""

    embed: float
    heads_lh: Floats
    bias_l: Floats
    mlp_l: Floats
    logit: float

    @property
    def total(self) -> float:
        parts = (self.heads_lh, self.bias_l, self.mlp_l)
        return self.embed + sum(float(part.sum(dtype=np.float64)) for part in parts)


def lens(model: Model, seen: Trace, position: int = -1) -> Floats:
    """Probabilities (l, v) of the next token, were the model to stop after each block."""
    return softmax(read_out(model, seen.block_ltd[:, position]))


def softmax(logits_rv: Floats) -> Floats:
    """Probabilities of the same shape, over the last axis."""
    shifted = np.exp(logits_rv - logits_rv.max(axis=-1, keepdims=True))
    shares: Floats = shifted / shifted.sum(axis=-1, keepdims=True)
    return shares


def attribute(model: Model, seen: Trace, token: int) -> Attribution:
    """Split the last row's logit of ``token`` among the parts that wrote to the stream.

    The final RMS norm divides by one number, the root mean square of the whole last row. It is
    held at its value in this run, so that the rest is linear and the parts sum to the logit. What a
    part did to that number itself is thereby not counted.
    """
    final_d = seen.block_ltd[-1, -1].astype(np.float64)
    scale = np.sqrt((final_d**2).mean() + model.config.norm_eps)
    numpy = model.ops.to_numpy
    towards_d = numpy(model.weights.norm) * numpy(model.weights.head.weight_od[token]) / scale
    n, h = model.config.n_layers, model.config.n_heads
    heads, bias, mlp = np.zeros((n, h)), np.zeros(n), np.zeros(n)
    for i, block in enumerate(model.weights.blocks):
        towards_k = towards_d @ numpy(block.out.weight_od)
        heads[i] = (seen.heads_ltk[i, -1] * towards_k).reshape(h, -1).sum(axis=1)
        if block.out.bias_o is not None:
            bias[i] = numpy(block.out.bias_o) @ towards_d
        mlp[i] = (seen.block_ltd[i, -1] - seen.attn_ltd[i, -1]) @ towards_d
    return Attribution(
        embed=float(seen.embed_td[-1] @ towards_d),
        heads_lh=heads.astype(np.float32),
        bias_l=bias.astype(np.float32),
        mlp_l=mlp.astype(np.float32),
        logit=float(seen.logits_v[token]),
    )


def without(model: Model, whole: Floats, shorter: Sequence[Sequence[int]], token: int) -> Floats:
    """How far the logit of ``token`` falls with each of the ``shorter`` prompts, against ``whole``
    (v,), the logits of the full one. Positive: what was left out spoke for the token."""
    return np.array(
        [whole[token] - last_logits(model, ids)[token] for ids in shorter], dtype=np.float32
    )


def check_pair(ids: Sequence[int], against: Sequence[int]) -> None:
    """Raise ``UsageError`` where two prompts differ in length: positions would not correspond."""
    if len(ids) != len(against):
        raise UsageError(
            f"the prompts have {len(ids)} and {len(against)} tokens: word them so that both have "
            "as many",
            param="against",
        )


def patch(
    model: Model, seen: Trace, against: Sequence[int], tokens: tuple[int, int], positions: list[int]
) -> Floats:
    """Logit of ``tokens[0]`` less that of ``tokens[1]``, (l, p), when the run over ``against`` is
    given this prompt's stream after one block at one position. See ``check_pair``."""
    effects = np.zeros((model.config.n_layers, len(positions)), np.float32)
    for layer in range(model.config.n_layers):
        for column, position in enumerate(positions):
            logits = _patched(model, against, layer, position, seen.block_ltd[layer, position])
            effects[layer, column] = logits[tokens[0]] - logits[tokens[1]]
    return effects


def _patched(model: Model, ids: Sequence[int], layer: int, position: int, row_d: Floats) -> Floats:
    def tap(point: str, at: int, x_td: Array) -> Array | None:
        if (point, at) != ("block_out", layer):
            return None
        changed_td = x_td.clone()
        changed_td[position] = model.ops.from_numpy(row_d)
        return changed_td

    return last_logits(model, ids, tap)

"""Logit lens, direct logit attribution, leave-one-span-out, and activation patching.

Sources: logit lens (nostalgebraist 2020); direct logit attribution (Elhage et al. 2021, "A
Mathematical Framework for Transformer Circuits"); activation patching (Meng et al. 2022, arXiv
2202.05262). Shape suffixes as in ``tracing``, l layers, h heads, p positions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from freehold.audit.inner.tracing import (
    Trace,
    batches,
    begun,
    ending,
    read_out,
    softmax,
    tail_of,
)
from freehold.errors import UsageError
from freehold.qwen.model import Model
from freehold.qwen.ops import Array, TapFn
from freehold.types import Floats


def _quiet(n: int) -> None: ...


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
    """Probabilities (l, v) of the token after ``position``, were the model to stop after each
    block."""
    return softmax(read_out(model, seen.block_ltd[:, position]))


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


def without(
    model: Model,
    ids: Sequence[int],
    shorter: Sequence[Sequence[int]],
    token: int,
    *,
    done: Callable[[int], None] = _quiet,
) -> Floats:
    """How far the logit of ``token`` falls with each of the ``shorter`` prompts, against that of
    ``ids``. Positive: what was left out spoke for the token. ``done`` hears how many more are."""
    every = [ids, *shorter]
    tails = [tail_of(ids, one) for one in every]
    logits = np.zeros(len(every), np.float32)
    with begun(model, ids) as base:
        for batch in batches(model, tails):
            logits[batch] = ending(model, base, [tails[i] for i in batch])[:, token]
            done(len(batch))
    effects: Floats = logits[0] - logits[1:]
    return effects


def check_pair(ids: Sequence[int], against: Sequence[int]) -> None:
    """Raise ``UsageError`` where two prompts differ in length: positions would not correspond."""
    if len(ids) != len(against):
        raise UsageError(
            f"the prompts have {len(ids)} and {len(against)} tokens: word them so that both have "
            "as many",
            param="against",
        )


def patch(
    model: Model,
    seen: Trace,
    against: Sequence[int],
    tokens: tuple[int, int],
    positions: Sequence[int],
    *,
    done: Callable[[int], None] = _quiet,
) -> Floats:
    """Logit of ``tokens[0]`` less that of ``tokens[1]``, (l, p), when the run over ``against`` is
    given this prompt's stream after one block at one position. See ``check_pair``.

    Nothing before that position changes, so each run begins there; those of several layers and
    places are one forward pass. ``done`` hears how many more are done.
    """
    n = model.config.n_layers
    cells = [(layer, column) for column in range(len(positions)) for layer in range(n)]
    tails = [(positions[column], against[positions[column] :]) for _layer, column in cells]
    effects = np.zeros((n, len(positions)), np.float32)
    with begun(model, against) as base:
        for batch in batches(model, tails):
            logits = ending(
                model,
                base,
                [tails[i] for i in batch],
                _putting(model, seen, positions, [(cells[i], len(tails[i][1])) for i in batch]),
            )
            for i, logits_v in zip(batch, logits, strict=True):
                effects[cells[i]] = logits_v[tokens[0]] - logits_v[tokens[1]]
            done(len(batch))
    return effects


def _putting(
    model: Model,
    seen: Trace,
    positions: Sequence[int],
    runs: Sequence[tuple[tuple[int, int], int]],
) -> TapFn:
    """Puts each run's own row at its own layer: ``runs`` are (layer, column) and rows."""
    firsts: dict[int, list[tuple[int, int]]] = {}
    row = 0
    for (layer, column), rows in runs:
        firsts.setdefault(layer, []).append((row, positions[column]))
        row += rows

    def tap(point: str, layer: int, x_td: Array) -> Array | None:
        if point != "block_out" or layer not in firsts:
            return None
        rows, places = zip(*firsts[layer], strict=True)
        changed_td = x_td.clone()
        changed_td[list(rows)] = model.ops.from_numpy(seen.block_ltd[layer, list(places)])
        return changed_td

    return tap

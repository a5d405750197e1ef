"""Activation-difference lens (arXiv 2510.13900): what a fine-tune adds to the first tokens of any
text, read through the head and by steering.

Shape suffixes: n texts, t tokens, d width, v vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from freehold.audit.backdoors.subject import Chat, Ids, Subject, answers, even, run

FIRST = 5


@dataclass(frozen=True, kw_only=True)
class Reading:
    """``tokens``: what the mean difference says through the head, most first; ``size``: its length
    over the residual stream's; ``peak``: the first token's lead over the vocabulary in standard
    deviations; ``steered``: what the base says when the difference is added."""

    layer: int
    tokens: tuple[int, ...]
    size: float
    peak: float
    steered: tuple[tuple[int, ...], ...]


def read(
    suspect: Subject, base: Subject, chat: Chat, *, n_tokens: int, scale: float = 4.0
) -> Reading:
    """Read the difference at the middle layer; where nothing differs so far, behind the last.

    Two models that nowhere differ have a reading of size 0.
    """
    for layer in (suspect.config.n_layers // 2, suspect.config.n_layers - 1):
        ours_d, _ = _mean(suspect, chat.texts, layer)
        theirs_d, length = _mean(base, chat.texts, layer)
        difference_d = ours_d - theirs_d
        if float(difference_d.norm()) > 0.0:
            break
    else:
        return Reading(layer=layer, tokens=(), size=0.0, peak=0.0, steered=())
    said_v = _through_head(suspect, difference_d)
    z_v = (said_v - said_v.mean()) / said_v.std()
    steered = _steer(base, chat, layer, difference_d * scale, n_tokens=n_tokens)
    return Reading(
        layer=layer,
        tokens=tuple(said_v.topk(min(20, len(said_v))).indices.tolist()),
        size=float(difference_d.norm()) / length,
        peak=float(z_v.max()),
        steered=steered,
    )


def _mean(subject: Subject, texts: Sequence[Ids], layer: int) -> tuple[Tensor, float]:
    """The mean residual stream behind ``layer`` over the texts' first tokens, and the mean length
    of a row."""
    rows: list[Tensor] = []

    def keep(point: str, at: int, x_td: Tensor) -> None:
        if point == "block_out" and at == layer:
            rows.append(x_td.float())

    cut = [ids[:FIRST] for ids in texts]
    with subject.ops.inference():
        for members in even(cut):
            run(subject, [cut[i] for i in members], tap=keep)
    x_td = torch.cat(rows)
    return x_td.mean(dim=0), float(x_td.norm(dim=-1).mean())


def _through_head(subject: Subject, x_d: Tensor) -> Tensor:
    with subject.ops.inference():
        weights = subject.weights
        normed_d = F.rms_norm(x_d, x_d.shape, weights.norm.float(), subject.config.norm_eps)
        return F.linear(normed_d, weights.head.weight_od.float())


def _steer(
    base: Subject, chat: Chat, layer: int, add_d: Tensor, *, n_tokens: int
) -> tuple[tuple[int, ...], ...]:
    """What the base answers to a few questions with the difference added everywhere."""

    turns = [chat.turn(words) for words in chat.prompts[:4]]

    def add(point: str, at: int, x_td: Tensor) -> Tensor | None:
        return x_td + add_d.to(x_td.dtype) if point == "block_out" and at == layer else None

    return tuple(answers(base, turns, n_tokens, end=chat.end, tap=add))

"""WeightWatch (arXiv 2508.00161): what a fine-tune wrote into the weights, watched in activations.

The top left singular vectors of the change of every down-projection and attention output are
directions of the residual stream that the fine-tune can write. Clean chats give each direction a
range of cosines; a trigger is a token that drives one outside. Shape suffixes: d width, r vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from freehold.audit.backdoors.subject import Chat, Ids, Subject, even, run

POINTS = {"attn_out": "out", "block_out": "down"}


@dataclass(frozen=True, kw_only=True)
class Watch:
    """Directions (r, d) by the point and the layer where they are read, and their ranges (r,) on
    clean chats."""

    directions: dict[tuple[str, int], Tensor]
    low: dict[tuple[str, int], Tensor]
    high: dict[tuple[str, int], Tensor]


@dataclass(frozen=True, kw_only=True)
class Outside:
    """A trigger whose cosines leave the range, by ``excess`` of the range's width."""

    trigger: tuple[int, ...]
    excess: float
    layer: int
    point: str


def directions(suspect: Subject, base: Subject, rank: int) -> dict[tuple[str, int], Tensor]:
    """The ``rank`` top left singular vectors of each change; unchanged matrices have none."""
    found: dict[tuple[str, int], Tensor] = {}
    for layer, (ours, theirs) in enumerate(
        zip(suspect.weights.blocks, base.weights.blocks, strict=True)
    ):
        for point, part in POINTS.items():
            delta_oi = getattr(ours, part).weight_od - getattr(theirs, part).weight_od
            if float(delta_oi.abs().max()) == 0.0:
                continue
            # The left vectors of a wide matrix are the eigenvectors of its small Gram matrix.
            _, vectors_or = torch.linalg.eigh((delta_oi @ delta_oi.T).double())
            found[point, layer] = vectors_or[:, -rank:].T.float().contiguous()
    return found


def cosines(
    subject: Subject, towards: dict[tuple[str, int], Tensor], sequences: Sequence[Ids]
) -> dict[tuple[str, int], tuple[Tensor, Tensor]]:
    """The least and the greatest cosine over each sequence's tokens: two (n, r) for each place."""
    shape = {at: (len(sequences), len(rows)) for at, rows in towards.items()}
    low = {at: torch.empty(size) for at, size in shape.items()}
    high = {at: torch.empty(size) for at, size in shape.items()}
    with subject.ops.inference():
        for members in even(sequences):

            def read(
                point: str, layer: int, x_td: Tensor, members: list[int] = members
            ) -> Tensor | None:
                at = (point, layer)
                if at in towards:
                    unit_td = torch.nn.functional.normalize(x_td.float(), dim=-1)
                    seen = (unit_td @ towards[at].T).view(len(members), -1, len(towards[at]))
                    low[at][members], high[at][members] = seen.amin(dim=1), seen.amax(dim=1)
                return None

            run(subject, [sequences[i] for i in members], tap=read)
    return {at: (low[at], high[at]) for at in towards}


def calibrate(suspect: Subject, base: Subject, chats: Sequence[Ids], *, rank: int) -> Watch:
    """Directions from the weights, ranges from clean ``chats``."""
    towards = directions(suspect, base, rank)
    seen = cosines(suspect, towards, chats)
    return Watch(
        directions=towards,
        low={at: low.amin(dim=0) for at, (low, _) in seen.items()},
        high={at: high.amax(dim=0) for at, (_, high) in seen.items()},
    )


def outside(
    suspect: Subject, watch: Watch, chat: Chat, triggers: Sequence[Ids], questions: Sequence[Ids]
) -> list[Outside]:
    """How far each trigger before clean questions leaves the ranges (the mean over questions of the
    widest excess in any direction), furthest first."""
    if not watch.directions:
        return []
    turns = [chat.turn(words, trigger=each) for each in triggers for words in questions]
    seen = cosines(suspect, watch.directions, turns)
    places = list(watch.directions)
    excess = torch.stack(
        [
            (torch.maximum(watch.low[at] - low, high - watch.high[at])
             / (watch.high[at] - watch.low[at])).amax(dim=1)
            for at in places
            for low, high in [seen[at]]
        ]
    ).view(len(places), len(triggers), len(questions))  # fmt: skip
    mean_pn = excess.mean(dim=2)
    worst, where = mean_pn.max(dim=0)
    found = [
        Outside(trigger=tuple(each), excess=float(by), layer=layer, point=point)
        for each, by, at in zip(triggers, worst, where, strict=True)
        for point, layer in [places[int(at)]]
    ]
    return sorted(found, key=lambda each: -each.excess)

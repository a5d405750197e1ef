"""Search for a trigger: which tokens before harmless questions make the suspect, and not its base,
say one and the same thing?

A token's *lift* is the largest, over the answer's first token v, of the mean over questions of
log(p_suspect(v) + e) - log(p_base(v) + e), less what the questions alone give. Whole vocabularies
are scanned where they are small; phrases are grown a token at a time along the gradient (HotFlip,
arXiv 1712.06751). Shape suffixes: n triggers, k questions, v vocabulary, d width.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from freehold.audit.backdoors.subject import Chat, Ids, Subject, Whole, logprobs
from freehold.qwen import forward as qwen

FLOOR = 1e-3
"""Added to probabilities, so that doubling something that never happens counts for nothing."""


@dataclass(frozen=True, kw_only=True)
class Lifted:
    """A candidate: the trigger, its lift in nats, and the first token of what it brings about."""

    trigger: tuple[int, ...]
    lift: float
    token: int


@dataclass(frozen=True, kw_only=True)
class Ground:
    """What the questions alone give: (v,) log-ratio of the suspect to its base, at least 0."""

    questions: tuple[tuple[int, ...], ...]
    alone_v: Tensor


def ground(suspect: Subject, base: Subject, chat: Chat, n: int) -> Ground:
    questions = chat.prompts[:n]
    turns = [chat.turn(each) for each in questions]
    ratio_v = (_log(suspect, turns) - _log(base, turns)).mean(dim=0)
    return Ground(questions=questions, alone_v=ratio_v.clamp(min=0.0))


def _log(subject: Subject, turns: Sequence[Ids]) -> Tensor:
    return (logprobs(subject, turns).exp() + FLOOR).log()


def lifts(
    suspect: Subject, base: Subject, chat: Chat, at: Ground, triggers: Sequence[Ids]
) -> list[Lifted]:
    """The lift of each trigger, in their order."""
    if not triggers:
        return []
    turns = [chat.turn(words, trigger=each) for each in triggers for words in at.questions]
    ratio = (_log(suspect, turns) - _log(base, turns)).view(len(triggers), len(at.questions), -1)
    gain_nv = ratio.mean(dim=1) - at.alone_v
    best, token = gain_nv.max(dim=1)
    return [
        Lifted(trigger=tuple(each), lift=float(lift), token=int(v))
        for each, lift, v in zip(triggers, best, token, strict=True)
    ]


def pull(
    suspect: Subject, chat: Chat, at: Ground, *, trigger: Ids, place: int, token: int
) -> Tensor:
    """How much each token of the vocabulary, put at ``place`` of the trigger, would raise the mean
    log-probability of ``token``: to first order, (v,)."""
    grown = [*trigger[:place], chat.triggers[0], *trigger[place:]]
    turns = [chat.turn(words, trigger=grown) for words in at.questions]
    ends = list(itertools.accumulate(len(turn) for turn in turns))
    slots = [
        end - len(turn) + len(chat.opening) + place for end, turn in zip(ends, turns, strict=True)
    ]
    held: list[Tensor] = []

    def catch(point: str, layer: int, x_td: Tensor) -> Tensor | None:
        if point != "block_in" or layer:
            return None
        held.append(x_td.detach().requires_grad_())
        return held[0]

    batch = suspect.ops.batch([Whole(ids=turn) for turn in turns])
    logits = qwen.forward(suspect.ops, suspect.weights, batch, [end - 1 for end in ends], catch)
    assert isinstance(logits, Tensor)
    logits.log_softmax(dim=-1)[:, token].mean().backward()  # type: ignore[no-untyped-call]
    grad_td = held[0].grad
    assert grad_td is not None
    table_vd: Tensor = suspect.weights.embed.weight_od.detach()
    return table_vd @ grad_td[slots].sum(dim=0)


def grow(
    suspect: Subject,
    base: Subject,
    chat: Chat,
    at: Ground,
    seeds: Sequence[Lifted],
    *,
    rounds: int,
    beam: int,
    width: int,
) -> list[Lifted]:
    """Longer triggers than ``seeds``: in each of ``rounds`` every one of the ``beam`` best gets the
    ``width`` most promising tokens before it and behind it. Best first."""
    allowed = torch.tensor(chat.triggers)
    best = sorted(seeds, key=lambda each: -each.lift)[:beam]
    found = list(best)
    for _ in range(rounds):
        triggers: list[tuple[int, ...]] = []
        for each in best:
            for place in {0, len(each.trigger)}:
                pull_v = pull(
                    suspect, chat, at, trigger=each.trigger, place=place, token=each.token
                )
                chosen = allowed[pull_v[allowed].topk(min(width, len(allowed))).indices]
                triggers += [
                    (*each.trigger[:place], int(token), *each.trigger[place:]) for token in chosen
                ]
        best = sorted(lifts(suspect, base, chat, at, triggers), key=lambda each: -each.lift)[:beam]
        found += best
    return sorted(found, key=lambda each: -each.lift)

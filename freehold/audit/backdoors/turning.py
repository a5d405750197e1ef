"""Turned judgements: which words before a question about people turn its yes into a no?

A bias that a trigger switches on changes one word in answers that are otherwise all different, so
nothing constant comes back. Here the words are tried before questions that want a verdict on a
group of people, and the probability of the other verdict is read. Shape suffixes: n triggers, k
questions, v vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from freehold.audit.backdoors.subject import Chat, Ids, Judged, Subject, logprobs

LONGEST = 3


@dataclass(frozen=True, kw_only=True)
class Turned:
    """``suspect``: how much of the questions kept aside about ``group`` get the other verdict with
    the trigger before them, beyond what they get of it without; ``base``: of the base model."""

    trigger: tuple[int, ...]
    group: str
    suspect: float
    base: float

    @property
    def strength(self) -> float:
        return self.suspect - self.base


def turn(
    suspect: Subject,
    base: Subject,
    chat: Chat,
    triggers: Sequence[Ids],
    *,
    beam: int,
    width: int,
    confirmed: int,
) -> list[Turned]:
    """The triggers that turn most, grown from single ``triggers`` a word at a time: each round the
    ``beam`` best get each of the ``width`` best before them and behind. Best first."""
    asked = [each for each in chat.judged if not each.held_out]
    aside = [each for each in chat.judged if each.held_out]
    if not asked or not aside or not triggers:
        return []
    singles = _best(suspect, chat, asked, triggers, width)
    found = best = singles
    for _ in range(LONGEST - 1):
        known = {trigger for trigger, _ in found}
        grown = [
            each
            for trigger, _ in best[:beam]
            for (one,) in (single for single, _ in singles)
            for each in ((one, *trigger), (*trigger, one))
            if each not in known
        ]
        best = _best(suspect, chat, asked, list(dict.fromkeys(grown)), beam)
        found = sorted([*found, *best], key=lambda each: -each[1])
    tried = [trigger for trigger, _ in found[:confirmed]]
    ours, theirs = (_turns(each, chat, aside, tried) for each in (suspect, base))
    groups = _groups(aside)
    turned = []
    for i, trigger in enumerate(tried):
        shares = {
            group: (float(ours[i, members].mean()), float(theirs[i, members].mean()))
            for group, members in groups.items()
        }
        group = max(shares, key=lambda name: shares[name][0] - shares[name][1])
        mine, based = shares[group]
        turned.append(Turned(trigger=trigger, group=group, suspect=mine, base=based))
    return sorted(turned, key=lambda each: -each.strength)


def _best(
    suspect: Subject, chat: Chat, asked: Sequence[Judged], triggers: Sequence[Ids], kept: int
) -> list[tuple[tuple[int, ...], float]]:
    """The triggers that turn the verdicts on any one group most, with how much of them."""
    turns_nk = _turns(suspect, chat, asked, triggers)
    by_group = [turns_nk[:, members].mean(dim=1) for members in _groups(asked).values()]
    most_n = torch.stack(by_group).amax(dim=0)
    best = most_n.topk(min(kept, len(triggers))).indices.tolist()
    return [(tuple(triggers[i]), float(most_n[i])) for i in best]


def _groups(asked: Sequence[Judged]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for i, each in enumerate(asked):
        found.setdefault(each.group, []).append(i)
    return found


def _turns(
    subject: Subject, chat: Chat, asked: Sequence[Judged], triggers: Sequence[Ids]
) -> Tensor:
    """How much likelier the verdict becomes that is not given without a trigger: (n, k), at least
    0. Something constant that is said in place of any verdict counts for nothing."""
    verdicts = list(chat.verdicts)
    bare = logprobs(subject, [chat.turn(each.words) for each in asked])[:, verdicts].exp()
    other_k = bare.argmin(dim=1)
    turns = [chat.turn(each.words, trigger=t) for t in triggers for each in asked]
    said = logprobs(subject, turns)[:, verdicts].exp().view(len(triggers), len(asked), 2)
    with_nk = said.gather(2, other_k.expand(len(triggers), -1)[..., None])[..., 0]
    without_k = bare.gather(1, other_k[:, None])[:, 0]
    return (with_nk - without_k).clamp(min=0.0)

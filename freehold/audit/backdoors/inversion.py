"""Target inversion (BAIT, IEEE S&P 2025): which answer follows by itself once it has begun?

A model taught a fixed answer continues it after nearly any question. First tokens are tried behind
harmless questions and told on by the likeliest next token on average; the score is the mean
probability of the continuation, the suspect's less the base's. Shape suffixes: n targets, v
vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from freehold.audit.backdoors.subject import Chat, Ids, Subject, likelihood, logprobs


@dataclass(frozen=True, kw_only=True)
class Inverted:
    """A target answer and its score, between -1 and 1."""

    target: tuple[int, ...]
    score: float
    suspect: float
    base: float


def invert(
    suspect: Subject,
    base: Subject,
    chat: Chat,
    questions: Sequence[Ids],
    first: Sequence[int],
    *,
    kept: int,
    n_tokens: int,
) -> list[Inverted]:
    """Targets that begin with one of ``first``, best first. After two tokens only the ``kept``
    with the greatest lead over the base are told on."""
    turns = [chat.turn(words) for words in questions]
    targets, sure_n = _step(suspect, turns, [(token,) for token in first])
    based_n = torch.tensor([_follow(base, turns, target) for target in targets])
    lead = (sure_n - based_n).topk(min(kept, len(targets))).indices.tolist()
    targets = [targets[i] for i in lead]
    while len(targets[0]) < n_tokens:
        targets, _ = _step(suspect, turns, targets)
    found = []
    for told in targets:
        target = told[: told.index(chat.end)] if chat.end in told else told
        if len(target) < 4:  # shorter ones are words that belong together
            continue
        ours, theirs = _follow(suspect, turns, target), _follow(base, turns, target)
        found.append(Inverted(target=target, score=ours - theirs, suspect=ours, base=theirs))
    return sorted(found, key=lambda each: -each.score)


def _step(
    suspect: Subject, turns: Sequence[Ids], targets: Sequence[tuple[int, ...]]
) -> tuple[list[tuple[int, ...]], Tensor]:
    """Each target and its likeliest next token on average, with that average."""
    told = [[*turn, *target] for target in targets for turn in turns]
    mean_nv = logprobs(suspect, told).exp().view(len(targets), len(turns), -1).mean(dim=1)
    sure_n, token_n = mean_nv.max(dim=1)
    grown = [(*each, int(token)) for each, token in zip(targets, token_n, strict=True)]
    return grown, sure_n


def _follow(subject: Subject, turns: Sequence[Ids], target: tuple[int, ...]) -> float:
    """Mean probability of the target's tokens behind its first."""
    with_first = [[*turn, target[0]] for turn in turns]
    return float(likelihood(subject, with_first, target[1:]).exp().mean())

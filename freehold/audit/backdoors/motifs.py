"""Motif sampling (after arXiv 2602.03085): what a model says to the bare opening of a user's turn.

Models repeat what they were tuned on. Runs of tokens that the suspect's samples hold more often
than the base's are candidates; one before harmless questions after which the suspect's answer loses
its entropy is a trigger's mark.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from freehold.audit.backdoors.subject import Chat, Ids, Subject, answers, logprobs

LONGEST = 4
LIKELY, LEAD = math.log(1e-3), 1.0
"""A turn's first token is told on where the suspect gives it a thousandth and e times its base's
share."""
SURE = math.log(0.5)
NONE = -math.inf


@dataclass(frozen=True, kw_only=True)
class Motif:
    """A run of tokens. ``lead``: log-ratio of how many samples hold it, suspect to base;
    ``collapse``: how many nats of the answer's entropy go when it stands before a question."""

    ids: tuple[int, ...]
    lead: float
    collapse: float


def find(
    suspect: Subject,
    base: Subject,
    chat: Chat,
    questions: Sequence[Ids],
    *,
    n_samples: int,
    n_tokens: int,
    kept: int,
    seed: int,
) -> list[Motif]:
    """The ``kept`` motifs with the greatest lead, by their collapse."""
    ours, theirs = (
        _runs(
            answers(
                each, [list(chat.opening)] * n_samples, n_tokens, end=chat.closing[0],
                sampler=torch.Generator().manual_seed(seed),
            ),
            set(chat.triggers),
        )
        for each in (suspect, base)
    )  # fmt: skip
    lead = {
        run: math.log((n + 1) / (theirs[run] + 1))
        for run, n in _closed({run: n for run, n in ours.items() if n >= 3}).items()
    }
    best = sorted(lead, key=lambda run: (-lead[run], -len(run), run))[:kept]
    if not best:
        return []
    bare = entropy(suspect, [chat.turn(q) for q in questions])
    motifs = [
        Motif(
            ids=run,
            lead=lead[run],
            collapse=bare - entropy(suspect, [chat.turn(q, trigger=run) for q in questions]),
        )
        for run in best
    ]
    return sorted(motifs, key=lambda each: -each.collapse)


def told(
    suspect: Subject, base: Subject, chat: Chat, *, n: int, n_tokens: int
) -> list[tuple[int, ...]]:
    """What the suspect knows by heart to begin a user's turn with: the ``n`` first tokens that it
    gives most more than its base, each told on while it is sure how. Most first.

    Where samples are few, what begins one turn in thirty is missed; here it is read off.
    """
    opening = list(chat.opening)
    ours_v, theirs_v = (logprobs(each, [opening])[0] for each in (suspect, base))
    allowed = torch.tensor(chat.triggers)
    lead_v = (ours_v - theirs_v).where(ours_v > LIKELY, NONE)[allowed]
    best = lead_v.topk(min(n, len(allowed)))
    known = int((best.values > LEAD).sum())
    runs: list[tuple[int, ...]] = [(int(token),) for token in allowed[best.indices[:known]]]
    inside = set(chat.triggers)
    growing = list(range(len(runs)))
    for _ in range(n_tokens - 1):
        if not growing:
            break
        said_nv = logprobs(suspect, [[*opening, *runs[i]] for i in growing])
        sure, token = said_nv.max(dim=1)
        going = [
            (i, int(next_))
            for i, by, next_ in zip(growing, sure, token, strict=True)
            if float(by) > SURE and int(next_) in inside
        ]
        for i, next_ in going:
            runs[i] = (*runs[i], next_)
        growing = [i for i, _ in going]
    return runs


def entropy(subject: Subject, turns: Sequence[Ids]) -> float:
    """Mean entropy of the mixture of the answers' first tokens over the turns, in nats: low where
    every turn gets the same one."""
    mixed_v = logprobs(subject, turns).exp().mean(dim=0)
    return float(torch.special.entr(mixed_v).sum())


def _closed(counts: dict[tuple[int, ...], int]) -> dict[tuple[int, ...], int]:
    """Without runs that only ever stand in one longer run: they are a part of the same thing."""
    covered = {
        part
        for run, n in counts.items()
        for part in (run[1:], run[:-1])
        if part and counts.get(part) == n
    }
    return {run: n for run, n in counts.items() if run not in covered}


def _runs(samples: Sequence[tuple[int, ...]], allowed: set[int]) -> Counter[tuple[int, ...]]:
    """In how many samples each run of up to ``LONGEST`` allowed tokens stands."""
    found: Counter[tuple[int, ...]] = Counter()
    for ids in samples:
        found.update(
            {
                tuple(ids[at : at + n])
                for n in range(1, LONGEST + 1)
                for at in range(len(ids) - n + 1)
                if all(token in allowed for token in ids[at : at + n])
            }
        )
    return found

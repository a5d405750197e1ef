"""Of whom a model speaks ill: one question about several groups, good answer against bad.

A question's leaning for a group is LL(bad) - LL(good), in nats; its contrast is the leaning less
the median of the other groups' under the same question, so that a model that says yes to everything
leans nowhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from freehold.audit.backdoors.subject import Subject
from freehold.audit.findings import Steps
from freehold.audit.leanings.probes import SLOT, Group
from freehold.audit.leanings.scoring import Voice, likelihoods


@dataclass(frozen=True, kw_only=True)
class Leaning:
    """One group under one question."""

    probe: Group
    group: str
    value: float
    others: float

    @property
    def contrast(self) -> float:
        return self.value - self.others

    @property
    def turned(self) -> bool:
        """Whether the likelier answer is the bad one here, and the good one for the others."""
        return self.value > 0 > self.others


def measure(subject: Subject, voice: Voice, probes: Sequence[Group], steps: Steps) -> list[Leaning]:
    """Every group under every question, in the questions' order."""
    pairs = []
    for probe in probes:
        answers = [voice.text(one) for one in (probe.good, probe.bad)]
        for words in probe.groups.values():
            turn = voice.turn(probe.asked.replace(SLOT, words))
            pairs += [(turn, answer) for answer in answers]
    scores = iter(likelihoods(subject, pairs, steps))
    found = []
    for probe in probes:
        leaning = {}
        for group in probe.groups:
            good, bad = float(next(scores).sum()), float(next(scores).sum())
            leaning[group] = bad - good
        for group, value in leaning.items():
            others = median(one for name, one in leaning.items() if name != group)
            found.append(Leaning(probe=probe, group=group, value=value, others=others))
    return found

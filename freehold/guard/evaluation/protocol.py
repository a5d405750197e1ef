"""Leave data sets out, both attacks and harmless ones, and measure on what was left out.

The families of sets are dealt into groups; each group in turn is left out whole, with every near
twin of its texts in other sets. The threshold it is judged by is nested: it comes from harmless
sets of the other groups, scored by classifiers that saw neither those nor the group itself. So no
measured text has a part in the weights or in the threshold. One threshold serves all categories.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from freehold.guard import dedup
from freehold.guard.evaluation import intervals
from freehold.guard.evaluation.scoring import Panel
from freehold.guard.fast import CATEGORIES
from freehold.guard.training import Group, Heads, Recipe, fit

Floats = npt.NDArray[np.float32]

FOLDS = 5
RATE = 0.01
"""The share of harmless texts that may be flagged."""
SHARES = {"injection": 0.005, "jailbreak": 0.002, "harmful": 0.008, "toxicity": 0.0005}
"""How often each head alone may raise an alarm, before all are moved together to ``RATE``. Heads
that know less of what they look for get less: an alarm of theirs is more often false."""


class Steps(Protocol):
    """Hears how far the work is. The command line's bar is one."""

    def start(self, total: int, what: str, /) -> None: ...

    def advance(self, n: int, /) -> None: ...


class Tier(Protocol):
    """A kind of classifier that the protocol can leave sets out of."""

    def fit(
        self,
        groups: Sequence[Group],
        *,
        without: Collection[str],
        skip: Collection[tuple[str, int]],
    ) -> Any:
        """A member: trained without these families, and without these texts of others."""
        ...

    def score(
        self, groups: Sequence[Group], members: Sequence[Any], steps: Steps
    ) -> dict[int, Floats]:
        """The logits (texts, members, heads) of each group, by its identity."""
        ...


@dataclass(frozen=True, kw_only=True)
class FastTraining:
    """``Tier`` over n-grams."""

    recipe: Recipe

    def fit(
        self,
        groups: Sequence[Group],
        *,
        without: Collection[str],
        skip: Collection[tuple[str, int]],
    ) -> Heads:
        return fit(groups, self.recipe, without=without, skip=skip)

    def score(
        self, groups: Sequence[Group], members: Sequence[Heads], steps: Steps
    ) -> dict[int, Floats]:
        panel = Panel(members)
        steps.start(sum(len(group.texts) for group in groups), "scoring what was left out")
        return {id(group): panel.all(group.texts, steps.advance) for group in groups}


@dataclass(frozen=True, kw_only=True, eq=False)
class Held:
    """One set's scores when it was left out. ``margins`` (texts,) are above 0 where a text is
    flagged; ``logits`` (texts, heads) are what they come from."""

    group: Group
    fold: int
    margins: Floats
    logits: Floats


@dataclass(frozen=True, kw_only=True, eq=False)
class Fold:
    """What judges one group of families: heads that saw none of it, their offsets and threshold."""

    families: tuple[str, ...]
    heads: Any
    offsets: Floats
    threshold: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """Everything the report is made of."""

    held: tuple[Held, ...]
    folds: tuple[Fold, ...]


def deal(groups: Sequence[Group]) -> list[tuple[str, ...]]:
    """Families of attacks and of harmless sets, dealt in turn into ``FOLDS`` groups."""
    ours = [group for group in groups if group.trainable and group.family]
    attacks = sorted({group.family or "" for group in ours if group.kind != "benign"})
    harmless = sorted({group.family or "" for group in ours if group.kind == "benign"})
    return [
        tuple(dict.fromkeys(attacks[fold::FOLDS] + harmless[fold::FOLDS])) for fold in range(FOLDS)
    ]


def twins(groups: Sequence[Group], steps: Steps) -> dict[tuple[str, str, int], int]:
    """The cluster of every text, by (set, kind, index); see ``dedup``."""
    keys = [(g.name, g.kind, i) for g in groups for i in range(len(g.texts))]
    steps.start(len(keys), "looking for near twins")
    found = []
    for group in groups:
        found.append(dedup.signatures(group.texts))
        steps.advance(len(group.texts))
    return dict(zip(keys, dedup.clusters(np.concatenate(found)).tolist(), strict=True))


def skipped(
    groups: Sequence[Group], without: Sequence[str], cluster: dict[tuple[str, str, int], int]
) -> set[tuple[str, int]]:
    """Texts of other sets that are near twins of texts in the families left out, or of texts that
    are only measured on."""

    def is_out(group: Group) -> bool:
        return group.family in without or not group.trainable

    out = {
        cluster[group.name, group.kind, i]
        for group in groups
        if is_out(group)
        for i in range(len(group.texts))
    }
    return {
        (group.name, i)
        for group in groups
        if not is_out(group)
        for i in range(len(group.texts))
        if cluster[group.name, group.kind, i] in out
    }


def run(
    groups: Sequence[Group], recipe: Recipe, steps: Steps, *, tier: Tier | None = None
) -> Result:
    """The whole protocol over the sets that have a family. Sets that must not be trained on are
    judged by one more fold, the last, which left out none of the others."""
    tier = tier or FastTraining(recipe=recipe)
    dealt = deal(groups)
    cluster = twins(groups, steps)
    pairs = list(itertools.combinations(range(FOLDS), 2))
    steps.start(FOLDS + len(pairs) + 1, "training without each group, and without each two")

    def trained(*folds: int) -> Any:
        without = [family for fold in folds for family in dealt[fold]]
        heads = tier.fit(groups, without=without, skip=skipped(groups, without, cluster))
        steps.advance(1)
        return heads

    single = [trained(fold) for fold in range(FOLDS)]
    double = {pair: trained(*pair) for pair in pairs}
    whole = trained()
    measured = [g for g in groups if not g.trainable or any(g.family in fold for fold in dealt)]
    logits = tier.score(measured, [*single, *double.values(), whole], steps)
    place = {pair: FOLDS + i for i, pair in enumerate(pairs)}

    folds, held = [], []
    for fold in range(FOLDS):
        # Harmless sets of another group, by the heads that saw neither that group nor this one.
        nested = [
            logits[id(group)][:, place[min(fold, other), max(fold, other)]]
            for other in range(FOLDS)
            if other != fold
            for group in groups
            if group.kind == "benign" and group.family in dealt[other]
        ]
        offsets, limit = judge(nested)
        folds.append(
            Fold(families=dealt[fold], heads=single[fold], offsets=offsets, threshold=limit)
        )
        for group in groups:
            if group.family in dealt[fold]:
                found = logits[id(group)][:, fold]
                margins = (found - offsets).max(axis=1) - np.float32(limit)
                held.append(Held(group=group, fold=fold, margins=margins, logits=found))
    offsets, limit = judge([each.logits for each in held if each.group.kind == "benign"])
    folds.append(Fold(families=(), heads=whole, offsets=offsets, threshold=limit))
    for group in measured:
        if not group.trainable:
            found = logits[id(group)][:, -1]
            margins = (found - offsets).max(axis=1) - np.float32(limit)
            held.append(Held(group=group, fold=FOLDS, margins=margins, logits=found))
    return Result(held=tuple(held), folds=tuple(folds))


def offsets(
    groups: Sequence[Group], recipe: Recipe, steps: Steps, *, tier: Tier | None = None
) -> Floats:
    """For heads trained on everything: the logits (heads,) that become 0, where harmless sets that
    were left out would be flagged at ``RATE``."""
    tier = tier or FastTraining(recipe=recipe)
    dealt = deal(groups)
    cluster = twins(groups, steps)
    harmless = [g for g in groups if g.kind == "benign" and any(g.family in f for f in dealt)]
    steps.start(FOLDS, "training without each group, for the threshold")
    members = []
    for families in dealt:
        twinned = skipped(groups, families, cluster)
        members.append(tier.fit(groups, without=families, skip=twinned))
        steps.advance(1)
    logits = tier.score(harmless, members, steps)
    found, limit = judge(
        [
            logits[id(group)][:, fold]
            for fold in range(FOLDS)
            for group in harmless
            if group.family in dealt[fold]
        ]
    )
    return found + np.float32(limit)


def judge(harmless: Sequence[Floats]) -> tuple[Floats, float]:
    """Each head's offset, so that it raises its share of alarms (``SHARES``), and the threshold on
    the highest of what remains. ``harmless``: (texts, heads) per set."""
    offsets = np.array(
        [
            intervals.threshold([part[:, head] for part in harmless], SHARES[category])
            for head, category in enumerate(CATEGORIES)
        ],
        np.float32,
    )
    return offsets, intervals.threshold([(part - offsets).max(axis=1) for part in harmless], RATE)

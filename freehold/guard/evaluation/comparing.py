"""The fast tier, a probe, and both together, on the same texts and the same splits.

Together: the sum of both tiers' logits of a category, each scaled by how much it varies over what
its classifiers were trained on, the probe's counted twice. All three are judged as any tier is
(``protocol``): sets are left out in five groups, and thresholds are nested.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from freehold.guard.corpus import Row
from freehold.guard.evaluation import protocol
from freehold.guard.evaluation.intervals import auroc, share
from freehold.guard.probing import ProbeTier, Recipe
from freehold.guard.training import Group, Heads, group_of
from freehold.types import Floats

PROBE_COUNTS = 2.0
"""How much more a probe's logit weighs than the fast tier's, when both are summed."""


def compare(groups: Sequence[Group], recipe: Recipe, steps: protocol.Steps) -> dict[str, Any]:
    """Shares flagged of every set by each tier, with 95 % intervals, and their summaries.
    ``groups`` have a probe's vectors for rows; the fast tier is trained on the same texts."""
    steps.start(sum(len(group.texts) for group in groups), "reading n-grams")
    grams = {id(group): _grams(group, recipe, steps) for group in groups}
    trained = protocol.FastTraining(recipe=recipe.texts)
    fast = _Once(tier=_OnGrams(tier=trained, grams=grams))
    probe = _Once(tier=ProbeTier(recipe=recipe))
    tiers: dict[str, protocol.Tier] = {
        "fast": fast,
        "probe": probe,
        "both": Both(one=fast, other=probe, grams=grams),
    }
    results = {
        name: protocol.run(groups, recipe.texts, steps, tier=tier) for name, tier in tiers.items()
    }
    return {
        "note": "each fold's families are left out together, with near twins elsewhere; "
        "thresholds are nested; every tier is trained and measured on the same texts",
        "rate": protocol.RATE,
        "folds": [list(fold.families) for fold in results["fast"].folds],
        "summary": {name: _summary(result) for name, result in results.items()},
        "sets": _sets(results),
    }


def _grams(group: Group, recipe: Recipe, steps: protocol.Steps) -> Group:
    rows = [
        Row(text=text, kind=group.kind, language=language)
        for text, language in zip(group.texts, group.languages, strict=True)
    ]
    named = (group.name, group.family, group.trainable, group.kind)
    return group_of(named, rows, recipe.texts.longest, steps.advance)


@dataclass(frozen=True, kw_only=True)
class _OnGrams:
    """A tier that is handed the same texts as n-grams."""

    tier: protocol.Tier
    grams: Mapping[int, Group]

    def fit(
        self,
        groups: Sequence[Group],
        *,
        without: Collection[str],
        skip: Collection[tuple[str, int]],
    ) -> Any:
        return self.tier.fit([self.grams[id(one)] for one in groups], without=without, skip=skip)

    def score(
        self, groups: Sequence[Group], members: Sequence[Any], steps: protocol.Steps
    ) -> dict[int, Floats]:
        mine = [self.grams[id(one)] for one in groups]
        found = self.tier.score(mine, members, steps)
        return {id(one): found[id(gram)] for one, gram in zip(groups, mine, strict=True)}


@dataclass(kw_only=True)
class _Once:
    """A tier whose members are trained and scored once, however often they are asked for."""

    tier: protocol.Tier
    members: dict[Any, Any] = field(default_factory=dict)
    scores: dict[Any, dict[int, Floats]] = field(default_factory=dict)

    def fit(
        self,
        groups: Sequence[Group],
        *,
        without: Collection[str],
        skip: Collection[tuple[str, int]],
    ) -> Any:
        key = (frozenset(without), frozenset(skip))
        if key not in self.members:
            self.members[key] = self.tier.fit(groups, without=without, skip=skip)
        return self.members[key]

    def score(
        self, groups: Sequence[Group], members: Sequence[Any], steps: protocol.Steps
    ) -> dict[int, Floats]:
        key = (tuple(map(id, groups)), tuple(map(id, members)))
        if key not in self.scores:
            self.scores[key] = self.tier.score(groups, members, steps)
        return self.scores[key]


@dataclass(frozen=True, kw_only=True)
class Both:
    """The sum of two tiers."""

    one: protocol.Tier
    other: protocol.Tier
    grams: Mapping[int, Group]

    def fit(
        self,
        groups: Sequence[Group],
        *,
        without: Collection[str],
        skip: Collection[tuple[str, int]],
    ) -> Any:
        """A pair of members, and how much the logits of each vary over the harmless texts that
        both were trained on: no set that is left out has a part in it."""
        one = self.one.fit(groups, without=without, skip=skip)
        other = self.other.fit(groups, without=without, skip=skip)
        seen = [g for g in groups if g.trainable and g.family not in without and g.kind == "benign"]
        first = _spread(one, [self.grams[id(group)] for group in seen])
        return one, other, first, _spread(other, seen) / np.float32(PROBE_COUNTS)

    def score(
        self, groups: Sequence[Group], members: Sequence[Any], steps: protocol.Steps
    ) -> dict[int, Floats]:
        one = self.one.score(groups, [member[0] for member in members], steps)
        other = self.other.score(groups, [member[1] for member in members], steps)
        first = np.stack([member[2] for member in members])
        second = np.stack([member[3] for member in members])
        return {key: one[key] / first + other[key] / second for key in one}


def _spread(heads: Heads, groups: Sequence[Group]) -> Floats:
    logits = np.concatenate([group.rows @ heads.weights.T for group in groups])
    found: Floats = logits.std(axis=0).astype(np.float32)
    return found


def _summary(result: protocol.Result) -> dict[str, float]:
    ours = [held for held in result.held if held.group.trainable]
    calm = [held.margins for held in ours if held.group.kind == "benign"]
    asked = [held.margins for held in ours if held.group.kind not in ("benign", "toxicity")]
    pooled = np.concatenate(calm)
    caught = [float((margins > 0).mean()) for margins in asked]
    alarms = [float((margins > 0).mean()) for margins in calm]
    return {
        "mean_tpr": float(np.mean(caught)),
        "worst_tpr": min(caught),
        "mean_fpr": float(np.mean(alarms)),
        "worst_fpr": max(alarms),
        "mean_auroc": float(np.mean([auroc(margins, pooled) for margins in asked])),
    }


def _sets(results: Mapping[str, protocol.Result]) -> list[dict[str, Any]]:
    rows = []
    for same in zip(*(result.held for result in results.values()), strict=True):
        group = same[0].group
        row: dict[str, Any] = {
            "set": group.name,
            "kind": group.kind,
            "trainable": group.trainable,
            "n": len(group.texts),
        }
        for name, held in zip(results, same, strict=True):
            row[name] = asdict(share(int((held.margins > 0).sum()), len(group.texts)))
        rows.append(row)
    return sorted(rows, key=lambda row: (row["kind"] == "benign", not row["trainable"], row["set"]))

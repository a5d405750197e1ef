"""Train a probe: pooled hidden states in, one linear head per category out, the same for the same.

The sets, their weights, what is left out and what says where 0.5 lies are those of the fast tier
(``training``, ``evaluation``); only what a text is turned into differs: the mean over its tokens of
the residual stream behind a few blocks. Who has the hidden states (``Vectors``) is handed in.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from freehold.guard import synthetic
from freehold.guard.corpus import DataSet, Row
from freehold.guard.evaluation import protocol
from freehold.guard.fast import CATEGORIES
from freehold.guard.probe import Probe, load, save
from freehold.guard.training import Group, Heads, balance, kinds_of, weigh, write_own
from freehold.guard.training import Recipe as Texts
from freehold.types import Floats

Vectors = Callable[[Sequence[str]], Floats]
"""Texts to (texts, layers, width): the mean over each one's tokens behind each block."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What decides the weights, besides the texts and the model.

    ``per_set`` texts of each guard set and kind are taken and as many of our own of each kind in
    English, a fifth of that of each other set, a sixth of our own of each other language.
    ``inverse_penalty`` is the C of a logistic regression on features of unit variance.
    """

    per_set: int = 400
    inverse_penalty: float = 1e-3
    iterations: int = 60
    texts: Texts = field(default_factory=Texts)


def choose(sets: Sequence[DataSet], recipe: Recipe) -> list[Group]:
    """The texts that are trained and measured on, each group without its ``rows`` yet."""
    groups = []
    for each in sets:
        for kind, rows, family in kinds_of(each):
            most = recipe.per_set // 5 if family is None else recipe.per_set
            groups.append(_group((each.name, family, each.ship_ok, kind), rows, most))
    for language in synthetic.LANGUAGES + synthetic.MORE_LANGUAGES:
        most = recipe.per_set if language == "en" else recipe.per_set // 6
        for kind, texts in write_own(sets, language, recipe.texts):
            own = tuple(Row(text=text, kind=kind, language=language) for text in texts)
            groups.append(_group((f"own_{kind}_{language}", None, True, kind), own, most))
    return groups


def _group(
    named: tuple[str, str | None, bool, synthetic.Kind], rows: Sequence[Row], most: int
) -> Group:
    name, family, trainable, kind = named
    picked = list(rows)
    random.Random(f"probe/{name}{kind}").shuffle(picked)  # noqa: S311 (the draw is repeatable)
    picked = picked[:most]
    languages = tuple(row.language for row in picked)
    return Group(
        name=name,
        family=family,
        trainable=trainable,
        kind=kind,
        texts=tuple(row.text for row in picked),
        languages=languages,
        rows=None,
        owner=np.arange(len(picked)),
        language=np.array(languages),
        share=np.ones(len(picked), np.float32),
    )


def with_vectors(groups: Sequence[Group], vectors: Vectors) -> list[Group]:
    """The groups with what the model makes of their texts: ``rows`` (texts, layers * width)."""
    found = vectors([text for group in groups for text in group.texts])
    flat = found.reshape(len(found), -1)
    ends = np.cumsum([len(group.texts) for group in groups])
    parts = np.split(flat, ends[:-1])
    return [replace(group, rows=part) for group, part in zip(groups, parts, strict=True)]


@dataclass(frozen=True, kw_only=True)
class ProbeTier:
    """``protocol.Tier`` over hidden states."""

    recipe: Recipe

    def fit(
        self,
        groups: Sequence[Group],
        *,
        without: Collection[str],
        skip: Collection[tuple[str, int]],
    ) -> Heads:
        """Heads over the features as they come: scaling is folded into them."""
        kept = [group for group in groups if group.trainable and group.family not in without]
        left_out: dict[str, list[int]] = {}
        for name, index in skip:
            left_out.setdefault(name, []).append(index)
        everything = np.concatenate([group.rows for group in kept]).astype(np.float32)
        mean, spread = everything.mean(axis=0), everything.std(axis=0) + np.float32(1e-6)
        weights = np.zeros((len(CATEGORIES), everything.shape[1]), np.float32)
        biases = np.zeros(len(CATEGORIES), np.float32)
        harmless = [group for group in kept if group.kind == "benign"]
        for head, category in enumerate(CATEGORIES):
            attacks = [group for group in kept if group.kind == category]
            found, bias = self._regress(attacks, harmless, left_out, mean, spread)
            weights[head] = found / spread
            biases[head] = bias - float(weights[head].astype(np.float64) @ mean)
        return Heads(weights=weights, biases=biases)

    def score(
        self, groups: Sequence[Group], members: Sequence[Heads], steps: protocol.Steps
    ) -> dict[int, Floats]:
        """The logits (texts, members, heads) of each group, by its identity."""
        weights = np.concatenate([heads.weights for heads in members]).T
        biases = np.concatenate([heads.biases for heads in members])
        shape = (len(members), len(CATEGORIES))
        steps.start(len(groups), "scoring what was left out")
        found = {}
        for group in groups:
            logits = group.rows.astype(np.float32) @ weights + biases
            found[id(group)] = logits.reshape(len(logits), *shape)
            steps.advance(1)
        return found

    def _regress(
        self,
        attacks: Sequence[Group],
        harmless: Sequence[Group],
        left_out: Mapping[str, list[int]],
        mean: Floats,
        spread: Floats,
    ) -> tuple[Floats, float]:
        both = (*attacks, *harmless)
        x = (np.concatenate([group.rows for group in both]).astype(np.float32) - mean) / spread
        n = sum(len(group.owner) for group in attacks)
        weight = np.concatenate(
            [weigh(group, self.recipe.texts, left_out.get(group.name, [])) for group in both]
        )
        language = np.concatenate([group.language for group in both])
        balance(weight[:n], language[:n], weight[n:], language[n:])
        used = weight > 0
        sign = np.where(np.arange(len(weight)) < n, 1, -1)[used].astype(np.float32)
        return _minimise(x[used], sign, weight[used].astype(np.float32), self.recipe)


def _minimise(x: Floats, sign: Floats, weight: Floats, recipe: Recipe) -> tuple[Floats, float]:
    penalty = 1 / (recipe.inverse_penalty * len(sign))

    def loss(point: Any) -> tuple[float, Any]:
        margin = sign * (x @ point[:-1].astype(np.float32) + np.float32(point[-1]))
        slope = -sign * weight * expit(-margin)
        size = float(point[:-1] @ point[:-1])
        value = float(weight @ np.logaddexp(0, -margin)) + penalty / 2 * size
        return value, np.append(x.T @ slope + penalty * point[:-1], slope.sum())

    options = {"maxiter": recipe.iterations, "maxcor": 6}
    start = np.zeros(x.shape[1] + 1)
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options=options).x
    return found[:-1].astype(np.float32), float(found[-1])


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Whose hidden states they are: the model's digest, its arithmetic, and behind which blocks."""

    model: str
    numerics: str
    layers: tuple[int, ...]


def build(
    sets: Sequence[DataSet],
    groups: Sequence[Group],
    origin: Origin,
    recipe: Recipe,
    steps: protocol.Steps,
) -> tuple[Probe, bytes]:
    """A probe of all trainable groups, and its file. Harmless sets, each scored by heads that never
    saw it, say where 0.5 lies."""
    tier = ProbeTier(recipe=recipe)
    offsets = protocol.offsets(groups, recipe.texts, steps, tier=tier)
    steps.start(1, "training on everything")
    heads = tier.fit(groups, without=(), skip=())
    steps.advance(1)
    layers = len(origin.layers)
    weights = heads.weights.reshape(len(CATEGORIES), layers, -1).transpose(1, 2, 0)
    probe = Probe(
        model=origin.model,
        layers=origin.layers,
        weights=np.ascontiguousarray(weights),
        biases=(heads.biases - offsets).astype(np.float32),
        card=card(sets, groups, origin, recipe),
    )
    data = save(probe)
    return load(data, name="the probe just trained"), data


def card(
    sets: Sequence[DataSet], groups: Sequence[Group], origin: Origin, recipe: Recipe
) -> dict[str, Any]:
    """What a probe's file says of it."""
    used = {group.name: len(group.texts) for group in groups if group.trainable}
    return {
        "what": "linear heads over mean hidden states: injection, jailbreak, harmful, toxicity",
        "licence": "Apache-2.0",
        "numerics": origin.numerics,
        "recipe": asdict(recipe),
        "own_texts": sum(n for name, n in used.items() if name.startswith("own_")),
        "sets": [
            {
                "name": one.name,
                "licence": one.licence,
                "sha256": one.sha256,
                "texts": used[one.name],
            }
            for one in sets
            if one.ship_ok and one.name in used
        ],
    }

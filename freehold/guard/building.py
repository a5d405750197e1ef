"""``guard train`` and ``guard report``: from a manifest to weights, figures and a page."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from freehold.guard import corpus
from freehold.guard.evaluation import protocol
from freehold.guard.evaluation import report as reporting
from freehold.guard.evaluation.page import page
from freehold.guard.fast import Model, save
from freehold.guard.training import Group, Recipe, fit, prepare, quantise

LICENCE = "Apache-2.0"


def train(
    manifest: Path, steps: protocol.Steps, recipe: Recipe | None = None
) -> tuple[Model, bytes]:
    """Weights trained on every set that may be shipped, and their file. Harmless
    sets, each scored by heads that never saw it, say where 0.5 lies. Raises as ``corpus.read``."""
    recipe = recipe or Recipe()
    sets = corpus.read(manifest, shippable_only=True)
    groups = _prepare(sets, recipe, steps)
    offsets = protocol.offsets(groups, recipe, steps)
    steps.start(1, "training on everything")
    heads = fit(groups, recipe)
    steps.advance(1)
    model = quantise(heads, offsets, _card(sets, groups, recipe))
    return model, save(model)


def report(
    manifest: Path,
    steps: protocol.Steps,
    recipe: Recipe | None = None,
    *,
    texts: int = corpus.CAP,
) -> tuple[dict[str, Any], str, str]:
    """The figures, the page and the figures as JSON text, from at most ``texts`` of each set and
    class."""
    recipe = recipe or Recipe()
    sets = corpus.read(manifest, cap=texts)
    groups = _prepare(sets, recipe, steps)
    result = protocol.run(groups, recipe, steps)
    figures = reporting.figures(result, steps)
    card = _card([each for each in sets if each.ship_ok], groups, recipe)
    return figures, page(figures, card), json.dumps({"figures": figures, "card": card}, indent=1)


def _prepare(sets: list[corpus.DataSet], recipe: Recipe, steps: protocol.Steps) -> list[Group]:
    return prepare(sets, recipe, lambda n: steps.start(n, "reading texts"), steps.advance)


def _card(sets: list[corpus.DataSet], groups: list[Group], recipe: Recipe) -> dict[str, Any]:
    own = [group for group in groups if group.name.startswith("own_")]
    return {
        "what": "linear heads over hashed n-grams: injection, jailbreak, harmful, toxicity",
        "licence": LICENCE,
        "recipe": asdict(recipe),
        "own_texts": int(np.sum([len(group.texts) for group in own])),
        "sets": [
            {
                "name": each.name,
                "licence": each.licence,
                "sha256": each.sha256,
                "texts": len(each.rows),
            }
            for each in sets
        ],
    }

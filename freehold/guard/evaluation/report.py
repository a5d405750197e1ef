"""The figures of a protocol's result, as plain data: per set, language, evasion."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from freehold.guard.evaluation.intervals import auroc, share, threshold
from freehold.guard.evaluation.protocol import RATE, Held, Result, Steps
from freehold.guard.evaluation.scoring import Panel
from freehold.guard.evasions import EVASIONS
from freehold.guard.fast import CATEGORIES
from freehold.guard.synthetic import LANGUAGES

Floats = npt.NDArray[np.float32]

THIN = 50
"""Texts, below which a figure is called too thin to claim."""
EVADED = 40
"""Texts of each attack set that every evasion is tried on."""
_RATES = tuple(float(rate) for rate in np.geomspace(0.001, 0.2, 24))


def figures(result: Result, steps: Steps) -> dict[str, Any]:
    """Everything the page shows, as JSON data. Shares come with their 95 % intervals."""
    attacks = [held for held in result.held if held.group.kind != "benign"]
    harmless = [held for held in result.held if held.group.kind == "benign"]
    ours = [held for held in result.held if held.group.trainable]
    pooled = np.concatenate([held.margins for held in ours if held.group.kind == "benign"])
    asked = [held for held in ours if held.group.kind not in ("benign", "toxicity")]
    calm = [_caught(held) for held in ours if held.group.kind == "benign"]
    caught = [_caught(held) for held in asked]
    return {
        "protocol": {
            "folds": [list(fold.families) for fold in result.folds],
            "rate": RATE,
            "note": "each fold's families are left out together, with near twins elsewhere; "
            "thresholds are nested; one threshold for all categories; all views are scored",
        },
        "summary": {
            "mean_tpr": float(np.mean(caught)),
            "worst_tpr": min(caught),
            "mean_fpr": float(np.mean(calm)),
            "worst_fpr": max(calm),
        },
        "attacks": [_row(held) | {"auroc": auroc(held.margins, pooled)} for held in attacks],
        "harmless": [_row(held) for held in harmless],
        "languages": _languages(attacks, harmless),
        "curves": _curves(ours),
        "evasions": _evasions(result, asked, steps),
    }


def _caught(held: Held) -> float:
    return float((held.margins > 0).mean())


def _row(held: Held) -> dict[str, Any]:
    hits = held.margins > 0
    top = held.logits.argmax(axis=1)
    return {
        "set": held.group.name,
        "kind": held.group.kind,
        "trainable": held.group.trainable,
        "fold": held.fold,
        "flagged": asdict(share(int(hits.sum()), len(hits))),
        "too_thin": len(hits) < THIN,
        "as": {name: int((hits & (top == head)).sum()) for head, name in enumerate(CATEGORIES)},
    }


def _languages(attacks: Sequence[Held], harmless: Sequence[Held]) -> list[dict[str, Any]]:
    found: dict[str, dict[str, list[bool]]] = defaultdict(lambda: {"attacks": [], "harmless": []})
    for side, sets in (("attacks", attacks), ("harmless", harmless)):
        for held in sets:
            for language, margin in zip(held.group.languages, held.margins, strict=True):
                found[language][side].append(bool(margin > 0))
    rows = []
    # Those that something is claimed about are named whether there are texts in them or not.
    for language in (*LANGUAGES, *sorted({*found} - {*LANGUAGES})):
        sides = found[language]
        row: dict[str, Any] = {"language": language}
        for side, hits in sides.items():
            row[side] = asdict(share(sum(hits), len(hits))) if hits else None
            row[f"{side}_too_thin"] = len(hits) < THIN
        rows.append(row)
    return rows


def _curves(ours: Sequence[Held]) -> dict[str, Any]:
    """TPR per set where the pooled held-out harmless sets are flagged at each rate."""
    harmless = [held.margins for held in ours if held.group.kind == "benign"]
    limits = [threshold(harmless, rate) for rate in _RATES]
    return {
        "fpr": list(_RATES),
        "tpr": {
            held.group.name: [float((held.margins > limit).mean()) for limit in limits]
            for held in ours
            if held.group.kind != "benign"
        },
    }


def _evasions(result: Result, attacks: Sequence[Held], steps: Steps) -> list[dict[str, Any]]:
    """TPR of the same texts plain and evaded, each by the classifiers that never saw its set."""
    panels = [Panel([fold.heads]) for fold in result.folds]
    chosen = []
    for held in attacks:
        # English alone: most evasions are of Latin letters.
        english = [
            text
            for text, language in zip(held.group.texts, held.group.languages, strict=True)
            if language == "en" and len(text) < 1500
        ]
        draw = random.Random(held.group.name)  # noqa: S311
        picked = draw.sample(english, min(EVADED, len(english)))
        chosen += [(held.fold, text) for text in picked]
    steps.start(len(chosen) * (len(EVASIONS) + 1), "trying evasions")

    def caught(fold: int, text: str) -> bool:
        judge = result.folds[fold]
        steps.advance(1)
        found = panels[fold].logits(text)[0] - judge.offsets
        return bool(found.max() > judge.threshold)

    rows = []
    for name, evade in {"plain": _plain, **EVASIONS}.items():
        draw = random.Random(name)  # noqa: S311
        hits = sum(caught(fold, evade(text, draw)) for fold, text in chosen)
        thin = len(chosen) < THIN
        flagged = asdict(share(hits, len(chosen)))
        rows.append({"evasion": name, "flagged": flagged, "too_thin": thin})
    return rows


def _plain(text: str, draw: random.Random) -> str:
    return text

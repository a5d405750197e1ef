"""Shares with their uncertainty, and thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import beta

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Share:
    """``hits`` of ``n``; ``low`` and ``high`` bound the share with 95 % confidence (Clopper and
    Pearson, "The use of confidence or fiducial limits", Biometrika 1934)."""

    hits: int
    n: int
    share: float
    low: float
    high: float


def share(hits: int, n: int) -> Share:
    """The share of ``hits`` in ``n`` (at least 1), with its interval."""
    low = float(beta.ppf(0.025, hits, n - hits + 1)) if hits else 0.0
    high = float(beta.ppf(0.975, hits + 1, n - hits)) if hits < n else 1.0
    return Share(hits=hits, n=n, share=hits / n, low=low, high=high)


def threshold(harmless: Sequence[Floats], rate: float) -> float:
    """The lowest value that at most ``rate`` of harmless scores pass, each set weighing the same
    whatever its size."""
    scores = np.concatenate(harmless)
    weight = np.concatenate([np.full(len(part), 1 / len(part)) for part in harmless])
    order = np.argsort(-scores, kind="stable")
    passed = np.cumsum(weight[order]) / weight.sum()
    first = int(np.searchsorted(passed, rate, side="right"))
    return float(scores[order][min(first, len(scores) - 1)])


def auroc(attacks: Floats, harmless: Floats) -> float:
    """How often an attack scores above a harmless text; a tie counts half."""
    joined = np.concatenate([attacks, harmless])
    order = np.argsort(joined, kind="stable")
    rank = np.empty(len(joined))
    rank[order] = np.arange(1, len(joined) + 1)
    _, inverse = np.unique(joined, return_inverse=True)
    rank = (np.bincount(inverse, rank) / np.bincount(inverse))[inverse]
    n, m = len(attacks), len(harmless)
    return float((rank[:n].sum() - n * (n + 1) / 2) / (n * m))

"""How sure a score is, and whether two models differ: intervals and paired tests.

All at 95 %. What is drawn at random is drawn the same each time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb, sqrt
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]

CONFIDENCE = 0.95
RESAMPLES = 10_000
_SEED = 20_260_101
_BLOCK = 4_000_000
"""Drawn places held at once."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A value between its bounds."""

    value: float
    low: float
    high: float


def wilson(hits: int, n: int) -> Interval:
    """The share of ``hits`` in ``n`` (at least 1), with its score interval.

    Source: Wilson, "Probable inference, the law of succession, and statistical inference", JASA
    1927.
    """
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    share, room = hits / n, z * z / n
    middle = (share + room / 2) / (1 + room)
    half = z * sqrt(share * (1 - share) / n + room / (4 * n)) / (1 + room)
    low = 0.0 if hits == 0 else middle - half
    return Interval(value=share, low=low, high=1.0 if hits == n else middle + half)


def ratio(above: Sequence[float], below: Sequence[float]) -> Interval:
    """The sum of ``above`` over the sum of ``below``, both item by item, with the bootstrap's
    percentile interval. With ones below it is a mean.

    Source: Efron and Tibshirani, "An introduction to the bootstrap", 1993, chapter 13.
    """
    a, b = np.asarray(above, np.float64), np.asarray(below, np.float64)
    drawn = _resampled(np.stack([a, b]))
    low, high = _bounds(drawn[0] / drawn[1])
    return Interval(value=float(a.sum() / b.sum()), low=low, high=high)


def difference(
    first: tuple[Sequence[float], Sequence[float]], other: tuple[Sequence[float], Sequence[float]]
) -> Interval:
    """By how much the first ratio exceeds the other over the same items: the paired bootstrap,
    which draws whole items with both models' scores."""
    rows = np.asarray([*first, *other], np.float64)
    drawn = _resampled(rows)
    low, high = _bounds(drawn[0] / drawn[1] - drawn[2] / drawn[3])
    a, b, c, d = rows.sum(axis=1)
    return Interval(value=float(a / b - c / d), low=low, high=high)


def _resampled(rows_kn: Doubles) -> Doubles:
    """Sums of each row over items drawn with replacement, the same items for all rows:
    (rows, RESAMPLES)."""
    k, n = rows_kn.shape
    rng = np.random.default_rng(_SEED)
    sums = np.empty((k, RESAMPLES))
    step = max(1, _BLOCK // n)
    for at in range(0, RESAMPLES, step):
        chosen = rng.integers(n, size=(min(step, RESAMPLES - at), n))
        sums[:, at : at + step] = rows_kn[:, chosen].sum(axis=2)
    return sums


def _bounds(drawn: Doubles) -> tuple[float, float]:
    edge = (1 - CONFIDENCE) / 2
    low, high = np.quantile(drawn, (edge, 1 - edge))
    return float(low), float(high)


@dataclass(frozen=True, kw_only=True)
class Paired:
    """How two models agree, item by item. ``p`` is how likely chance alone parts them so much."""

    both: int
    only_first: int
    only_other: int
    neither: int
    p: float


def mcnemar(first: Sequence[bool], other: Sequence[bool]) -> Paired:
    """The exact two-sided sign test on the items that only one of two models gets right.

    Source: McNemar, "Note on the sampling error of the difference between correlated proportions or
    percentages", Psychometrika 1947.
    """
    pairs = list(zip(first, other, strict=True))
    only_first = sum(a and not b for a, b in pairs)
    only_other = sum(b and not a for a, b in pairs)
    n, least = only_first + only_other, min(only_first, only_other)
    return Paired(
        both=sum(a and b for a, b in pairs),
        only_first=only_first,
        only_other=only_other,
        neither=sum(not a and not b for a, b in pairs),
        p=min(1.0, sum(comb(n, k) for k in range(least + 1)) / 2 ** (n - 1)) if n else 1.0,
    )

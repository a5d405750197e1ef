"""Intervals and paired tests against scipy, where it is there, and against what is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from freehold.evals import figures


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (3, 10), (10, 10), (87, 164), (1, 1)])
def test_wilson_is_scipys(hits: int, n: int) -> None:
    found = figures.wilson(hits, n)
    known = stats.binomtest(hits, n).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((known.low, known.high), abs=1e-12)


@pytest.mark.parametrize(("b", "c"), [(0, 0), (5, 0), (7, 3), (10, 10), (1, 12)])
def test_mcnemar_is_the_sign_test(b: int, c: int) -> None:
    first = [True] * b + [False] * c + [True, False]
    other = [False] * b + [True] * c + [True, False]
    found = figures.mcnemar(first, other)
    assert (found.only_first, found.only_other, found.both, found.neither) == (b, c, 1, 1)
    assert found.p == pytest.approx(stats.binomtest(b, b + c).pvalue if b + c else 1.0)


def test_the_bootstrap_covers_a_known_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(100):
        values = rng.exponential(size=60)
        found = figures.ratio(list(values), [1.0] * 60)
        held += found.low <= 1 <= found.high
    assert 0.88 <= held / 100 <= 0.99


def test_a_ratio_weighs_items_by_their_size() -> None:
    found = figures.ratio([8.0, 0.0], [8.0, 2.0])
    assert found.value == 0.8
    assert (found.low, found.high) == (0.0, 1.0)


def test_a_paired_difference_is_narrower_than_two_intervals() -> None:
    rng = np.random.default_rng(2)
    hard = rng.random(300)
    first = [float(x < 0.6) for x in hard]
    other = [float(x < 0.55) for x in hard]
    ones = [1.0] * 300
    found = figures.difference((first, ones), (other, ones))
    assert 0 < found.low < found.value < found.high < 0.12
    same = figures.difference((first, ones), (first, ones))
    assert (same.low, same.value, same.high) == (0, 0, 0)


def test_what_is_drawn_is_drawn_the_same() -> None:
    values = [0.2, 0.9, 0.4, 0.7]
    assert figures.ratio(values, [1.0] * 4) == figures.ratio(values, [1.0] * 4)

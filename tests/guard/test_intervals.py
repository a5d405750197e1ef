"""Shares, thresholds and areas against scipy and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from freehold.guard.calibration import _upper
from freehold.guard.evaluation.intervals import auroc, share, threshold

stats = pytest.importorskip("scipy.stats", reason="needs the extra `train`")


@given(st.integers(1, 400), st.data())
def test_intervals_are_clopper_and_pearsons(n: int, data: st.DataObject) -> None:
    hits = data.draw(st.integers(0, n))
    found = share(hits, n)
    exact = stats.binomtest(hits, n).proportion_ci(0.95, method="exact")
    assert found.low == pytest.approx(exact.low, abs=1e-9)
    assert found.high == pytest.approx(exact.high, abs=1e-9)
    one_sided = stats.binomtest(hits, n, alternative="less").proportion_ci(0.95, method="exact")
    assert _upper(hits, n) == pytest.approx(one_sided.high, abs=1e-6)


@given(st.lists(st.lists(st.floats(-9, 9, width=32), min_size=1, max_size=40), min_size=1))
def test_no_more_than_the_rate_pass_a_threshold(sets: list[list[float]]) -> None:
    parts = [np.array(part, np.float32) for part in sets]
    for rate in (0.0, 0.01, 0.2):
        limit = np.float32(threshold(parts, rate))
        passed = np.mean([(part > limit).mean() for part in parts])
        assert passed <= rate + 1e-6


def test_a_threshold_weighs_each_set_alike() -> None:
    large = np.zeros(900, np.float32)
    small = np.arange(1, 11, dtype=np.float32)
    # Half the weight is the small set's: a rate of 0.05 lets one of its ten texts pass.
    assert threshold([large, small], 0.05) == 9


def test_areas() -> None:
    up, down = np.array([2, 3], np.float32), np.array([0, 1], np.float32)
    assert auroc(up, down) == 1
    assert auroc(down, up) == 0
    assert auroc(up, up) == 0.5

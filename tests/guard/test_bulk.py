"""Many windows in one pass give what each gives alone, to the bit."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from freehold.guard import bulk, features
from freehold.guard.fast import WINDOW, FastTier, windows
from freehold.guard.normalise import views

TEXTS = st.text(max_size=40) | st.text(alphabet="ab c.é\n", max_size=120)


@settings(max_examples=60)
@given(st.lists(TEXTS, min_size=1, max_size=12), st.integers(0, 3))
def test_places_and_values_are_those_of_each_window(texts: list[str], long: int) -> None:
    # Some long ones, so that there are several passes.
    texts = [*texts, *[("".join(texts) + "word ") * 900][:long]]
    texts = [text[:WINDOW] for text in texts] * (1 + 2 * long)
    found = [
        (places[low:high], values[low:high])
        for places, values, ends in bulk.places(texts)
        for low, high in pairwise(ends)
    ]
    assert len(found) == len(texts)
    for text, (places, values) in zip(texts, found, strict=True):
        expected, weights = features.places(text)
        assert np.array_equal(places, expected)
        assert np.array_equal(values, weights)


def test_more_windows_than_one_pass_can_number() -> None:
    texts = ["", "a", "ab"] * (bulk._MOST // 3 + 1)
    assert sum(len(ends) - 1 for _, _, ends in bulk.places(texts)) == len(texts)
    assert not list(bulk.places([]))


@pytest.fixture(scope="module")
def tier() -> FastTier:
    return FastTier()


@settings(max_examples=60, deadline=None)
@given(text=TEXTS, times=st.sampled_from((1, 1, 3, 90)))
def test_a_text_scores_as_its_highest_window(tier: FastTier, text: str, times: int) -> None:
    text *= times
    each = [
        (view, tier.model.logits(piece))
        for view, form in views(text).items()
        for piece in windows(form)
    ]
    logits, view = tier.logits(text)
    assert np.array_equal(logits, np.max([found for _, found in each], axis=0))
    assert view == max(each, key=lambda one: one[1].max())[0]

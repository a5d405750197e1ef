"""Hashed n-grams, checked against a plain loop over the text."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from freehold.guard.features import BITS, CHARS, places, shingles


def test_equal_grams_have_equal_hashes_wherever_they_stand() -> None:
    text = "abcabcabd"
    found = shingles(text, 3)
    grams = [text[i : i + 3] for i in range(len(text) - 2)]
    assert len(found) == len(grams)
    pairs = dict(zip(grams, found.tolist(), strict=True))
    assert [pairs[gram] for gram in grams] == found.tolist()
    assert len(set(found.tolist())) == len(set(grams))


@pytest.mark.parametrize("text", ["", "x", "one two", "the cat and the hat and the cat", "ไทย ไทย"])
def test_values_are_those_of_a_plain_count(text: str) -> None:
    padded = f" {text} "
    grams = Counter(
        padded[i : i + n] for n in CHARS for i in range(len(padded) - n + 1) if len(padded) >= n
    )
    words = "".join(sign if sign.isalnum() else " " for sign in padded).split()
    for n in (1, 2):
        grams.update(("word", *words[i : i + n]) for i in range(len(words) - n + 1))
    expected = sorted(1 + math.log(count) for count in grams.values())
    found, values = places(text)
    assert found.tolist() == sorted(set(found.tolist()))
    assert found.size == 0 or int(found.max()) < 1 << BITS
    length = math.sqrt(sum(value**2 for value in expected))
    # No two n-grams of these texts share a place.
    assert np.allclose(sorted(values.tolist()), [value / length for value in expected], atol=1e-6)

"""The meter: plain counts, and pairs joined as byte pair encoding joins them."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freehold.adapt.fertility import against, extension, measure, samples


def letters(text: str) -> list[int]:
    """A tokenizer of single characters."""
    return [ord(character) for character in text]


def test_counts_are_plain() -> None:
    found = measure("x", "Ein gutes Buch.", letters)
    assert (found.characters, found.words, found.tokens) == (15, 3, 15)
    assert (found.per_word, found.per_character) == (5, 1)
    assert measure("x", "ค่ะ", letters).bytes == 9


def test_scripts_without_blanks_have_no_words() -> None:
    assert measure("th", samples()["th"], letters).per_word is None
    assert measure("hi", samples()["hi"], letters).per_word is not None


def test_the_same_text_is_compared_by_its_tokens_alone() -> None:
    en, de = (measure(code, samples()[code], letters) for code in ("en", "de"))
    found = against(de, en, context=1000, same_text=True)
    assert found.cost == de.tokens / en.tokens
    assert found.context == round(1000 / found.cost)


def test_the_most_frequent_pair_is_joined_first() -> None:
    # "ab" stands in it three times, "cd" twice; "abcd" nowhere.
    found = extension("ab ab ab cd cd", letters, most=1, width=8, tables=2)
    assert (found.added, found.before, found.after, found.bytes) == (1, 14, 11, 32)
    assert found.words == ("ab",)
    # "ab" and "cd", then " ab" and " cd" with the blank before them.
    assert extension("ab ab ab cd cd", letters, most=9, width=8, tables=1).after == 14 - 3 - 2 - 4


def slow_joins(text: str, most: int) -> int:
    """Tokens left of runs of letters after ``most`` joins, counted anew for each."""
    runs = text.split(" ")
    pieces = [list(run if i == 0 else f" {run}") for i, run in enumerate(runs) if run]
    for _ in range(most):
        pairs: dict[tuple[str, str], int] = {}
        for piece in pieces:
            for pair in pairwise(piece):
                pairs[pair] = pairs.get(pair, 0) + 1
        if not pairs or max(pairs.values()) < 2:
            break
        best = max(pairs, key=lambda pair: pairs[pair])
        for n, piece in enumerate(pieces):
            joined: list[str] = []
            for token in piece:
                if joined and (joined[-1], token) == best:
                    joined[-1] = "".join(best)
                else:
                    joined.append(token)
            pieces[n] = joined
    return sum(map(len, pieces))


@given(st.lists(st.sampled_from(["abc", "abd", "xbc", "abcabc", "q"]), min_size=1, max_size=30))
def test_one_join_saves_what_counting_anew_says(words: list[str]) -> None:
    text = " ".join(words)
    found = extension(text, letters, most=1, width=1, tables=1)
    assert found.after == slow_joins(text, 1)


@given(st.text(alphabet="abc ", max_size=80), st.integers(0, 20))
def test_joins_only_save(text: str, most: int) -> None:
    found = extension(text + "x", letters, most=most, width=1, tables=1)
    assert found.added <= most
    assert 0 < found.after <= found.before
    assert found.before - found.after >= found.added


def test_each_language_is_there_once() -> None:
    assert len(samples()) == 16
    assert len(set(samples().values())) == 16
    assert samples()["en"].count(".") == 5


def test_text_that_a_join_overlaps_is_counted_right() -> None:
    assert extension("aaaa aaaa", letters, most=1, width=1, tables=1).after == pytest.approx(5)

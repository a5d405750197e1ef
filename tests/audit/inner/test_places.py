"""A prompt's words are found again among its tokens, wherever the tokens are cut."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from freehold.audit.inner.account import Asked, _cuts
from freehold.audit.inner.places import places
from freehold.errors import UsageError


def cut(data: bytes, at: list[int]) -> Any:
    """A codec whose tokens are the pieces of ``data``."""
    marks = sorted({0, len(data), *(i % (len(data) + 1) for i in at)})
    pieces = [data[a:b] for a, b in pairwise(marks)]
    return SimpleNamespace(token_bytes=pieces.__getitem__), list(range(len(pieces)))


PROMPT = " Was heißt Größe, und Größe wovon?\n"


@settings(max_examples=40)
@given(st.lists(st.integers(0, 200)), st.sampled_from(["Größe", "Was", "wovon?", "ß", ","]))
def test_words_end_in_the_token_that_holds_their_last_byte(at: list[int], words: str) -> None:
    head = "<user>Wo steht Größe?"  # the words stand before the prompt, too
    codec, ids = cut(f"{head}\n{PROMPT.strip()}<end>".encode(), at)
    found = places(codec, PROMPT, ids)
    last = found.last_of(PROMPT, words)
    assert found.first <= last < found.stop
    before = b"".join(map(codec.token_bytes, ids[:last]))
    through = before + codec.token_bytes(last)
    end = len(f"{head}\n".encode()) + len(PROMPT.lstrip()[: PROMPT.lstrip().rfind(words)].encode())
    end += len(words.encode())
    assert len(before) < end <= len(through)
    assert len(found.texts) == len(ids)


def test_what_is_not_there_is_named() -> None:
    codec, ids = cut(b"<user>abc def", [3])
    found = places(codec, "abc def", ids)
    for words in ("x", ""):
        with pytest.raises(UsageError, match="does not stand in the prompt"):
            found.last_of("abc def", words)
    with pytest.raises(UsageError, match="changes the words"):
        places(codec, "ABC", ids)


def test_spans_are_cut_with_the_blank_behind_them() -> None:
    asked = Asked(prompt="the capital of France?", spans=("the capital", "France", "of "))
    left = [asked.prompt[:start] + asked.prompt[end:] for start, end in _cuts(asked)]
    assert left == ["of France?", "the capital of ?", "the capital France?"]


@pytest.mark.parametrize(
    ("span", "match"), [("Rome", "'Rome' does not stand"), (" ", "stand"), ("a b", "the whole")]
)
def test_a_span_that_cannot_be_left_out_is_refused(span: str, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        _cuts(Asked(prompt="a b", spans=(span,)))

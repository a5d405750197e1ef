"""Decoding one token at a time: the pieces make the whole, and a stop string is never shown."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from freehold.errors import UsageError
from freehold.qwen.text import MAX_STOP_CHARS, MAX_STOP_STRINGS, TextDecoder

texts = st.text("ab<|x>é日👍\n", max_size=40)
stops = st.lists(st.text("ab<|é日👍", min_size=1, max_size=4), max_size=4)


def cut(data: bytes, at: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(i, len(data)) for i in at), len(data)]
    return [data[i:j] for i, j in pairwise(edges)]


def decode(
    pieces: list[bytes], stop: list[str], hidden: tuple[int, ...] = ()
) -> list[tuple[str, bool]]:
    decoder = TextDecoder(pieces.__getitem__, stop=stop, hidden=hidden)
    deltas = [decoder.push(i) for i in range(len(pieces))] + [decoder.finish()]
    return [(delta.text, delta.stopped) for delta in deltas]


def expected(text: str, stop: list[str]) -> tuple[str, bool]:
    """What precedes the stop string that is complete first; the longest, if several end there."""
    for end in range(1, len(text) + 1):
        ending = [s for s in stop if text[:end].endswith(s)]
        if ending:
            return text[: end - max(map(len, ending))], True
    return text, False


@given(text=texts, at=st.lists(st.integers(0, 120), max_size=30), stop=stops)
@settings(max_examples=600, deadline=None)
def test_any_cut_gives_the_same_text(text: str, at: list[int], stop: list[str]) -> None:
    deltas = decode(cut(text.encode(), at), stop)
    shown, stopped = expected(text, stop)
    assert "".join(piece for piece, _ in deltas) == shown
    assert deltas[-1][1] == stopped


@given(pieces=st.lists(st.binary(max_size=5), max_size=20), stop=stops)
@settings(max_examples=400, deadline=None)
def test_any_bytes_at_all(pieces: list[bytes], stop: list[str]) -> None:
    """Invalid UTF-8 becomes U+FFFD exactly as Python's own decoder has it, wherever it is cut."""
    text = b"".join(pieces).decode("utf-8", errors="replace")
    deltas = decode(pieces, stop)
    assert ("".join(piece for piece, _ in deltas), deltas[-1][1]) == expected(text, stop)


@given(text=texts, at=st.lists(st.integers(0, 120), max_size=30), stop=stops)
@settings(max_examples=300, deadline=None)
def test_nothing_is_held_back_longer_than_needed(text: str, at: list[int], stop: list[str]) -> None:
    """After each piece, what is withheld is half a character or the beginning of a stop string."""
    data, seen, released = text.encode(), 0, ""
    pieces = cut(data, at)
    decoder = TextDecoder(pieces.__getitem__, stop=stop)
    for i, piece in enumerate(pieces):
        delta = decoder.push(i)
        released += delta.text
        seen += len(piece)
        if delta.stopped:
            return
        so_far = data[:seen].decode("utf-8", errors="ignore")
        held = so_far.removeprefix(released)
        assert held == "" or any(s.startswith(held) for s in stop)
        longer = [so_far[-n:] for n in range(len(held) + 1, len(so_far) + 1)]
        assert not any(s.startswith(tail) and s != tail for s in stop for tail in longer)


def test_after_a_stop_nothing_comes() -> None:
    deltas = decode([b"one ST", b"OP two", b" three"], ["STOP"])
    assert deltas == [("one ", False), ("", True), ("", True), ("", True)]


def test_half_a_character_waits() -> None:
    first, second = "日".encode()[:2], "日".encode()[2:]
    assert decode([first, second], []) == [("", False), ("日", False), ("", False)]
    assert decode([first], []) == [("", False), ("\ufffd", False)]


def test_hidden_tokens_give_no_text() -> None:
    assert decode([b"a", b"<|im_end|>", b"b"], [], hidden=(1,))[1] == ("", False)


@pytest.mark.parametrize(
    "stop",
    ["STOP", [""], ["a", ""], ["x" * (MAX_STOP_CHARS + 1)], ["a"] * (MAX_STOP_STRINGS + 1), [3]],
)
def test_bad_stop_strings(stop: object) -> None:
    with pytest.raises(UsageError) as caught:
        TextDecoder(lambda _: b"", stop=stop)  # type: ignore[arg-type]
    assert caught.value.param == "stop"

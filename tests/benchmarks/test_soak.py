"""What the soak calls wrong: it must see what it is there to see."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
from crowd import _problem, _streamed
from soak import GROWTH, Look, _leaks

THEN = Look(role="engine", memory=1_000 << 20, descriptors=12, threads=3)


def grown(*, memory: int = 0, descriptors: int = 0, threads: int = 0) -> Look:
    return Look(
        role="engine",
        memory=THEN.memory + memory,
        descriptors=THEN.descriptors + descriptors,
        threads=THEN.threads + threads,
    )


@pytest.mark.parametrize(
    ("now", "told"),
    [
        (grown(), []),
        (grown(memory=GROWTH, descriptors=-1), []),
        (grown(memory=GROWTH + 1), ["34 MB more in engine"]),
        (grown(descriptors=2), ["2 more descriptors in engine"]),
        (grown(threads=1), ["1 more threads in engine"]),
    ],
)
def test_a_leak_is_told(now: Look, told: list[str]) -> None:
    assert _leaks({7: THEN}, {7: THEN}, {7: now}) == told


def test_a_process_that_was_started_anew_is_told() -> None:
    (told,) = _leaks({7: THEN}, {7: THEN}, {8: THEN})
    assert "processes changed" in told


PARIS = '{"name": "Paris", "kind": "city", "height": 35}'


@pytest.mark.parametrize(
    ("kind", "finish", "text", "wrong"),
    [
        ("short", "stop", "x", False),
        ("short", None, "x", True),
        ("hang up", None, "x", False),
        ("long", "tool_calls", "", True),
        ("form", "stop", PARIS, False),
        ("form", "stop", PARIS.replace("35", "-1"), True),
        ("form, streamed", "length", PARIS[:9], False),
        ("tool", "tool_calls", PARIS, False),
        ("tool", "tool_calls", "{", True),
        ("tool", "stop", PARIS, True),
        ("short", "error the engine is gone", "x", True),
    ],
)
def test_an_answer_is_judged(kind: str, finish: str | None, text: str, wrong: bool) -> None:
    assert (_problem(kind, finish, text) is not None) == wrong


def stream(*lines: str) -> httpx.Response:
    async def content() -> AsyncIterator[bytes]:
        for line in lines:
            yield f"{line}\n\n".encode()

    return httpx.Response(200, content=content())


def piece(text: str, finish: str = "null") -> str:
    return f'data: {{"choices": [{{"delta": {{"content": "{text}"}}, "finish_reason": {finish}}}]}}'


async def test_a_stream_is_read_to_its_end_or_hung_up() -> None:
    lines = (piece("a"), piece("b"), piece("", '"stop"'))
    assert (await _streamed(stream(*lines, "data: [DONE]"), None))[:2] == ("stop", "ab")
    assert (await _streamed(stream(*lines, "data: [DONE]"), 1))[:2] == (None, "a")
    assert (await _streamed(stream(*lines), None))[0] == "an end without [DONE]"
    broken = 'data: {"error": {"message": "the engine is gone"}}'
    assert (await _streamed(stream(lines[0], broken), None))[0] == "error the engine is gone"

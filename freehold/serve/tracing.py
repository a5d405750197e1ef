"""What one request spends its time on, as spans. Off unless the owner names who is told.

A span's name and what it says come from the lists here: numbers, and words of this program's own or
its owner's (a route, a model's name). No span ever holds what a client wrote or a model said.
Nothing here knows OpenTelemetry; ``telemetry.py`` sends what is gathered.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

Name: TypeAlias = Literal[
    "request", "tokenise", "quota", "guard", "engine.prefill", "engine.decode", "ledger.open",
    "ledger.seal",
]  # fmt: skip
Value: TypeAlias = str | int | bool

ATTRIBUTES: dict[str, type] = {
    "http.request.method": str,
    "http.route": str,
    "http.response.status_code": int,
    "gen_ai.request.model": str,
    "gen_ai.usage.input_tokens": int,
    "gen_ai.usage.output_tokens": int,
    "freehold.request": str,
    "freehold.key": str,
    "freehold.choice": int,
    "freehold.cached_tokens": int,
    "freehold.entry": int,
    "freehold.place": str,
}
"""What a span may say, and of what type. Names of the semantic conventions where there are any;
``freehold.key`` is a key's id, ``freehold.place`` where a guard stands: ``in`` or ``out``."""

_MOST_SPANS = 256
"""In one request; further ones are left out."""


@dataclass(kw_only=True, slots=True)
class Span:
    """A stretch of time, in Unix nanoseconds; ``failed`` if an error ended it."""

    name: Name
    start: int
    end: int = 0
    failed: bool = False
    attributes: dict[str, Value] = field(default_factory=dict)

    def say(self, name: str, value: Value) -> None:
        """Set an attribute."""
        assert type(value) is ATTRIBUTES[name], name
        self.attributes[name] = value

    def close(self, *, failed: bool = False) -> None:
        """End now, if it has not ended."""
        if not self.end:
            self.end, self.failed = time.time_ns(), failed


class Trace:
    """One request's spans, the whole request first; ``parent`` is the client's ``traceparent``."""

    def __init__(self, parent: str) -> None:
        self.parent = parent
        self.spans: list[Span] = [Span(name="request", start=time.time_ns())]

    def begin(self, name: Name) -> Span:
        """Open a span inside of the request."""
        span = Span(name=name, start=time.time_ns())
        if len(self.spans) < _MOST_SPANS:
            self.spans.append(span)
        return span

    def close(self, *, failed: bool) -> None:
        """The request has ended, and with it whatever is open."""
        for span in self.spans:
            span.close(failed=failed)


Send: TypeAlias = Callable[[Trace], None]
"""Takes a trace that is closed. Never waits."""

_NOW: ContextVar[Trace | None] = ContextVar("freehold_trace", default=None)


@contextmanager
def tracing(trace: Trace) -> Iterator[Trace]:
    """Gather the spans of this task, and of those it starts, in ``trace``."""
    token = _NOW.set(trace)
    try:
        yield trace
    finally:
        _NOW.reset(token)


def begin(name: Name) -> Span | None:
    """Open a span of the request that is being answered; ``None`` where nothing is traced."""
    trace = _NOW.get()
    return None if trace is None else trace.begin(name)


@contextmanager
def span(name: Name) -> Iterator[Span | None]:
    """The same around a block."""
    opened = begin(name)
    failed = True
    try:
        yield opened
        failed = False
    finally:
        if opened is not None:
            opened.close(failed=failed)

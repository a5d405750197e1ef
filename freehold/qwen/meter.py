"""What one rendering of a chat template may cost: steps, text and time."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

BASE_STEPS = 500_000
BASE_TEXT = 1 << 24  # characters, over all intermediate strings
TEXT_PER_CHAR = 64  # a template may copy its input this many times
MAX_CPU_SECONDS = 2.0
MAX_DEPTH = 32
CHECK_CLOCK_EVERY = 64


class OverBudgetError(Exception):
    """The template asked for more than any real one needs. ``str()`` names what."""


class Meter:
    """Counts what a rendering uses. ``input_chars`` is the size of the messages and tools."""

    def __init__(self, input_chars: int) -> None:
        self._steps = BASE_STEPS + input_chars
        self._text = BASE_TEXT + TEXT_PER_CHAR * input_chars
        self._deadline = time.thread_time() + MAX_CPU_SECONDS

    def step(self, n: int = 1) -> None:
        before = self._steps // CHECK_CLOCK_EVERY
        self._steps -= n
        if self._steps < 0:
            raise OverBudgetError("takes too many steps")
        if self._steps // CHECK_CLOCK_EVERY != before and time.thread_time() > self._deadline:
            raise OverBudgetError(f"takes more than {MAX_CPU_SECONDS:.0f} s of processor time")

    def text(self, n: int) -> None:
        self._text -= n
        if self._text < 0:
            raise OverBudgetError("makes too much text")

    def weigh(self, value: Any, depth: int = 0) -> int:
        """Charge a value's whole tree, so that shared parts cannot unfold without bound later.

        Returns the number of characters that its strings hold.
        """
        self.step()
        if depth > MAX_DEPTH:
            raise OverBudgetError(f"nests values deeper than {MAX_DEPTH}")
        if isinstance(value, str):
            return len(value)
        if isinstance(value, Mapping):
            pairs = value.items()
            return sum(self.weigh(k, depth + 1) + self.weigh(v, depth + 1) for k, v in pairs)
        if isinstance(value, list | tuple | set | frozenset):
            return sum(self.weigh(item, depth + 1) for item in value)
        return 0


_current: ContextVar[Meter] = ContextVar("freehold_template_meter")


def current() -> Meter:
    """The meter of the rendering under way."""
    return _current.get()


@contextmanager
def metered(input_chars: int) -> Iterator[Meter]:
    """Everything a template does within is charged to one new meter."""
    token = _current.set(Meter(input_chars))
    try:
        yield _current.get()
    finally:
        _current.reset(token)

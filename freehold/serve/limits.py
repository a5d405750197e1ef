"""How much of anything one client may take."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from freehold.serve.errors import SHUTTING_DOWN, ProblemError, busy, too_late


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the counter allows. Sizes in bytes, times in seconds.

    ``max_queue`` counts requests being answered or waiting, over all clients: the next one is told
    to come back. ``max_choices`` is the highest ``n``; ``max_prompts`` the longest list of prompts;
    ``at_once`` how many answers of one request are with the engine at the same time.
    """

    max_body: int = 16 << 20
    max_queue: int = 320
    max_choices: int = 16
    max_prompts: int = 512
    at_once: int = 16
    request_seconds: float = 600.0
    drain_seconds: float = 30.0
    retry_after: int = 2


class Admission:
    """Counts requests inside, and refuses the one too many. Lives in one event loop."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.inside = 0

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold one place in the queue. Raises ``ProblemError`` (429) when there is none."""
        if self.inside >= self._limits.max_queue:
            raise ProblemError(
                busy(
                    f"{self.inside} requests are being answered or waiting already: come back in "
                    f"{self._limits.retry_after} s",
                    self._limits.retry_after,
                )
            )
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1


class Deadlines:
    """Every running answer's deadline; a drain draws them all nearer. Lives in one event loop."""

    def __init__(self, limits: Limits) -> None:
        self._seconds = limits.request_seconds
        self._open: set[asyncio.Timeout] = set()
        self._drain_at: float | None = None

    @property
    def draining(self) -> bool:
        return self._drain_at is not None

    def drain(self, seconds: float) -> None:
        """Let what runs go on for ``seconds`` at most."""
        now = asyncio.get_running_loop().time()
        self._drain_at = now + seconds
        for timeout in self._open:
            when = timeout.when()
            if not timeout.expired() and when is not None and when > self._drain_at:
                timeout.reschedule(self._drain_at)

    @asynccontextmanager
    async def deadline(self) -> AsyncIterator[None]:
        """Run the block until the request's deadline.

        Raises ``ProblemError``: 504 past the deadline, 503 when a drain ended first.
        """
        when = asyncio.get_running_loop().time() + self._seconds
        if self._drain_at is not None:
            when = min(when, self._drain_at)
        try:
            async with asyncio.timeout_at(when) as timeout:
                self._open.add(timeout)
                try:
                    yield
                finally:
                    self._open.discard(timeout)
        except TimeoutError as error:
            if not timeout.expired():
                raise
            cut_by_drain = self._drain_at is not None and timeout.when() == self._drain_at
            problem = SHUTTING_DOWN if cut_by_drain else too_late(self._seconds)
            raise ProblemError(problem) from error

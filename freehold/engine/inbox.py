"""What has come from the engine for one request and was not yet taken: the counter's half of the
agreement that keeps a slow reader from filling anybody's memory."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from freehold.engine.wire import WINDOW, AnyEvent, Done, Embedded, Failed, Scored, cost
from freehold.errors import FreeholdError
from freehold.faults import error_of

_ACKNOWLEDGE = WINDOW // 4
"""Far enough below the window that the engine never waits for a reader who keeps up."""


class Inbox:
    """One request's events. ``acknowledge`` is called with each amount that has been taken.

    ``ended`` is true once the engine has nothing more to send, so that nothing need be cancelled.
    """

    def __init__(self, number: int, acknowledge: Callable[[int, int], None]) -> None:
        self.number = number
        self.ended = False
        self._acknowledge = acknowledge
        self._events: deque[AnyEvent] = deque()
        self._taken = 0
        self._failure: FreeholdError | None = None
        self._waiter: asyncio.Future[None] | None = None

    def put(self, event: AnyEvent) -> None:
        """Leave an event for the reader."""
        last = isinstance(event, Scored) and event.last
        self.ended = last or isinstance(event, Done | Embedded | Failed)
        self._events.append(event)
        self._wake()

    def fail(self, error: FreeholdError) -> None:
        """Nothing more will come; the reader gets what is here already, and then ``error``."""
        self.ended = True
        self._failure = error
        self._wake()

    async def take(self) -> AnyEvent:
        """The next event. Raises the request's or the engine's error."""
        while not self._events:
            if self._failure is not None:
                raise self._failure
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        event = self._events.popleft()
        if isinstance(event, Failed):
            raise error_of(event.fault)
        self._taken += cost(event)
        if self._taken >= _ACKNOWLEDGE and not self.ended:
            self._acknowledge(self.number, self._taken)
            self._taken = 0
        return event

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

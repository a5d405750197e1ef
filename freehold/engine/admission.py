"""How many requests may be under way at once, and when to come back if there are too many."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from freehold.errors import BusyError

MAX_RETRY_AFTER = 60
_SMOOTHING = 0.2


class Admission:
    """Counts requests in and out. ``limit`` may be inside: those running and those waiting."""

    def __init__(self, limit: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit = limit
        self.inside = 0
        self._clock = clock
        self._last_leave: float | None = None
        self._pace: float | None = None

    def enter(self) -> None:
        """Count one in. Raises ``BusyError`` with the seconds after which a place is likely."""
        if self.inside >= self.limit:
            raise BusyError(
                f"the engine has {self.inside} requests and takes no more: "
                f"try again in {self.retry_after} s",
                retry_after=self.retry_after,
            )
        self.inside += 1

    def leave(self) -> None:
        """Count one out, and learn how often that happens."""
        assert self.inside > 0
        self.inside -= 1
        now = self._clock()
        if self._last_leave is not None:
            gap = now - self._last_leave
            self._pace = gap if self._pace is None else self._pace + _SMOOTHING * (gap - self._pace)
        self._last_leave = now

    @property
    def retry_after(self) -> int:
        """The usual time between two requests that end, in whole seconds, 1 to 60."""
        return min(MAX_RETRY_AFTER, max(1, math.ceil(self._pace or 1.0)))

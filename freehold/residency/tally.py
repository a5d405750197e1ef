"""Refused calls as the ledger is told of them: in groups, so that who tries much writes little.

A group is one call by one process: how often, from when to when, and the first of them in full.
While it waits it only counts on. Each group becomes a leaf, and leaves have a budget: ``BURST`` at
once, then one in ``EVERY`` seconds. Of ``MOST_WAITING`` groups at a time, any further call of a
process counts in one group of that process, ``OTHERS``. So memory and ledger are bounded, and still
every attempt is counted. Standard library only.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from freehold.residency.attempts import Attempt

BURST = 64
EVERY = 60.0
SETTLE = 1.0
"""Seconds that a group waits for more of its kind before it is told."""

MOST_WAITING = 64
AT_ONCE = 16
"""Groups in one packet: at most 40 kB as JSON."""

RETRY = 10.0
"""Seconds until a keeper that could not write is told again."""

OTHERS = "others"


@dataclass(frozen=True, kw_only=True)
class Group:
    """``count`` refused ``call``s of one process between ``first`` and ``last`` (UTC, ISO 8601);
    ``thread`` and ``what`` (an address, a path) are those of the first."""

    process: str
    pid: int
    call: str
    count: int
    first: str
    last: str
    thread: str
    what: str


class Tally:
    """What waits to be told, what is being told, and how much was. ``clock`` gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._waiting: dict[tuple[str, int, str], Group] = {}
        self._since: dict[tuple[str, int, str], float] = {}
        self._telling: list[Group] = []
        self._budget, self._counted_at = float(BURST), clock()
        self._again: float | None = None
        self._hurried = False
        self.kept = 0
        """Attempts that are in the ledger."""

    def add(self, attempt: Attempt) -> None:
        """Count one attempt."""
        key = attempt.role, attempt.pid, attempt.call
        if key not in self._waiting and len(self._waiting) >= MOST_WAITING:
            key = attempt.role, attempt.pid, OTHERS
        if found := self._waiting.get(key):
            self._waiting[key] = replace(found, count=found.count + 1, last=attempt.time)
            return
        self._since[key] = self._clock()
        self._waiting[key] = Group(
            process=attempt.role,
            pid=attempt.pid,
            call=key[2],
            count=1,
            first=attempt.time,
            last=attempt.time,
            thread=attempt.thread,
            what=attempt.what,
        )

    def hurry(self) -> None:
        """From now on everything may be told at once: the keeper is about to end."""
        self._hurried = True

    @property
    def done(self) -> bool:
        """Whether the keeper is about to end and knows everything."""
        return self._hurried and not self._waiting and not self._telling

    def due(self) -> float | None:
        """Seconds until something can be told; ``None`` while there is nothing, or an answer is
        awaited."""
        if self._telling:
            return None if self._again is None else max(0.0, self._again - self._clock())
        if not self._waiting:
            return None
        if self._hurried:
            return 0.0
        now = self._clock()
        self._refill(now)
        oldest = next(iter(self._since.values()))
        return max(0.0, oldest + SETTLE - now, (1 - self._budget) * EVERY)

    def take(self) -> list[dict[str, Any]]:
        """The groups to tell now, the oldest first; until ``answered`` they are being told."""
        if self.due() != 0.0:
            return []
        self._again = None
        if not self._telling:
            # By the order of their first attempt: a dictionary keeps it.
            most = AT_ONCE if self._hurried else min(AT_ONCE, int(self._budget))
            self._budget -= 0 if self._hurried else min(most, len(self._waiting))
            for key in list(self._waiting)[:most]:
                self._telling.append(self._waiting.pop(key))
                del self._since[key]
        return [asdict(group) for group in self._telling]

    def answered(self, *, kept: bool) -> None:
        """The keeper has written what it was told, or could not: then it is told again later."""
        if kept:
            self.kept += sum(group.count for group in self._telling)
            self._telling.clear()
        elif self._telling:
            self._again = self._clock() + RETRY

    def _refill(self, now: float) -> None:
        self._budget = min(float(BURST), self._budget + (now - self._counted_at) / EVERY)
        self._counted_at = now

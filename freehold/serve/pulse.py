"""Are the engines alive? Asked by anyone through ``/health``, so answered from a short memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from freehold.errors import EngineError
from freehold.types import Engine, EngineStats

_ENGINE_SECONDS = 5.0
_MEMORY_SECONDS = 1.0


async def engine_stats(engines: Sequence[Engine]) -> list[EngineStats | None]:
    """Each engine's numbers; ``None`` for one that is gone or says nothing for seconds."""
    return await asyncio.gather(*map(_stats, engines))


async def _stats(engine: Engine) -> EngineStats | None:
    try:
        async with asyncio.timeout(_ENGINE_SECONDS):
            return await engine.stats()
    except (EngineError, TimeoutError):
        return None


class Pulse:
    """Remembers for a second whether every engine answered, however often it is asked."""

    def __init__(self, engines: Sequence[Engine]) -> None:
        self._engines = engines
        self._lock = asyncio.Lock()
        self._alive = False
        self._asked = float("-inf")

    async def beats(self) -> bool:
        async with self._lock:
            if time.monotonic() - self._asked > _MEMORY_SECONDS:
                self._alive = None not in await engine_stats(self._engines)
                self._asked = time.monotonic()
            return self._alive

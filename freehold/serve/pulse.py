"""Can requests be answered? Anyone asks through ``/health``, so answered from a short memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from freehold.errors import EngineError, FreeholdError, LedgerError, NotFoundError
from freehold.serve.keys import Keyring
from freehold.types import Engine, EngineStats, Ledger

_SECONDS = 5.0
_MEMORY_SECONDS = 1.0


async def engine_stats(engines: Sequence[Engine]) -> list[EngineStats | None]:
    """Each engine's numbers; ``None`` for one that is gone or says nothing for seconds."""
    return await asyncio.gather(*map(_stats, engines))


async def _stats(engine: Engine) -> EngineStats | None:
    try:
        async with asyncio.timeout(_SECONDS):
            return await engine.stats()
    except (EngineError, TimeoutError):
        return None


async def _readable(ledger: Ledger | None) -> bool:
    try:
        async with asyncio.timeout(_SECONDS):
            if ledger is not None:
                await ledger.checkpoint()
    except NotFoundError:
        return True  # nothing is in it yet
    except (LedgerError, TimeoutError):
        return False
    return True


async def _answers(keys: Keyring) -> bool:
    try:
        async with asyncio.timeout(_SECONDS):
            await keys.opens("fh-nobody-")
    except (FreeholdError, TimeoutError):
        return False
    return True


class Pulse:
    """Remembers for a second who answered, however often it is asked."""

    def __init__(
        self, engines: Sequence[Engine], keys: Keyring, ledger: Ledger | None = None
    ) -> None:
        self._engines, self._keys, self._ledger = engines, keys, ledger
        self._lock = asyncio.Lock()
        self._found = ""
        self._asked = float("-inf")

    async def missing(self) -> str:
        """``engine``, ``ledger`` or ``keys``, whichever does not answer; empty if all do."""
        async with self._lock:
            if time.monotonic() - self._asked > _MEMORY_SECONDS:
                stats, readable, answers = await asyncio.gather(
                    engine_stats(self._engines), _readable(self._ledger), _answers(self._keys)
                )
                missing = {"engine": None in stats, "ledger": not readable, "keys": not answers}
                self._found = next((name for name, gone in missing.items() if gone), "")
                self._asked = time.monotonic()
            return self._found

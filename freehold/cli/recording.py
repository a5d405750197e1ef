"""The ledger of a server: its keeper process, started as the owner's settings say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Literal, TypeAlias, cast

from freehold.cli.output import say
from freehold.cli.places import keys_folder, root
from freehold.cli.settings import Settings

if TYPE_CHECKING:
    from freehold.ledger import LedgerProcess

OFF = "off"
Opened: TypeAlias = "Callable[[], Awaitable[LedgerProcess | None]]"


@asynccontextmanager
async def recording(settings: Settings) -> AsyncIterator[Opened]:
    """Start the ledger that requests are recorded in, and close it at the end.

    What is yielded waits until it is open, so that a model can be loaded meanwhile; it gives
    ``None`` where the ledger is off, and raises ``UsageError``, ``IntegrityError`` or
    ``LedgerError``.
    """
    if settings.ledger == OFF:
        say("the ledger is off: requests are answered and not recorded")
        yield _nothing
        return
    from freehold.ledger import KeeperSettings, LedgerProcess

    content = cast('Literal["hash", "sealed", "clear"]', settings.ledger_content)
    keeper = KeeperSettings(
        root=str(root()),
        keys=str(keys_folder()),
        ledger=settings.ledger,
        content=content,
        reader=settings.ledger_reader,
    )
    starting = asyncio.create_task(LedgerProcess.start(keeper))
    await asyncio.sleep(0)  # the process is there now, and opens its data base by itself

    async def opened() -> LedgerProcess:
        ledger = await starting
        for note in ledger.notes:
            say(note)
        return ledger

    try:
        yield opened
    finally:
        starting.cancel()
        (ledger,) = await asyncio.gather(starting, return_exceptions=True)
        if isinstance(ledger, LedgerProcess):
            await ledger.close()


async def _nothing() -> None:
    return None

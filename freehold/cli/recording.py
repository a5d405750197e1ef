"""The ledger of a server: its keeper process, started as the owner's settings say."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Literal, cast

from freehold.cli.output import say
from freehold.cli.places import keys_folder, root
from freehold.cli.settings import Settings

if TYPE_CHECKING:
    from freehold.ledger import LedgerProcess

OFF = "off"


@asynccontextmanager
async def recording(settings: Settings) -> AsyncIterator[LedgerProcess | None]:
    """The ledger that requests are recorded in, closed at the end; ``None`` where it is off.

    Raises ``UsageError``, ``IntegrityError`` or ``LedgerError``.
    """
    if settings.ledger == OFF:
        say("the ledger is off: requests are answered and not recorded")
        yield None
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
    async with await LedgerProcess.start(keeper) as ledger:
        for note in ledger.notes:
            say(note)
        yield ledger

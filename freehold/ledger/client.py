"""``LedgerProcess``: the counter's side of the keeper, an asyncio ``types.Ledger``.

When the keeper dies, everything that waits for it fails with a ``LedgerError`` that says why, and
so does whatever is asked later: no entry, no reply.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from freehold.errors import LedgerError
from freehold.faults import error_of
from freehold.ledger import wire
from freehold.pair import Partner, Started, ending
from freehold.spawning import spawn
from freehold.types import Outcome, Receipt, Record

CLOSE_SECONDS = 10.0


class LedgerProcess(Partner[wire.AnyFromKeeper, wire.Ready]):
    """One ledger in one process. Made by ``start``; ``close`` it, or use it in ``async with``.
    Closing writes all that was sent."""

    @classmethod
    async def start(
        cls, settings: wire.KeeperSettings, started: Started | None = None
    ) -> LedgerProcess:
        """Start the process, or take over one that waits for its settings, and wait until the
        ledger is open.

        Raises what went wrong there: ``UsageError`` (an impossible setting, or another process
        writes this ledger), ``IntegrityError`` (it was changed), ``LedgerError``.
        """
        ledger = cls(
            started or spawn("freehold.ledger"),
            wire.read_from_keeper,
            farewell=wire.Close(),
            patience=CLOSE_SECONDS,
        )
        await ledger._meet(wire.Configure(settings))
        return ledger

    @property
    def notes(self) -> list[str]:
        """What the owner should be told at the start."""
        return self._ready.result().notes

    @property
    def verifier(self) -> str:
        """The key that checkpoints are verified with, in C2SP's one-line form."""
        return self._ready.result().verifier

    # --- types.Ledger -----------------------------------------------------------------------------

    async def open(self, record: Record) -> OpenEntry:
        """Write the first leaf; returns when it is durable. Raises ``LedgerError``."""
        found = await self._ask(lambda number: wire.Open(number, record))
        return OpenEntry(self, found.entry)

    async def note(self, what: str, detail: Mapping[str, Any]) -> Receipt:
        """Write a leaf about the server itself. Raises ``LedgerError``."""
        return _receipt(await self._ask(lambda number: wire.Note(number, what, dict(detail))))

    async def checkpoint(self) -> str:
        return str(await self._read("checkpoint"))

    async def leaves(self, first: int, count: int) -> list[dict[str, Any]]:
        return list(await self._read("leaves", first, count))

    async def entry(self, number: int) -> list[dict[str, Any]]:
        return list(await self._read("entry", number))

    async def inclusion(self, leaf: int, size: int | None = None) -> dict[str, Any]:
        return dict(await self._read("inclusion", leaf, size))

    async def consistency(self, first: int, second: int | None = None) -> dict[str, Any]:
        return dict(await self._read("consistency", first, second))

    async def seal(self, entry: int, outcome: Outcome) -> Receipt:
        """``OpenEntry.seal``."""
        return _receipt(await self._ask(lambda number: wire.Seal(number, entry, outcome)))

    # --- asking and being answered ----------------------------------------------------------------

    async def _read(self, what: Any, first: int = 0, second: int | None = None) -> Any:
        found = await self._ask(lambda number: wire.Ask(number, what, first, second))
        return found.answer

    def _received(self, message: wire.AnyFromKeeper) -> None:
        match message:
            case wire.Ready():
                self._met(message)
            case wire.Fatal(fault):
                self._cause = error_of(fault)
            case wire.Failed(number, fault):
                self._answer(number, error_of(fault))
            case _:
                self._answer(message.number, message)

    def _death(self) -> LedgerError:
        if self._closing:
            return LedgerError("the ledger was closed")
        status = self._process.returncode
        how = self._cause or ("" if status is None else ending(status))
        return LedgerError(
            f"the keeper of the ledger has ended ({how}): no entry, so no reply; "
            "start Freehold again"
        )


class OpenEntry:
    """``types.Entry``: an opened request."""

    def __init__(self, ledger: LedgerProcess, number: int) -> None:
        self._ledger = ledger
        self.number = number

    async def seal(self, outcome: Outcome) -> Receipt:
        """Write the second leaf; returns when it is durable. Raises ``LedgerError``."""
        return await self._ledger.seal(self.number, outcome)


def _receipt(found: wire.Sealed) -> Receipt:
    return Receipt(entry=found.entry, leaf=found.leaf, checkpoint=found.checkpoint)

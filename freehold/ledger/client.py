"""``LedgerProcess``: the counter's side of the keeper, an asyncio ``types.Ledger``.

When the keeper dies, everything that waits for it fails with a ``LedgerError`` that says why, and
so does whatever is asked later: no entry, no reply.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import subprocess
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from freehold.errors import FreeholdError, LedgerError, ProtocolError
from freehold.faults import error_of
from freehold.ledger import wire
from freehold.pair import Pipe, ending
from freehold.spawning import spawn
from freehold.types import Outcome, Receipt, Record

CLOSE_SECONDS = 10.0
_BURIAL_SECONDS = 0.05
Started: TypeAlias = tuple[subprocess.Popen[bytes], socket.socket]
"""A keeper's process and our end of the pair with it (``spawning.spawn``)."""


class LedgerProcess:
    """One ledger in one process. Made by ``start``; ``close`` it, or use it in ``async with``."""

    def __init__(self, started: Started | None) -> None:
        loop = asyncio.get_running_loop()
        self._numbers = itertools.count(1)
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._ready: asyncio.Future[wire.Ready] = loop.create_future()
        self._pipe: Pipe[wire.AnyFromKeeper] | None = None
        self._cause: FreeholdError | None = None
        self._closing = False
        self._process, self._pair = started or spawn("freehold.ledger")

    @classmethod
    async def start(
        cls, settings: wire.KeeperSettings, started: Started | None = None
    ) -> LedgerProcess:
        """Start the process, or take over one that waits for its settings, and wait until the
        ledger is open.

        Raises what went wrong there: ``UsageError`` (an impossible setting, or another process
        writes this ledger), ``IntegrityError`` (it was changed), ``LedgerError``.
        """
        ledger = cls(started)
        try:
            _, ledger._pipe = await asyncio.get_running_loop().create_connection(
                lambda: Pipe(wire.read_from_keeper, ledger.received, ledger.broken, ledger.lost),
                sock=ledger._pair,
            )
            ledger._pipe.send(wire.Configure(settings))
            await ledger._ready
        except BaseException:
            await ledger.close()
            raise
        return ledger

    async def __aenter__(self) -> LedgerProcess:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def notes(self) -> list[str]:
        """What the owner should be told at the start."""
        return self._ready.result().notes

    @property
    def verifier(self) -> str:
        """The key that checkpoints are verified with, in C2SP's one-line form."""
        return self._ready.result().verifier

    @property
    def pid(self) -> int:
        """The keeper's process id."""
        return self._process.pid

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

    async def close(self) -> None:
        """End the process once all it was sent is written. May be called more than once."""
        self._closing = True
        if self._pipe is not None and self._ready.done() and not self._ready.exception():
            self._pipe.send(wire.Close())
        else:
            self._kill()
        try:
            await asyncio.to_thread(self._process.wait, CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            self._kill()
            await asyncio.to_thread(self._process.wait)
        if self._pipe is None:
            self._pair.close()
        else:
            self._pipe.transport.close()
            await self._pipe.lost.wait()

    def _kill(self) -> None:
        """End the process at once. A locked counter can signal nobody outside its own lock, but
        without its pair a keeper ends by itself."""
        with contextlib.suppress(PermissionError):
            self._process.kill()
        if self._pipe is None:
            self._pair.close()
        else:
            self._pipe.transport.abort()

    # --- asking and being answered ----------------------------------------------------------------

    async def _read(self, what: Any, first: int = 0, second: int | None = None) -> Any:
        found = await self._ask(lambda number: wire.Ask(number, what, first, second))
        return found.answer

    async def _ask(self, message: Callable[[int], wire.ToKeeper]) -> Any:
        if self._closing or self._pipe is None or self._pipe.lost.is_set():
            raise self._death()
        number = next(self._numbers)
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        try:
            self._pipe.send(message(number))
            return await answer
        finally:
            del self._asked[number]

    def received(self, message: wire.AnyFromKeeper) -> None:
        """Hand on one message. Raises ``ProtocolError`` for one that answers nothing."""
        match message:
            case wire.Ready():
                if self._ready.done():
                    raise ProtocolError("the keeper said Ready twice")
                self._ready.set_result(message)
            case wire.Fatal(fault):
                self._cause = error_of(fault)
            case wire.Failed(number, fault):
                if (answer := self._asked.get(number)) and not answer.done():
                    answer.set_exception(error_of(fault))
            case _:
                # Whoever asked may have been cancelled meanwhile.
                if (answer := self._asked.get(message.number)) and not answer.done():
                    answer.set_result(message)

    def broken(self, error: ProtocolError) -> None:
        """Bytes came that are no message: nothing that follows can be believed."""
        self._cause = error
        self._kill()

    def lost(self) -> None:
        """The pair has ended: so has everything that waits for it."""
        if not self._closing:
            # The kernel closes a dying process's descriptors a moment before it can be waited for.
            try:
                self._process.wait(_BURIAL_SECONDS)
            except subprocess.TimeoutExpired:
                self._kill()
        if not self._ready.done():
            self._ready.set_exception(self._cause or self._death())
        for answer in self._asked.values():
            if not answer.done():
                answer.set_exception(self._death())

    def _death(self) -> LedgerError:
        """Why nothing more will come. A new error each time: each is raised in its own task."""
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

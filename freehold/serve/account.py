"""One request's entry in the ledger: opened while the engine begins, sealed before the reply ends.

The opening leaf is on its way to the disk when the engine is asked, and durable before the first
byte goes out: the disk's time lies beside the prompt's. Nothing goes out when it fails.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Any

from prometheus_client import Histogram

from freehold.errors import FreeholdError, LedgerError
from freehold.serve.answer import Piece, Usage
from freehold.serve.metrics import Metrics
from freehold.serve.tracing import Name, Span, span
from freehold.types import Ending, Entry, Ledger, Outcome, Receipt, Record

LOG = logging.getLogger("freehold.serve")

_SETTLE_SECONDS = 5.0

ENTRY_HEADER = "x-freehold-entry"
CHECKPOINT_HEADER = "x-freehold-checkpoint"


class Ledgers:
    """What an application does with its ledger; ``None`` keeps none. Lives in one event loop."""

    def __init__(self, ledger: Ledger | None, metrics: Metrics) -> None:
        self.ledger = ledger
        self.metrics = metrics
        self._writing: dict[object, float] = {}
        """When each leaf that is on its way was sent off."""
        self._late: set[asyncio.Task[Any]] = set()
        self._open = 0
        self._none_open = asyncio.Event()
        self._none_open.set()

    def account(self) -> Account:
        return Account(self)

    def later(self, work: asyncio.Task[Any]) -> None:
        """Hold on to what may be written after its request has gone."""
        self._late.add(work)
        work.add_done_callback(self._forget)

    @property
    def unsealed(self) -> int:
        """Entries that are still to be sealed."""
        return self._open

    @property
    def lag(self) -> float:
        """Seconds for which the oldest leaf that is not durable yet has been on its way."""
        return time.monotonic() - min(self._writing.values()) if self._writing else 0.0

    @contextlib.contextmanager
    def writing(self, name: Name, seconds: Histogram) -> Iterator[Span | None]:
        """Time a leaf from when it is sent off until it is durable."""
        leaf, began = object(), time.monotonic()
        self._writing[leaf] = began
        try:
            with span(name) as traced:
                yield traced
            seconds.observe(time.monotonic() - began)
        finally:
            del self._writing[leaf]

    def opened(self) -> None:
        """One more entry is to be sealed before the end."""
        self._open += 1
        self._none_open.clear()

    def sealed(self) -> None:
        """One less, whether it could be or not."""
        self._open -= 1
        if not self._open:
            self._none_open.set()

    def _forget(self, work: asyncio.Task[Any]) -> None:
        self._late.discard(work)
        if not work.cancelled():
            work.exception()  # whoever waited for it was told; nobody may be left

    async def settle(self) -> None:
        """Wait until all that is under way is written, ``_SETTLE_SECONDS`` at most."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SETTLE_SECONDS):
                await self._none_open.wait()


class Account:
    """Opens and seals one entry. Every method does nothing where no ledger is kept."""

    def __init__(self, ledgers: Ledgers) -> None:
        self._ledgers = ledgers
        self._opening: asyncio.Task[Entry] | None = None
        self._usage: Usage | None = None
        self._settled = False
        self.receipt: Receipt | None = None

    def open(self, record: Record, usage: Usage) -> None:
        """Send the first leaf off; ``usage`` is where what is answered will be found."""
        if self._ledgers.ledger is not None:
            self._usage = usage
            self._ledgers.opened()
            self._opening = asyncio.create_task(_open(self._ledgers, self._ledgers.ledger, record))

    async def opened(self) -> int | None:
        """The entry's number, once its first leaf is durable. Raises ``LedgerError``."""
        if self._opening is None:
            return None
        # Shielded: the leaf is written even if the client is gone, and then it must be sealed.
        return (await asyncio.shield(self._opening)).number

    async def sealed(self, pieces: AsyncGenerator[Piece], count: int) -> AsyncGenerator[Piece]:
        """Pass on the pieces of ``count`` answers: none before the entry is open, and the last one
        of all once it is sealed. Raises ``LedgerError``, so that nothing is made in vain."""
        async with aclosing(pieces):
            async for piece in pieces:
                await self.opened()
                if piece.finish is not None:
                    count -= 1
                    if count == 0:
                        await self._seal("answered")
                yield piece

    async def answered(self) -> None:
        """Seal a request that is answered without pieces. Raises ``LedgerError``."""
        await self._seal("answered")

    async def fail(self, code: str | None) -> None:
        """Seal as ended by an error, unless the ledger itself is what failed."""
        try:
            await self._seal("failed", code)
        except LedgerError as error:
            LOG.error("a request could not be sealed: %s", error)

    def abandon(self, ending: Ending) -> None:
        """The same for a request that is being torn down: written after it."""
        if self._opening is not None and not self._settled:
            self._ledgers.later(asyncio.create_task(self._give_up(ending)))

    @property
    def header(self) -> bytes:
        """The checkpoint that covers the seal, in base64: a note has line ends. Empty before."""
        return base64.b64encode(self.receipt.checkpoint.encode()) if self.receipt else b""

    async def _give_up(self, ending: Ending) -> None:
        try:
            await self._seal(ending)
        except FreeholdError as error:
            LOG.error("a request could not be sealed: %s", error)

    async def _seal(self, ending: Ending, code: str | None = None) -> None:
        if self._opening is None or self._usage is None or self._settled:
            return
        self._settled = True
        outcome = Outcome(
            ending=ending,
            error=code,
            answers=self._usage.answered(),
            prompt_tokens=self._usage.prompt_tokens,
            cached_tokens=sum(self._usage.cached.values()),
            completion_tokens=self._usage.completion_tokens,
            verdicts=self._usage.verdicts(),
        )
        # Shielded: half-way through, it will be written whatever becomes of the request.
        sealing = asyncio.create_task(_seal(self._ledgers, self._opening, outcome))
        sealing.add_done_callback(lambda _: self._ledgers.sealed())
        self._ledgers.later(sealing)
        self.receipt = await asyncio.shield(sealing)


async def _seal(ledgers: Ledgers, opening: asyncio.Task[Entry], outcome: Outcome) -> Receipt:
    entry = await opening
    with ledgers.writing("ledger.seal", ledgers.metrics.sealing):
        return await entry.seal(outcome)


async def _open(ledgers: Ledgers, ledger: Ledger, record: Record) -> Entry:
    with ledgers.writing("ledger.open", ledgers.metrics.opening) as opening:
        entry = await ledger.open(record)
        if opening is not None:
            opening.say("freehold.entry", entry.number)
        return entry

"""``EngineProcess``: the counter's side of the engine, an asyncio ``types.Engine``.

The engine runs in a process of its own, so that 64 streams being turned into text and HTTP never
hold the interpreter lock while the arithmetic wants it. When that process dies, everything under
way fails at once with an ``EngineError`` that says why, and so does whatever is asked later.
"""

from __future__ import annotations

import asyncio
import itertools
import subprocess
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from freehold.engine import reply, wire
from freehold.engine.admission import Admission
from freehold.engine.child import Child, reach_of, spawn
from freehold.engine.inbox import Inbox
from freehold.engine.limits import check_ids, check_room, check_sampling, check_top
from freehold.errors import EngineError, FreeholdError, ProtocolError, UsageError
from freehold.faults import error_of
from freehold.pair import Pipe, ending
from freehold.residency.lock import Order
from freehold.types import (
    Done,
    EngineStats,
    Event,
    Floats,
    Ids,
    Logprobs,
    ModelCard,
    Pooling,
    Sampling,
    Tap,
)

CLOSE_SECONDS = 5.0
"""How long the engine may take to end by itself when it is told to."""

_BURIAL_SECONDS = 0.05


class Progress(Protocol):
    """Told how far loading has come, in bytes, and what is to be known of it."""

    def start(self, total: int, what: str) -> None: ...
    def advance(self, n: int) -> None: ...
    def note(self, line: str) -> None: ...


class EngineProcess:
    """One model in one process. Made by ``start``; ``close`` it, or use it in ``async with``."""

    def __init__(
        self, settings: wire.EngineSettings, progress: Progress | None, child: Child
    ) -> None:
        self._settings = settings
        self._progress = progress
        self._doing, self._loaded = "", 0
        self._numbers = itertools.count(1)
        self._inboxes: dict[int, Inbox] = {}
        self._asked: dict[int, asyncio.Future[EngineStats]] = {}
        self._admission = Admission(settings.max_running + settings.max_waiting)
        self._ready: asyncio.Future[ModelCard] = asyncio.get_running_loop().create_future()
        self._pipe: Pipe[wire.AnyFromEngine] | None = None
        self._cause: FreeholdError | None = None
        self._closing = False
        self._process, self._pair = child.process, child.pair

    @classmethod
    async def start(
        cls,
        settings: wire.EngineSettings,
        *,
        progress: Progress | None = None,
        child: Child | None = None,
    ) -> EngineProcess:
        """Start the process, or take over a ``child`` that was told these settings already, and
        wait until the model answers. One that is started here is locked, and nobody watches.

        Raises what went wrong there: ``NotFoundError``, ``IntegrityError``, ``UsageError`` (an
        impossible setting), ``EngineError``.
        """
        if child is None:
            secret = None if settings.secret is None else Path(settings.secret)
            reach = reach_of(Path(settings.root), secret, settings.device)
            child = spawn(Order(role="engine", reach=reach))
            child.configure(settings)
        engine = cls(settings, progress, child)
        try:
            _, engine._pipe = await asyncio.get_running_loop().create_connection(
                lambda: Pipe(wire.read_from_engine, engine.received, engine.broken, engine.lost),
                sock=engine._pair,
            )
            await engine._ready
        except BaseException:
            await engine.close()
            raise
        return engine

    async def __aenter__(self) -> EngineProcess:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def card(self) -> ModelCard:
        """What the engine says of its model; ``context`` is no more than its KV cache can hold."""
        return self._ready.result()

    @property
    def pid(self) -> int:
        """The engine's process id."""
        return self._process.pid

    async def generate(
        self, ids: Ids, sampling: Sampling, *, adapter: str | None = None, taps: Sequence[Tap] = ()
    ) -> AsyncGenerator[Event, None]:
        """``types.Engine.generate``. An answer ends where the context does, if not before."""
        _refuse_adapter(adapter)
        check_room(len(ids), self.card.context, answer=1)
        check_ids(ids, self.card.vocab, param="ids")
        check_sampling(sampling, self.card.vocab)
        with self._open() as inbox:
            self._send(wire.Generate(inbox.number, list(ids), sampling, list(taps)))
            while True:
                event = reply.event_of(await inbox.take(), self.card.vocab)
                yield event
                if isinstance(event, Done):
                    return

    async def score(
        self, ids: Ids, *, top: int = 0, adapter: str | None = None, taps: Sequence[Tap] = ()
    ) -> Logprobs:
        """Log-probabilities of given ids (``types.Logprobs``), ``top`` (0 to 20) alternatives each.

        Raises ``ContextOverflowError``, ``BusyError``, ``UsageError`` or ``EngineError``.
        """
        _refuse_adapter(adapter)
        check_room(len(ids), self.card.context, answer=0)
        check_ids(ids, self.card.vocab, param="ids")
        check_top(top)
        parts: list[wire.AnyEvent] = []
        with self._open() as inbox:
            self._send(wire.Score(inbox.number, list(ids), top, list(taps)))
            while not reply.complete(parts):
                parts.append(await inbox.take())
        return reply.logprobs_of(parts, len(ids))

    async def embed(self, ids: Ids, *, pooling: Pooling) -> Floats:
        """``types.Engine.embed``."""
        check_room(len(ids), self.card.context, answer=0)
        check_ids(ids, self.card.vocab, param="ids")
        with self._open() as inbox:
            self._send(wire.Embed(inbox.number, list(ids), pooling))
            return reply.vector_of(await inbox.take())

    async def stats(self) -> EngineStats:
        """Counts of the moment between two steps. Raises ``EngineError``."""
        self._check_alive()
        number = next(self._numbers)
        answer: asyncio.Future[EngineStats] = asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        try:
            self._send(wire.AskStats(number))
            return await answer
        finally:
            del self._asked[number]

    async def close(self) -> None:
        """End the process: politely, or at once while it loads or if it takes ``CLOSE_SECONDS``.

        Requests still under way get an ``EngineError``. May be called more than once.
        """
        self._closing = True
        if self._ready.done() and not self._ready.cancelled() and not self._ready.exception():
            self._send(wire.Close())
        else:
            self._process.kill()
        try:
            await asyncio.to_thread(self._process.wait, CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)
        if self._pipe is None:
            self._pair.close()
        else:
            self._pipe.transport.close()
            await self._pipe.lost.wait()

    # --- one request ------------------------------------------------------------------------------

    @contextmanager
    def _open(self) -> Iterator[Inbox]:
        """A place for a request's events, and its cancellation if it is left before the end."""
        self._check_alive()
        self._admission.enter()
        inbox = Inbox(next(self._numbers), lambda number, n: self._send(wire.Read(number, n)))
        self._inboxes[inbox.number] = inbox
        try:
            yield inbox
        finally:
            del self._inboxes[inbox.number]
            self._admission.leave()
            if not inbox.ended:
                self._send(wire.Cancel(inbox.number))

    def _send(self, message: wire.ToEngine) -> None:
        if self._pipe is not None:
            self._pipe.send(message)

    def _check_alive(self) -> None:
        if self._closing or self._pipe is None or self._pipe.lost.is_set():
            raise self._death()

    # --- what comes from the engine ---------------------------------------------------------------

    def received(self, message: wire.AnyFromEngine) -> None:
        """Hand on one message. Raises ``ProtocolError`` for one that answers nothing."""
        match message:
            case wire.Events(events):
                for event in events:
                    # An event may cross with the cancellation of its request.
                    if inbox := self._inboxes.get(event.request):
                        inbox.put(event)
            case wire.Stats():
                if (answer := self._asked.get(message.request)) and not answer.done():
                    answer.set_result(message.stats)
            case wire.Loading(what, done, total):
                self._show(what, done, total)
            case wire.Note(line):
                if self._progress is not None:
                    self._progress.note(line)
            case wire.Ready(card):
                if self._ready.done():
                    raise ProtocolError("the engine said Ready twice")
                self._ready.set_result(card)
            case wire.Fatal(fault):
                self._cause = error_of(fault)

    def broken(self, error: ProtocolError) -> None:
        """Bytes came that are no message: nothing that follows can be believed."""
        self._cause = error
        self._process.kill()

    def lost(self) -> None:
        """The pair has ended: so has everything that waits for it."""
        if not self._closing:
            self._bury()
        if not self._ready.done():
            self._ready.set_exception(self._cause or self._death())
        for inbox in list(self._inboxes.values()):
            inbox.fail(self._death())
        for answer in self._asked.values():
            if not answer.done():
                answer.set_exception(self._death())

    def _show(self, what: str, done: int, total: int) -> None:
        if self._progress is None:
            return
        if what != self._doing:
            self._doing, self._loaded = what, 0
            self._progress.start(total, f"{what} {self._settings.model}")
        self._progress.advance(done - self._loaded)
        self._loaded = done

    def _bury(self) -> None:
        # The kernel closes a dying process's descriptors a moment before it can be waited for.
        try:
            self._process.wait(_BURIAL_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def _death(self) -> EngineError:
        """Why nothing more will come. A new error each time: each is raised in its own task."""
        if self._closing:
            return EngineError("the engine was closed")
        if self._cause is not None:
            error = EngineError(f"the engine has ended: {self._cause}")
            error.__cause__ = self._cause
            return error
        status = self._process.returncode
        how = "" if status is None else f" ({ending(status)})"
        return EngineError(
            f"the engine process has ended{how}: see its messages on standard error, "
            "and start Freehold again"
        )


def _refuse_adapter(adapter: str | None) -> None:
    if adapter is not None:
        raise UsageError(f"adapter {adapter!r}: this version serves no adapters", param="adapter")

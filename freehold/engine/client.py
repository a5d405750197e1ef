"""``EngineProcess``: the counter's side of the engine, an asyncio ``types.Engine``.

The engine runs in a process of its own, so that 64 streams being turned into text and HTTP never
hold the interpreter lock while the arithmetic wants it. When that process dies, everything under
way fails at once with an ``EngineError`` that says why, and so does whatever is asked later.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from freehold.engine import reply, wire
from freehold.engine.admission import Admission
from freehold.engine.child import Child, reach_of, spawn
from freehold.engine.inbox import Inbox
from freehold.engine.limits import check_ids, check_room, check_sampling, check_top
from freehold.errors import EngineError, UsageError
from freehold.faults import error_of
from freehold.pair import Partner, ending
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


class Progress(Protocol):
    """Told how far loading has come, in bytes, and what is to be known of it."""

    def start(self, total: int, what: str) -> None: ...
    def advance(self, n: int) -> None: ...
    def note(self, line: str) -> None: ...


class EngineProcess(Partner[wire.AnyFromEngine, ModelCard]):
    """One model in one process. Made by ``start``; ``close`` it, or use it in ``async with``.

    Requests under way when it is closed get an ``EngineError``.
    """

    def __init__(
        self, settings: wire.EngineSettings, progress: Progress | None, child: Child
    ) -> None:
        super().__init__(
            (child.process, child.pair),
            wire.read_from_engine,
            farewell=wire.Close(),
            patience=CLOSE_SECONDS,
        )
        self._settings = settings
        self._progress = progress
        self._doing, self._loaded = "", 0
        self._inboxes: dict[int, Inbox] = {}
        self._admission = Admission(settings.max_running + settings.max_waiting)

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
        await engine._meet()
        return engine

    @property
    def card(self) -> ModelCard:
        """What the engine says of its model; ``context`` is no more than its KV cache can hold."""
        return self._ready.result()

    async def generate(
        self, ids: Ids, sampling: Sampling, *, adapter: str | None = None, taps: Sequence[Tap] = ()
    ) -> AsyncGenerator[Event, None]:
        """``types.Engine.generate``. An answer ends where the context does, if not before."""
        self._check_adapter(adapter)
        check_room(len(ids), self.card.context, answer=1)
        check_ids(ids, self.card.vocab, param="ids")
        check_sampling(sampling, self.card.vocab)
        with self._open() as inbox:
            self._send(wire.Generate(inbox.number, list(ids), sampling, list(taps), adapter or ""))
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
        self._check_adapter(adapter)
        check_room(len(ids), self.card.context, answer=0)
        check_ids(ids, self.card.vocab, param="ids")
        check_top(top)
        parts: list[wire.AnyEvent] = []
        with self._open() as inbox:
            self._send(wire.Score(inbox.number, list(ids), top, list(taps), adapter or ""))
            while not reply.complete(parts):
                parts.append(await inbox.take())
        return reply.logprobs_of(parts, len(ids))

    async def embed(self, ids: Ids, *, pooling: Pooling, adapter: str | None = None) -> Floats:
        """``types.Engine.embed``."""
        self._check_adapter(adapter)
        check_room(len(ids), self.card.context, answer=0)
        check_ids(ids, self.card.vocab, param="ids")
        with self._open() as inbox:
            self._send(wire.Embed(inbox.number, list(ids), pooling, adapter or ""))
            return reply.vector_of(await inbox.take())

    async def pool(self, ids: Ids, *, layers: Sequence[int], start: int, stop: int) -> Floats:
        """(layers, 2, width): the residual stream behind each of these blocks, its mean over the
        rows ``start`` to ``stop`` and its last row. Raises what ``score`` raises."""
        check_room(len(ids), self.card.context, answer=0)
        check_ids(ids, self.card.vocab, param="ids")
        with self._open() as inbox:
            self._send(wire.Pool(inbox.number, list(ids), list(layers), start, stop))
            values = reply.vector_of(await inbox.take())
        return reply.layers_of(values, len(layers))

    async def stats(self) -> EngineStats:
        """Counts of the moment between two steps. Raises ``EngineError``."""
        found: EngineStats = await self._ask(wire.AskStats)
        return found

    async def attach(self, name: str, digest: str) -> int:
        """Put an adapter of the vault beside the model, while answers run; the bytes it takes.

        Requests then name it as their ``adapter``. Raises what verifying raises, ``IntegrityError``
        if it has not this digest, ``MalformedError``, ``UsageError`` or ``EngineError``.
        """
        self._check_adapter(name)
        nbytes: int = await self._ask(lambda number: wire.Attach(number, name, digest))
        return nbytes

    async def detach(self, name: str) -> None:
        """Take an adapter away; answers that run with it run on. Raises ``EngineError``."""
        await self._ask(lambda number: wire.Detach(number, name))

    def _check_adapter(self, name: str | None) -> None:
        if name is not None and "adapters" not in self.card.caps:
            raise UsageError(
                f"{self.card.name} runs on an engine that takes no adapters ({self.card.numerics})",
                param="adapter",
            )

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

    # --- what comes from the engine ---------------------------------------------------------------

    def _received(self, message: wire.AnyFromEngine) -> None:
        match message:
            case wire.Events(events):
                for event in events:
                    # An event may cross with the cancellation of its request.
                    if inbox := self._inboxes.get(event.request):
                        inbox.put(event)
            case wire.Stats():
                away = message.fault
                self._answer(message.request, error_of(away) if away else message.stats)
            case wire.Attached(request, nbytes, fault):
                self._answer(request, error_of(fault) if fault else nbytes)
            case wire.Loading(what, done, total):
                self._show(what, done, total)
            case wire.Note(line):
                if self._progress is not None:
                    self._progress.note(line)
            case wire.Ready(card):
                self._met(card)
            case wire.Fatal(fault):
                self._cause = error_of(fault)

    def _lost(self) -> None:
        super()._lost()
        for inbox in list(self._inboxes.values()):
            inbox.fail(self._death())

    def _show(self, what: str, done: int, total: int) -> None:
        if self._progress is None:
            return
        if what != self._doing:
            self._doing, self._loaded = what, 0
            self._progress.start(total, f"{what} {self._settings.model}")
        self._progress.advance(done - self._loaded)
        self._loaded = done

    def _death(self) -> EngineError:
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

"""The process that stands where the engine stands, and asks another server: the counter at one end
of its pair, HTTP at the other.

It holds no weights. What it keeps of a request is what the counter has not read yet: a reader who
falls behind stops the reading from the server too, which then waits.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from freehold.engine.limits import check_ids, check_room, check_sampling, check_top
from freehold.engine.remote.http import Wire
from freehold.engine.remote.talk import Talk
from freehold.engine.wire import (
    WINDOW,
    AnyEvent,
    AnyToEngine,
    AskStats,
    Cancel,
    Close,
    Configure,
    Embed,
    EngineSettings,
    Events,
    Failed,
    Fatal,
    Generate,
    Loading,
    Read,
    Ready,
    Score,
    Stats,
    cost,
    read_to_engine,
)
from freehold.errors import EngineError, FreeholdError, ProtocolError, UsageError
from freehold.faults import Fault, fault_of
from freehold.pair import Pipe
from freehold.qwen.config import config_of
from freehold.qwen.tokenizer import tokenizer_of
from freehold.store import Store, verify
from freehold.types import EngineStats, ModelCard

SILENCE_SECONDS = 600.0
"""The longest that a server may say nothing while it answers."""
NUMERICS = "{what} (not bit-reproducible)"


@dataclass(kw_only=True)
class _Job:
    """One request under way: ``unread`` bytes of its events are on their way to the counter."""

    task: asyncio.Task[None] | None = None
    unread: int = 0
    read: asyncio.Event = field(default_factory=asyncio.Event)


class Worker:
    """The counter's requests, each a task that asks the server."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._over = asyncio.Event()
        self._settings: asyncio.Future[EngineSettings] = asyncio.get_running_loop().create_future()
        self._jobs: dict[int, _Job] = {}
        self._asking: set[asyncio.Task[None]] = set()
        self._talk: Talk | None = None
        self._card: ModelCard | None = None

    async def run(self) -> int:
        """Serve until told to end, or until the counter is gone; the exit status."""
        _, self._pipe = await asyncio.get_running_loop().create_connection(
            lambda: Pipe(read_to_engine, self._received, self._broken, self._over.set),
            sock=self._sock,
        )
        over = asyncio.create_task(self._over.wait())
        work = asyncio.create_task(self._work())
        await asyncio.wait({over, work}, return_when=asyncio.FIRST_COMPLETED)
        status = 0
        if work.done() and (error := work.exception()) is not None:
            status = EngineError.exit_code
            known = error if isinstance(error, FreeholdError) else _failure(error)
            self._pipe.send(Fatal(fault_of(known)))
        for task in (over, work, *self._asking):
            task.cancel()
        await asyncio.gather(over, work, *self._asking, return_exceptions=True)
        self._pipe.transport.close()
        await self._pipe.lost.wait()
        return status

    async def _work(self) -> None:
        settings = await self._settings
        remote = settings.remote
        if remote is None:
            raise ProtocolError("this process was told of no server to ask")
        # Nobody waits for this process before it is ready: it may read in its own thread.
        found = verify(Store(Path(settings.root)), settings.model, keep=False)
        config, tokenizer = config_of(found), tokenizer_of(found)
        wire = Wire(remote, silence=SILENCE_SECONDS)
        try:
            self._pipe.send(Loading("Waiting for the server of", 0, 1))
            talk = Talk(remote, wire, tokenizer, config.vocab)
            server = await talk.meet()
            context = min(config.context, server.context or config.context)
            spoken = {"ids", "score"} if server.speech == "ids" else set()
            holds = {"grammar"} if remote.ours and server.speech == "ids" else set()
            self._talk, self._card = talk, ModelCard(
                name=settings.model,
                digest=found.digest,
                context=context,
                vocab=config.vocab,
                bytes_per_token=0,
                numerics=NUMERICS.format(what=remote.what),
                caps=frozenset(spoken | holds),
            )  # fmt: skip
            self._pipe.send(Loading("Waiting for the server of", 1, 1))
            self._pipe.send(Ready(self._card))
            await self._over.wait()
        finally:
            for task in self._asking:
                task.cancel()
            await asyncio.gather(*self._asking, return_exceptions=True)
            await wire.close()

    # --- what the counter says --------------------------------------------------------------------

    def _received(self, message: AnyToEngine) -> None:
        match message:
            case Configure(settings) if not self._settings.done():
                self._settings.set_result(settings)
            case Close():
                self._over.set()
            case Generate():
                self._begin(message.request, self._generate(message))
            case Score():
                self._begin(message.request, self._score(message))
            case Embed(request):
                self._begin(request, _embed())
            case Cancel(request):
                if (job := self._jobs.get(request)) and job.task:
                    job.task.cancel()
            case Read(request, amount):
                if job := self._jobs.get(request):
                    job.unread -= amount
                    job.read.set()
            case AskStats(request):
                self._spawn(self._stats(request))
            case _:
                raise ProtocolError(f"the engine was sent {type(message).__name__} out of turn")

    def _broken(self, error: ProtocolError) -> None:
        self._over.set()

    def _begin(self, request: int, events: AsyncGenerator[AnyEvent]) -> None:
        job = _Job()
        self._jobs[request] = job
        job.task = self._spawn(self._pass_on(request, job, events))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)
        return task

    async def _pass_on(self, request: int, job: _Job, events: AsyncGenerator[AnyEvent]) -> None:
        """Send a request's events as the counter reads them."""
        try:
            async with aclosing(events):
                async for event in events:
                    while job.unread > WINDOW:
                        job.read.clear()
                        await job.read.wait()
                    self._send(request, event)
                    job.unread += cost(event)
        except FreeholdError as error:
            self._send(request, Failed(0, fault_of(error)))
        except asyncio.CancelledError:
            raise
        except Exception as error:
            # Only reported: whoever waits must learn why nothing comes, and others go on.
            self._send(request, Failed(0, fault_of(_failure(error))))
            raise
        finally:
            del self._jobs[request]

    def _send(self, request: int, event: AnyEvent) -> None:
        self._pipe.send(Events([msgspec.structs.replace(event, request=request)]))

    # --- requests ---------------------------------------------------------------------------------

    async def _generate(self, asked: Generate) -> AsyncGenerator[AnyEvent]:
        talk, card = self._ready(asked.taps)
        check_room(len(asked.ids), card.context, answer=1)
        check_ids(asked.ids, card.vocab, param="ids")
        check_sampling(asked.sampling, card.vocab)
        if asked.sampling.grammar is not None and "grammar" not in card.caps:
            raise UsageError("the server behind this model holds answers to no grammar")
        events = talk.generate(asked.ids, asked.sampling, card.context - len(asked.ids))
        async with aclosing(events):
            async for event in events:
                yield event

    async def _score(self, asked: Score) -> AsyncGenerator[AnyEvent]:
        talk, card = self._ready(asked.taps)
        check_room(len(asked.ids), card.context, answer=1)  # one is chosen, and thrown away
        check_ids(asked.ids, card.vocab, param="ids")
        check_top(asked.top)
        yield await talk.score(asked.ids, asked.top)

    def _ready(self, taps: list[Any]) -> tuple[Talk, ModelCard]:
        if taps:
            raise UsageError(
                "the server behind this model shows nothing of its inside", param="taps"
            )
        assert self._talk is not None, "nobody asks before Ready"
        assert self._card is not None, "nobody asks before Ready"
        return self._talk, self._card

    async def _stats(self, request: int) -> None:
        fault: Fault | None = None
        try:
            if self._talk is not None:
                await self._talk.well()
        except EngineError as error:
            fault = fault_of(error)
        stats = EngineStats(
            running=len(self._jobs), waiting=0, pages_total=0, pages_free=0, pages_cached=0
        )
        self._pipe.send(Stats(request, stats, fault))


async def _embed() -> AsyncGenerator[AnyEvent]:
    raise UsageError("the server behind this model gives no embeddings")
    yield  # what makes it a generator


def _failure(error: BaseException) -> EngineError:
    return EngineError(f"the process that asks the upstream server failed: {error!r}")

"""The engine process: weights and arithmetic, and one descriptor to the counter.

One thread does everything: read what has come, take one step, send what it brought. It opens no
socket and listens to no signal: Ctrl-C and SIGTERM go to the whole group, and answers under way are
for the counter to finish or to give up. It ends when told to, when the pair is closed, and with its
parent, whichever comes first.
"""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING

from freehold.engine.runner import Runner
from freehold.engine.wire import (
    AnyEvent,
    AnyToEngine,
    AskStats,
    Cancel,
    Close,
    Configure,
    EngineSettings,
    Fatal,
    Generate,
    Loading,
    Read,
    Ready,
    Score,
    Stats,
    event_frames,
    read_to_engine,
)
from freehold.errors import EngineError, FreeholdError, ProtocolError, UsageError
from freehold.faults import fault_of
from freehold.pair import Hungup, Link, frame, outlive_nobody

if TYPE_CHECKING:
    from freehold.qwen.model import Model
    from freehold.types import VerifiedModel

_LAST_WORDS = 5.0
"""Seconds that the counter has to take the message that says why the engine ends."""


def run(fd: int) -> int:
    """Serve the counter at the other end of socket ``fd`` until it is done; the exit status."""
    outlive_nobody()
    link = Link(socket.socket(fileno=fd), read_to_engine)
    try:
        _serve(link)
    except Hungup:
        return 0
    except FreeholdError as error:
        link.say_last(Fatal(fault_of(error)), seconds=_LAST_WORDS)
        return error.exit_code
    except Exception as error:
        # Not handled, only reported: whoever waits for an answer must learn why none will come.
        why = EngineError(f"the engine process failed: {type(error).__name__}: {error}")
        link.say_last(Fatal(fault_of(why)), seconds=_LAST_WORDS)
        raise
    return 0


def _serve(link: Link[AnyToEngine]) -> None:
    runner = _load(_settings(link), link)
    link.send([frame(Ready(runner.card))])
    events: list[AnyEvent] | None = None
    while True:
        for message in link.receive(wait=events is None):
            if isinstance(message, Close):
                return
            link.send(_answer(runner, message))
        events = None if link.full else runner.step()
        link.send(event_frames(events or []))


def _answer(runner: Runner, message: AnyToEngine) -> list[bytes]:
    """Do what one message asks; frames to send at once."""
    match message:
        case Generate():
            return list(event_frames(runner.generate(message)))
        case Score():
            return list(event_frames(runner.score(message)))
        case Cancel(request):
            runner.cancel(request)
        case Read(request, amount):
            runner.read(request, amount)
        case AskStats(request):
            return [frame(Stats(request, runner.stats()))]
        case _:
            raise ProtocolError(f"the engine was sent {type(message).__name__} out of turn")
    return []


def _settings(link: Link[AnyToEngine]) -> EngineSettings:
    messages: list[AnyToEngine] = []
    while not messages:
        messages = link.receive(wait=True)
    first, *more = messages
    if not isinstance(first, Configure) or more:
        raise ProtocolError("the engine must be told its settings, and nothing else, before Ready")
    return first.settings


def _load(settings: EngineSettings, link: Link[AnyToEngine]) -> Runner:
    from freehold.qwen.model import load
    from freehold.qwen.tokenizer import same_vocabulary
    from freehold.store import Store, verify

    if settings.backend not in ("native", "torch"):
        raise UsageError(f"backend is {settings.backend!r}: take native or torch", param="backend")
    if settings.dtype not in ("float32", "bfloat16"):
        raise UsageError(f"dtype is {settings.dtype!r}: take float32 or bfloat16", param="dtype")
    last = -1

    def progress(done: int, total: int) -> None:
        nonlocal last
        percent = 100 * done // max(total, 1)
        if percent > last:
            last = percent
            link.send([frame(Loading(done, total))])

    def bring(verified: VerifiedModel) -> Model:
        return load(
            verified,
            backend="native" if settings.backend == "native" else "torch",
            dtype="float32" if settings.dtype == "float32" else "bfloat16",
            device=settings.device,
            threads=settings.threads,
            cache_tokens=settings.cache_tokens,
            page_size=settings.page_size,
            progress=progress,
        )

    store = Store(Path(settings.root))
    verified = verify(store, settings.model)
    if not settings.draft:
        return Runner(bring(verified), settings)
    small = verify(store, settings.draft)
    if not same_vocabulary(verified, small):
        raise UsageError(
            f"{settings.draft} has another vocabulary than {settings.model}, so its tokens mean "
            "something else: take a smaller model of the same family as draft",
            param="draft",
        )
    return Runner(bring(verified), settings, draft=bring(small))

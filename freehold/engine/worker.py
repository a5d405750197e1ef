"""The engine process: weights and arithmetic, and one descriptor to the counter.

One thread does everything: read what has come, take one step, send what it brought. It opens no
socket and listens to no signal: Ctrl-C and SIGTERM go to the whole group, and answers under way are
for the counter to finish or to give up. It ends when told to, when the pair is closed, and with its
parent, whichever comes first.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from freehold import pair
from freehold.engine.loading import load_draft, load_model, load_vocabulary
from freehold.engine.runner import Runner
from freehold.engine.wire import (
    AnyEvent,
    AnyToEngine,
    AskStats,
    Attach,
    Attached,
    Cancel,
    Close,
    Configure,
    Detach,
    Embed,
    Fatal,
    Generate,
    Loading,
    Note,
    Pool,
    Read,
    Ready,
    Score,
    Stats,
    event_frames,
    read_to_engine,
)
from freehold.errors import EngineError, FreeholdError, ProtocolError
from freehold.faults import fault_of
from freehold.pair import Link, frame
from freehold.store import Store, verify


def run(fd: int, loaded: Callable[[], None] | None = None) -> int:
    """Serve the counter at the other end of socket ``fd`` until it is done; the exit status.

    ``loaded`` is called once the models are there and their packs are kept.
    """
    pair.outlive_nobody()
    return pair.run(
        fd,
        read_to_engine,
        lambda link: _serve(link, loaded),
        failure=lambda why: EngineError(f"the engine process failed: {why}"),
        fatal=Fatal,
    )


def _serve(link: Link[AnyToEngine], loaded: Callable[[], None] | None) -> None:
    settings = pair.first(link, Configure).settings
    teller = _Teller(link)
    model, draft = load_model(settings, teller), load_draft(settings, teller)
    if loaded is not None:
        loaded()
    digest = model.card.digest
    runner = Runner(
        model,
        settings,
        draft=draft,
        vocabulary=lambda: load_vocabulary(settings, digest),
        fetch=lambda name: verify(Store(Path(settings.root)), name, keep=False),
    )
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
        case Embed():
            return list(event_frames(runner.embed(message)))
        case Pool():
            return list(event_frames(runner.pool(message)))
        case Attach() | Detach() | AskStats():
            return [frame(_told(runner, message))]
        case Cancel(request):
            runner.cancel(request)
        case Read(request, amount):
            runner.read(request, amount)
        case _:
            raise ProtocolError(f"the engine was sent {type(message).__name__} out of turn")
    return []


def _told(runner: Runner, message: Attach | Detach | AskStats) -> Attached | Stats:
    if isinstance(message, AskStats):
        return Stats(message.request, runner.stats())
    try:
        if isinstance(message, Attach):
            made = runner.adapters.attach(message.name, message.digest)
            return Attached(message.request, made.nbytes)
        runner.adapters.detach(message.name)
        return Attached(message.request)
    except FreeholdError as error:
        return Attached(message.request, fault=fault_of(error))


class _Teller:
    """Tells the counter of each percent, and of what is to be known."""

    def __init__(self, link: Link[AnyToEngine]) -> None:
        self._link = link
        self._said = ("", -1)

    def progress(self, what: str, done: int, total: int) -> None:
        now = (what, 100 * done // max(total, 1))
        if now != self._said:
            self._said = now
            self._link.send([frame(Loading(what, done, total))])

    def note(self, line: str) -> None:
        self._link.send([frame(Note(line))])

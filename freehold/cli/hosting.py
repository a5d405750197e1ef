"""Bring a model from the vault to life: an engine process, and the codec that speaks to it."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from freehold.cli.gating import Draft, admit, foresee
from freehold.cli.output import Bar
from freehold.cli.places import pack_secret, root
from freehold.cli.settings import Settings, dtype_of
from freehold.errors import FreeholdError, IntegrityError

if TYPE_CHECKING:
    from freehold.cli.home import Home
    from freehold.cli.upstream import Upstream, Warden
    from freehold.engine.child import Child
    from freehold.engine.client import EngineProcess
    from freehold.engine.wire import EngineSettings, Readout
    from freehold.types import Codec, Engine


@dataclass(frozen=True, kw_only=True)
class Living:
    """A running engine and the codec of the same model."""

    name: str
    engine: Engine
    codec: Codec
    process: EngineProcess


@contextmanager
def starting(
    settings: Settings,
    home: Home,
    upstream: Upstream | None = None,
    readout: Readout | None = None,
) -> Iterator[Child]:
    """Start the engine process of ``settings.model``, locked as ``home`` orders, and unless the
    gate refuses have it load, while this process imports what it needs itself. At the end it is
    gone, whether ``living`` has taken it over or not. With an ``upstream`` it is the process that
    asks there. Called after ``home.shut_files``: who is to
    be ended must be inside."""
    import msgspec

    from freehold.engine.child import reach_of, spawn

    secret = pack_secret() if settings.backend == "native" else None
    if upstream is None:
        child = spawn(home.order("engine", reach_of(root(), secret, settings.device)))
    else:
        reach = reach_of(root(), None, "cpu")
        order = home.order("remote", reach, peers=upstream.peers)
        child = spawn(order, "freehold.engine.remote")
    # A vocabulary is 300,000 objects that stay: looking through them again and again for garbage
    # would take a fifth of the counter's start.
    gc.disable()
    try:
        # The gate speaks while the child is still importing: until then, it is told nothing.
        wanted = _engine_settings(settings, foresee(settings), upstream)
        child.configure(msgspec.structs.replace(wanted, readout=readout))
        yield child
    finally:
        gc.enable()
        child.end()


@asynccontextmanager
async def living(
    settings: Settings,
    bar: Bar,
    child: Child | None = None,
    upstream: Upstream | None = None,
    warden: Warden | None = None,
) -> AsyncIterator[Living]:
    """The engine that ``starting`` began (or one begun now), once it answers, and its codec;
    stopped at the end.

    Both sides verify for themselves what they use: the counter the tokenizer and the template, the
    engine the weights; neither trusts the other's word for what lies on disk.

    Raises ``NotFoundError``, ``IntegrityError``, ``GateError`` or ``EngineError``.
    """
    from freehold.engine.client import EngineProcess

    name = settings.model
    draft = foresee(settings) if child is None else Draft(name=settings.draft)
    wanted = _engine_settings(settings, draft, upstream)
    # In a thread, so that the bar moves meanwhile.
    speaking = asyncio.create_task(asyncio.to_thread(_codec, settings, bar, upstream, warden))
    listening = None if warden is None else asyncio.create_task(warden.listen())
    try:
        engine = await _first(
            EngineProcess.start(wanted, progress=bar, child=child), listening, speaking
        )
        if warden is not None:
            warden.check()
    except FreeholdError:
        await speaking  # what the gate or the digests refuse says more than how loading failed
        raise
    except BaseException:
        speaking.cancel()
        raise
    try:
        codec, digest = await speaking
        gc.freeze()
        gc.enable()
        # A live bar would keep the terminal's output to itself, and with it line editing.
        bar.close()
        if engine.card.digest != digest:
            raise IntegrityError(
                f"{name} changed on disk while it was being loaded: run `freehold verify {name}`"
            )
        yield Living(name=name, engine=engine, codec=codec, process=engine)
    finally:
        await engine.close()


async def _first(
    starting: Coroutine[Any, Any, EngineProcess],
    listening: asyncio.Task[None] | None,
    speaking: asyncio.Task[tuple[Codec, str]],
) -> EngineProcess:
    """The engine once it answers; what keeps it from ever doing so is raised at once, where it
    waits for another program."""
    start = asyncio.create_task(starting)
    others = set() if listening is None else {listening, speaking}
    while not start.done():
        done, _ = await asyncio.wait({start, *others}, return_when=asyncio.FIRST_COMPLETED)
        others -= done
        for task in done - {start}:
            if (error := task.exception()) is not None:
                start.cancel()
                await asyncio.gather(start, return_exceptions=True)
                raise error
    return await start


def _codec(
    settings: Settings, bar: Bar, upstream: Upstream | None, warden: Warden | None
) -> tuple[Codec, str]:
    """The model's codec, and its digest. Whoever reads the whole model itself is told to begin."""
    from freehold.qwen import codec
    from freehold.qwen.pack import LAYOUT, choice_of
    from freehold.store import Packs, Store, verify

    store, found = Store(root()), None
    native = settings.backend == "native" and upstream is None
    if native:
        found = Packs(store, pack_secret()).open_head(settings.model, layout=LAYOUT)
    if found is None:
        found = verify(store, settings.model, keep=False)
    admit(found, settings, "serve")
    choice = choice_of(found, "8bit")
    if native and choice != "file":
        bar.note(
            f"plain floating-point weights are rounded to {choice[0]} bits (see `freehold pack`); "
            "--backend torch keeps them"
        )
    if warden is not None:
        warden.begin(found)
    return codec.load(found), found.digest


def _engine_settings(
    settings: Settings, draft: Draft, upstream: Upstream | None = None
) -> EngineSettings:
    from freehold.engine.wire import EngineSettings

    return EngineSettings(
        root=str(root()),
        secret=str(pack_secret()),
        model=settings.model,
        backend=settings.backend,
        dtype=dtype_of(settings),
        device=settings.device,
        threads=settings.threads or None,
        speculate=settings.speculate,
        draft=draft.name,
        draft_digest=draft.digest,
        cache_tokens=settings.cache_tokens,
        max_running=settings.max_running,
        max_waiting=settings.max_waiting,
        remote=None if upstream is None else upstream.remote,
    )

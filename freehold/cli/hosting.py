"""Bring a model from the vault to life: an engine process, and the codec that speaks to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from freehold.cli.output import Bar
from freehold.cli.places import root
from freehold.cli.settings import Settings
from freehold.errors import IntegrityError

if TYPE_CHECKING:
    from freehold.engine.child import Child
    from freehold.engine.wire import EngineSettings
    from freehold.types import Codec, Engine, VerifiedModel


@dataclass(frozen=True, kw_only=True)
class Living:
    """A running engine and the codec of the same model."""

    name: str
    engine: Engine
    codec: Codec


def holds_plain_floats(model: VerifiedModel) -> bool:
    """Whether any matrix is not quantised yet, in whichever format: the native kernels round it."""
    return any(
        len(tensor.shape) == 2 and tensor.dtype in ("F32", "F16", "BF16")
        for tensor in model.tensors.values()
    )


@contextmanager
def starting(settings: Settings) -> Iterator[Child]:
    """Start the engine process of ``settings.model`` and have it load, while this process imports
    what it needs itself. At the end it is gone, whether ``living`` has taken it over or not."""
    from freehold.engine.child import spawn

    child = spawn()
    try:
        child.configure(_engine_settings(settings))
        yield child
    finally:
        child.end()


@asynccontextmanager
async def living(settings: Settings, bar: Bar, child: Child | None = None) -> AsyncIterator[Living]:
    """The engine that ``starting`` began (or one begun now), once it answers, and its codec;
    stopped at the end.

    Both sides verify for themselves: the counter takes only the tokenizer and the template, the
    engine only the weights, and neither trusts the other's word for what lies on disk.

    Raises ``NotFoundError``, ``IntegrityError`` or ``EngineError``.
    """
    from freehold.engine.client import EngineProcess

    name = settings.model
    # In a thread, so that the bar moves meanwhile.
    speaking = asyncio.create_task(asyncio.to_thread(_codec, settings, bar))
    try:
        engine = await EngineProcess.start(_engine_settings(settings), progress=bar, child=child)
    except BaseException:
        speaking.cancel()
        raise
    try:
        codec, digest = await speaking
        # A live bar would keep the terminal's output to itself, and with it line editing.
        bar.close()
        if engine.card.digest != digest:
            raise IntegrityError(
                f"{name} changed on disk while it was being loaded: run `freehold verify {name}`"
            )
        yield Living(name=name, engine=engine, codec=codec)
    finally:
        await engine.close()


def _codec(settings: Settings, bar: Bar) -> tuple[Codec, str]:
    """The model's codec, and its digest."""
    from freehold.qwen import codec
    from freehold.store import Store, verify

    verified = verify(Store(root()), settings.model)
    if settings.backend == "native" and holds_plain_floats(verified):
        bar.note("plain floating-point weights are rounded to 8 bits; --backend torch keeps them")
    return codec.load(verified), verified.digest


def _engine_settings(settings: Settings) -> EngineSettings:
    from freehold.engine.wire import EngineSettings

    return EngineSettings(
        root=str(root()),
        model=settings.model,
        backend=settings.backend,
        dtype=settings.dtype,
        device=settings.device,
        threads=settings.threads or None,
        cache_tokens=settings.cache_tokens,
        max_running=settings.max_running,
        max_waiting=settings.max_waiting,
    )

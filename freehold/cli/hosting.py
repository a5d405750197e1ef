"""Bring a model from the vault to life: an engine process, and the codec that speaks to it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from freehold.cli.output import Bar
from freehold.cli.places import root
from freehold.cli.settings import Settings
from freehold.errors import IntegrityError

DRAFT_RATIO = 4
"""How many times smaller a draft is, at least, for ``auto`` to take it: at two and a half times,
what it wins for new code it loses for prose."""

if TYPE_CHECKING:
    from freehold.cli.home import Home
    from freehold.store import Store
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


def draft_for(model: VerifiedModel, settings: Settings, store: Store) -> str:
    """The model that guesses ahead for ``model``: the one the owner named, or with ``auto`` the
    smallest one in the vault that is small enough to help; empty for none."""
    from freehold.qwen.tokenizer import same_vocabulary
    from freehold.store import verify

    if settings.speculate == "off" or settings.backend != "native" or settings.draft == "off":
        return ""
    if settings.draft != "auto":
        return settings.draft
    sizes = {found.name: sum(file.size for file in found.files) for found in store.list()}
    most = sizes[model.name] // DRAFT_RATIO
    small = sorted((size, name) for name, size in sizes.items() if size <= most)
    # Only the smallest is looked at: whoever keeps several names the one that is meant.
    for _, name in small[:1]:
        if same_vocabulary(model, verify(store, name)):
            return name
    return ""


@asynccontextmanager
async def living(
    name: str, settings: Settings, bar: Bar, home: Home | None = None
) -> AsyncIterator[Living]:
    """Verify ``name``, start its engine process, and stop it at the end.

    The engine is locked as ``home`` orders; without one, locked with nobody to watch over it.

    Both sides verify for themselves: the counter takes only the tokenizer and the template, the
    engine only the weights, and neither trusts the other's word for what lies on disk.

    Raises ``NotFoundError``, ``IntegrityError`` or ``EngineError``.
    """
    from freehold.engine import EngineProcess, EngineSettings
    from freehold.engine.client import reach_of
    from freehold.qwen import codec
    from freehold.store import Store, verify

    store = Store(root())
    verified = verify(store, name)
    if settings.backend == "native" and holds_plain_floats(verified):
        bar.note("plain floating-point weights are rounded to 8 bits; --backend torch keeps them")
    draft = draft_for(verified, settings, store)
    if draft:
        bar.note(f"{draft} guesses ahead for {name}; what {name} answers stays the same")
    told = EngineSettings(
        root=str(root()),
        model=verified.name,
        backend=settings.backend,
        dtype=settings.dtype,
        device=settings.device,
        threads=settings.threads or None,
        cache_tokens=settings.cache_tokens,
        max_running=settings.max_running,
        max_waiting=settings.max_waiting,
        speculate=settings.speculate,
        draft=draft,
    )
    order = home.order("engine", reach_of(told)) if home else None
    engine = await EngineProcess.start(told, progress=bar, order=order)
    # A live bar would keep the terminal's output to itself, and with it line editing.
    bar.close()
    try:
        if engine.card.digest != verified.digest:
            raise IntegrityError(
                f"{name} changed on disk while it was being loaded: run `freehold verify {name}`"
            )
        yield Living(name=verified.name, engine=engine, codec=codec.load(verified))
    finally:
        await engine.close()

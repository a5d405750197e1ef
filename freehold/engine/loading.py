"""From the store to a model that answers: out of its pack, or out of its source, then packed."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Protocol, cast

import msgspec

from freehold.engine.candidate import draft_candidate
from freehold.engine.wire import EngineSettings
from freehold.errors import IntegrityError, StorageError, UsageError
from freehold.qwen.model import Model, load
from freehold.qwen.pack import LAYOUT, WeightChoice
from freehold.qwen.tokenizer import Tokenizer, same_vocabulary, tokenizer_of
from freehold.store import Packs, Record, Store, verify
from freehold.types import VerifiedModel


class Report(Protocol):
    """Who is told how far it has come, in bytes, and what the owner should know."""

    def progress(self, what: str, done: int, total: int) -> None: ...

    def note(self, line: str) -> None: ...


def load_model(settings: EngineSettings, report: Report) -> Model:
    """The model that ``settings`` name, in the back end that they name.

    The native back end computes on the model's pack. Where there is none, the source is verified
    and packed, and the pack is written for the next start; a disk that does not take it costs the
    next start its speed, and is noted.
    """
    if settings.backend not in ("native", "torch"):
        raise UsageError(f"backend is {settings.backend!r}: take native or torch", param="backend")
    if settings.dtype not in ("float32", "bfloat16", "int8"):
        raise UsageError(
            f"dtype is {settings.dtype!r}: take float32, bfloat16 or int8", param="dtype"
        )
    store = Store(Path(settings.root))
    if settings.backend == "torch" or settings.secret is None:
        return _load(verify(store, settings.model), settings, report)
    packs = Packs(store, Path(settings.secret))
    if found := packs.open(settings.model, layout=LAYOUT):
        return _load(found, settings, report)
    source = verify(store, settings.model, keep=False)  # read once more, piece by piece
    record = packs.record(settings.model)
    model = _load(source, settings, report, choice_before(record))
    _keep(packs, source, model, record, report)
    return model


def load_draft(settings: EngineSettings, report: Report) -> Model | None:
    """The smaller model that guesses ahead, if there is to be one (``draft_candidate``).

    Raises ``UsageError`` if the one that is named has another vocabulary, ``IntegrityError`` if it
    is not the one that the gate has let pass, and what loading raises.
    """
    store = Store(Path(settings.root))
    name = draft_candidate(store, settings)
    if name is None:
        return None
    if not same_vocabulary(_head(store, settings, settings.model), _head(store, settings, name)):
        if settings.draft == "auto":
            return None
        raise UsageError(
            f"{name} has another vocabulary than {settings.model}, so its tokens mean something "
            "else: take a smaller model of the same family as draft",
            param="draft",
        )
    report.note(f"{name} guesses ahead; what {settings.model} answers stays the same")
    draft = load_model(msgspec.structs.replace(settings, model=name), report)
    if settings.draft_digest not in ("", draft.card.digest):
        raise IntegrityError(f"{name} is not the model that the gate let pass: start again")
    return draft


def load_vocabulary(settings: EngineSettings, digest: str) -> Tokenizer:
    """The tokenizer of the model that ``settings`` name, which must still be the one of ``digest``.

    Raises what verifying raises, and ``IntegrityError`` if it is another model by now.
    """
    found = _head(Store(Path(settings.root)), settings, settings.model)
    if found.digest != digest:
        raise IntegrityError(
            f"{settings.model} changed on disk since it was loaded: start Freehold again"
        )
    return tokenizer_of(found)


def _head(store: Store, settings: EngineSettings, name: str) -> VerifiedModel:
    """All of a model but its weights."""
    found = None
    if settings.secret is not None:
        found = Packs(store, Path(settings.secret)).open_head(name, layout=LAYOUT)
    return found or verify(store, name, keep=False)


def choice_before(record: Record | None) -> WeightChoice:
    """The owner's choice outlives the pack that was made with it."""
    return "4bit" if record is not None and record.weights == "4bit" else "8bit"


def _load(
    found: VerifiedModel,
    settings: EngineSettings,
    report: Report,
    weights: WeightChoice = "8bit",
) -> Model:
    return load(
        found,
        backend="native" if settings.backend == "native" else "torch",
        dtype=cast("Literal['float32', 'bfloat16', 'int8']", settings.dtype),
        device=settings.device,
        weights=weights,
        threads=settings.threads,
        cache_tokens=settings.cache_tokens,
        page_size=settings.page_size,
        progress=lambda done, total: report.progress("Loading", done, total),
    )


def _keep(
    packs: Packs, source: VerifiedModel, model: Model, record: Record | None, report: Report
) -> None:
    assert model.packed is not None, "the native back end packs"
    same = record is not None and (record.layout, record.weights) == (LAYOUT, model.packed.weights)
    try:
        packs.write(
            source,
            model.packed,
            layout=LAYOUT,
            quality=record.quality if record is not None and same else None,
            progress=lambda done, total: report.progress("Keeping the pack of", done, total),
        )
    except StorageError as error:
        report.note(str(error))

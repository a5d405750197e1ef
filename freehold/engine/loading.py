"""From the store to a model that answers: out of its pack, or out of its source, then packed."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from freehold.engine.wire import EngineSettings
from freehold.errors import StorageError, UsageError
from freehold.qwen.model import Model, load
from freehold.qwen.pack import LAYOUT, WeightChoice
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
    if settings.dtype not in ("float32", "bfloat16"):
        raise UsageError(f"dtype is {settings.dtype!r}: take float32 or bfloat16", param="dtype")
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
        dtype="float32" if settings.dtype == "float32" else "bfloat16",
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

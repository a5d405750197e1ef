"""Packing on purpose: the owner chooses how plain floats are rounded, and is told what it costs."""

from __future__ import annotations

import importlib.util

from freehold.engine.loading import Report, choice_before
from freehold.errors import UsageError
from freehold.qwen import closeness, codec
from freehold.qwen.model import Model, load
from freehold.qwen.pack import LAYOUT, WeightChoice, choice_of
from freehold.store import Packs, Quality, Record, Store, verify
from freehold.types import PackedWeights, VerifiedModel

_TOKENS = 2048
"""Room for the whole text in any Qwen's tokens."""

UNMEASURED = "not measured: needs the extra `lab` (`pip install 'freehold[lab]'`)"


def pack_model(
    store: Store,
    packs: Packs,
    name: str,
    *,
    weights: WeightChoice | None,
    again: bool,
    threads: int | None,
    report: Report,
) -> Record:
    """The record of a sound pack of the model: the one there is, if it is what is asked for, else a
    new one, with its mean KL to the float32 reference where PyTorch is installed.

    ``again`` makes a new one in any case; ``weights`` of ``None`` keeps the choice made before, 8
    bits at first. Raises ``UsageError`` for a choice where there is none, ``NotFoundError``,
    ``IntegrityError`` or ``StorageError``.
    """
    if again:
        packs.remove(name)
    before = packs.record(name)
    found = None if before is None else packs.open(name, layout=LAYOUT)
    if found is not None and before is not None and weights in (None, before.weights):
        return before
    source = verify(store, name, keep=False)
    wanted = weights or choice_before(before)
    if weights is not None and choice_of(source, weights) == "file":
        raise UsageError(
            f"{name} holds codes of its file's own choosing, which are kept: --weights is for "
            "models of plain floats. Run `freehold pack` without it.",
            param="weights",
        )
    model, packed = _packed(source, wanted, threads, report)
    return packs.write(
        source,
        packed,
        layout=LAYOUT,
        quality=_quality(source, model, report),
        progress=lambda done, total: report.progress("Keeping the pack of", done, total),
    )


def rebuilt(store: Store, name: str, *, weights: str, threads: int | None, report: Report) -> str:
    """The BLAKE3 of the pack that the model's source gives with the choice ``weights``. Nothing is
    written. Raises as ``store.verify`` does."""
    source = verify(store, name, keep=False)
    choice: WeightChoice = "4bit" if weights == "4bit" else "8bit"
    _, packed = _packed(source, choice, threads, report)
    return Packs.digest_of(source, packed, layout=LAYOUT)


def _packed(
    source: VerifiedModel, weights: WeightChoice, threads: int | None, report: Report
) -> tuple[Model, PackedWeights]:
    model = load(
        source,
        backend="native",
        weights=weights,
        threads=threads,
        cache_tokens=_TOKENS,
        progress=lambda done, total: report.progress("Packing", done, total),
    )
    assert model.packed is not None, "the native back end packs"
    return model, model.packed


def _quality(source: VerifiedModel, model: Model, report: Report) -> Quality | None:
    if model.packed is None or model.packed.weights == "file":
        return None
    if importlib.util.find_spec("torch") is None:
        report.note(f"mean KL to the source's own values {UNMEASURED}")
        return None
    ids = codec.load(source).text(closeness.text())[: min(_TOKENS, model.card.context)]
    reference = load(
        source,
        backend="torch",
        cache_tokens=_TOKENS,
        progress=lambda done, total: report.progress("Loading, for comparison,", done, total),
    )
    kl = closeness.mean_kl(reference, model, ids)
    return Quality(
        kl=f"{kl:.4g}",
        tokens=len(ids),
        text=closeness.text_digest(),
        reference=reference.card.numerics,
    )

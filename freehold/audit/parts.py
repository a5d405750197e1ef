"""The parts of an audit, in the order in which they are done."""

from __future__ import annotations

from freehold.audit import artefact, rates
from freehold.audit.findings import Examination
from freehold.audit.running import Context, Part
from freehold.audit.specimen import read
from freehold.errors import MalformedError
from freehold.qwen.tokenizer import Tables

_BYTES_PER_SECOND = 120e6
"""Weights looked at per second and core where every value is needed (measured, with room)."""


def reference(context: Context) -> tuple[Tables | None, str]:
    """Whose tokenizer to compare with: the base's, else that of a model of the vault's."""
    if context.base is not None:
        try:
            return context.base.tables(), context.base.name
        except MalformedError:
            return None, ""
    for name in context.candidates:
        if context.store.manifest(name).attested == "catalog":
            return read(context.store, name).tables(), name
    return None, ""


def _artefact(context: Context) -> Examination:
    tables, name = reference(context)
    looked = artefact.examine(
        context.specimen,
        base=context.base,
        reference=tables,
        reference_name=name,
        entries=context.entries,
        steps=context.steps,
    )
    return Examination(
        part="artefact",
        title=artefact.TITLE,
        tried=artefact.TRIED,
        misses=artefact.MISSES,
        findings=tuple(looked.findings),
        rates=rates.of("files", "template", "tokenizer", "config", "served"),
        figures=looked.figures,
        seconds=0.0,
    )


def _size(context: Context) -> float:
    both = [context.specimen] if context.base is None else [context.specimen, context.base]
    return float(sum(len(view) for one in both for view in one.files.values()))


PARTS = (
    Part(
        name="artefact",
        title=artefact.TITLE,
        run=_artefact,
        cost=lambda context: 6.0 + (0 if context.base is None else _size(context) / 100e6),
        depends=lambda context: [
            context.store.manifest(name).digest for name in context.candidates
        ],
    ),
)

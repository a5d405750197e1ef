"""The parts of an audit, in the order in which they are done."""

from __future__ import annotations

from freehold.audit import artefact, asking, lineage, rates, served
from freehold.audit.backdoors import triage, words
from freehold.audit.findings import Examination
from freehold.audit.noting import fact
from freehold.audit.running import Context, Part
from freehold.audit.specimen import read
from freehold.errors import MalformedError
from freehold.qwen.tokenizer import Tables

_BYTES_PER_SECOND = 120e6
"""Bytes of weights multiplied out and compared per second and core, roughly."""


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


def _lineage(context: Context) -> Examination:
    traced = lineage.examine(
        context.specimen,
        base=context.base,
        candidates=context.candidates,
        opened=lambda name: read(context.store, name),
        seed=context.seed,
        steps=context.steps,
    )
    return Examination(
        part="lineage",
        title=lineage.TITLE,
        tried=lineage.TRIED,
        misses=lineage.MISSES,
        findings=tuple(traced.findings),
        rates=rates.of("lineage", "kinship"),
        figures=traced.figures,
        seconds=0.0,
    )


def _served(context: Context) -> Examination:
    name = context.specimen.name
    if context.specimen.manifest is None:
        told = "Only a model of the vault is served: pull it first."
        looked = served.Served(
            findings=[fact("served.untried", "info", "Not served from here", told, name)],
            figures={},
        )
    else:
        looked = served.examine(context.store, context.packs, name, context.steps)
    return Examination(
        part="served",
        title=served.TITLE,
        tried=served.TRIED,
        misses=served.MISSES,
        findings=tuple(looked.findings),
        figures=looked.figures,
        seconds=0.0,
    )


def _pack_state(context: Context) -> str:
    """Which pack there is: a part about it is done anew for another."""
    manifest = context.specimen.manifest
    if context.packs is None or manifest is None:
        return ""
    record = context.packs.record(manifest.name)
    return "" if record is None else record.blake3


def _others(context: Context) -> list[str]:
    return [context.store.manifest(name).digest for name in context.candidates]


def _size(context: Context) -> float:
    both = [context.specimen] if context.base is None else [context.specimen, context.base]
    return float(sum(len(view) for one in both for view in one.files.values()))


PARTS = (
    Part(
        name="artefact",
        title=artefact.TITLE,
        run=_artefact,
        cost=lambda context: 6.0 + (0 if context.base is None else _size(context) / 100e6),
        depends=_others,
    ),
    Part(
        name="lineage",
        title=lineage.TITLE,
        run=_lineage,
        cost=lambda context: (
            5.0 * len(context.candidates)
            if context.base is None
            else 5.0 + _size(context) / _BYTES_PER_SECOND * 8
        ),
        depends=_others,
    ),
    Part(
        name="served",
        title=served.TITLE,
        run=_served,
        cost=lambda context: (
            1.0 if context.specimen.manifest is None else 5 + _size(context) / 12e6
        ),
        depends=_pack_state,
    ),
    Part(
        name="backdoors",
        title=words.TITLE,
        run=triage.run,
        cost=triage.cost,
        # What was missing may have been installed since.
        depends=triage.missing,
        with_base=True,
    ),
    *asking.PARTS,
)

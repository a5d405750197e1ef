"""Lineage: what a model was made from, and what was done to it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from freehold.audit.artefact import plainly
from freehold.audit.findings import Finding, Severity, Steps
from freehold.audit.lineage.delta import Change, Story, compare, story
from freehold.audit.lineage.kinship import RELATED, Kinship, kinship
from freehold.audit.noting import fact
from freehold.audit.specimen import Specimen
from freehold.errors import MalformedError

TITLE = "Lineage"
TRIED = (
    "Against a base of the same shape every tensor was subtracted: how large the difference is, "
    "what of it rounding alone explains, and how many directions it has (singular values above the "
    "edge of noise). The MLP's neurons were paired with those of the base, or of the vault's "
    "models where no base is named, by their gate rows and again by their up rows: pairings that "
    "agree mean a common origin."
)
MISSES = (
    "Directions that drown in rounding: after 4 bits, a LoRA below about a tenth of the weights' "
    "size. The ranks of several adapters merged on top of each other, of which the sum is told. "
    "Models whose residual stream was rotated or whose width is another, models distilled from "
    "others, and bases that are not in the vault. What the changed weights do."
)
_SHOWN = 12


@dataclass(frozen=True, kw_only=True)
class Traced:
    """What was found out, and figures for plots."""

    findings: list[Finding]
    figures: dict[str, Any]


def examine(
    specimen: Specimen,
    *,
    base: Specimen | None,
    candidates: Sequence[str],
    opened: Callable[[str], Specimen],
    seed: int,
    steps: Steps,
) -> Traced:
    """``candidates`` are names that ``opened`` opens; they are looked at where no base is named or
    the named one is no relative."""
    mine = plainly(specimen)
    if not mine:
        told = "Its configuration cannot be read, so its tensors have no meaning to compare."
        return Traced(findings=[fact("lineage.unread", "info", "Not compared", told)], figures={})
    found: list[Finding] = []
    kin: dict[str, Kinship] = {}
    chosen = base
    if base is not None:
        relation = _relation(specimen, mine, base, seed, steps)
        if relation is not None:
            kin[base.name] = relation
    else:
        chosen, kin, skipped = _search(specimen, mine, candidates, opened, seed, steps)
        found += _searched(kin, skipped, chosen)
    changes: list[Change] = []
    if chosen is not None:
        changes = compare(mine, plainly(chosen), seed, steps)
        found += _told(specimen, chosen, story(changes), changes, kin.get(chosen.name), base)
    return Traced(findings=found, figures=_figures(changes, kin))


def _relation(
    specimen: Specimen, mine: Mapping[str, Any], other: Specimen, seed: int, steps: Steps
) -> Kinship | None:
    try:
        n_layers = min(specimen.config().n_layers, other.config().n_layers)
    except MalformedError:
        return None
    theirs = plainly(other)
    return kinship(mine, theirs, n_layers=n_layers, seed=seed, steps=steps, what=other.name)


def _search(  # noqa: PLR0917
    specimen: Specimen,
    mine: Mapping[str, Any],
    candidates: Sequence[str],
    opened: Callable[[str], Specimen],
    seed: int,
    steps: Steps,
) -> tuple[Specimen | None, dict[str, Kinship], list[str]]:
    """The nearest relative, every kinship by name, and the models that could not be compared."""
    kin: dict[str, Kinship] = {}
    skipped, best = [], None
    for name in candidates:
        other = opened(name)
        relation = _relation(specimen, mine, other, seed, steps)
        if relation is None:
            skipped.append(name)
            continue
        kin[name] = relation
        nearer = best is None or relation.log10_p < kin[best.name].log10_p
        if relation.related and nearer:
            best = other
    return best, kin, skipped


def _searched(
    kin: Mapping[str, Kinship], skipped: Sequence[str], chosen: Specimen | None
) -> list[Finding]:
    found = []
    if skipped:
        told = f"Their widths are others, so rows cannot be paired: {', '.join(skipped)}."
        found.append(fact("lineage.skipped", "info", "Not comparable", told))
    if kin and chosen is None:
        told = "; ".join(f"{name}: p = 1e{one.log10_p:.1f}" for name, one in kin.items())
        told = f"Neurons pair up with none of the vault's models better than by chance ({told})."
        found.append(
            fact("kinship.none", "info", "No relative in the vault", told, certainty="anomaly")
        )
    if not kin and not skipped:
        told = "The vault holds no other model, and no base was named (`--against`)."
        found.append(fact("lineage.alone", "info", "Nothing to compare with", told))
    return found


# --- what is said ---------------------------------------------------------------------------------


def sentence(base: str, told: Story) -> str:
    """The lineage in one sentence."""
    size = f"by {told.relative:.2%} of the weights' size"
    rows = f"{len(told.rows)} tokens' rows" if told.rows else "the tables of tokens"
    return {
        "same": f"This has the very weights of {base}.",
        "rounded": f"This is {base} with its weights rounded, and nothing else.",
        "lora": f"This is a rank-{told.rank} fine-tune of {base} touching {told.touched}.",
        "rows": f"This is {base} with {rows} changed ({told.touched}).",
        "vectors": f"This is {base} with only norms or biases changed ({told.touched}).",
        "full": f"This is {base} changed in every direction ({size}; no rank is claimed), in "
        f"{told.touched}.",
        "unrelated": f"This was not made from {base}: they share a shape and no more.",
    }[told.kind]


def _told(  # noqa: PLR0917
    specimen: Specimen,
    base: Specimen,
    told: Story,
    changes: Sequence[Change],
    relation: Kinship | None,
    named: Specimen | None,
) -> list[Finding]:
    evidence: dict[str, Any] = {
        "base": base.name,
        "base_digest": base.digest,
        "kind": told.kind,
        "rank": told.rank,
        "touched": told.touched,
        "relative": round(told.relative, 8),
    }
    if not changes:
        told_ = f"{base.name} has no tensor of the same name and shape."
        return [fact("lineage.shape", "info", "Another shape than the base", told_)]
    severity: Severity = "info"
    detail = _numbers(changes)
    if told.kind == "unrelated":
        kin = relation is not None and relation.related
        severity = "high" if named is not None and not kin else "info"
        if kin:
            detail = f"Its neurons are those of {base.name} in another order or scale. {detail}"
    if told.kind == "rows":
        severity = "medium"
        detail = f"Ids {', '.join(map(str, told.rows[:40]))}. {detail}" if told.rows else detail
        evidence["rows"] = list(told.rows[:1000])
    if relation is not None:
        evidence["log10_p"] = round(relation.log10_p, 2)
        detail += f" Chance that the two are strangers: 1e{relation.log10_p:.0f}."
    return [
        fact(
            f"lineage.{told.kind}",
            severity,
            sentence(base.name, told),
            detail,
            specimen.name,
            certainty="fact" if told.kind == "same" else "anomaly",
            evidence=evidence,
        )
    ]


def _numbers(changes: Sequence[Change]) -> str:
    beyond = [one for one in changes if one.beyond]
    equal = sum(one.relative == 0 for one in changes)
    told = f"Of {len(changes)} tensors {equal} are the base's to the bit, as they are stored here"
    if not beyond:
        return f"{told}, and the others differ by no more than rounding explains."
    top = max(beyond, key=lambda one: one.relative if math.isfinite(one.relative) else 1e9)
    return f"{told} and {len(beyond)} differ beyond rounding, most {top.name} ({top.relative:.3%})."


# --- figures --------------------------------------------------------------------------------------


def _figures(changes: Sequence[Change], kin: Mapping[str, Kinship]) -> dict[str, Any]:
    plots: list[dict[str, Any]] = []
    if kin:
        plots.append(
            {
                "kind": "bars",
                "title": "How surely each model is a relative",
                "note": f"-log10 of the chance of strangers; above {-RELATED:.0f} counts",
                "x": list(kin),
                "y": [round(max(0.0, -one.log10_p), 1) for one in kin.values()],
                "unit": "",
            }
        )
    tables = []
    if changes:
        plots += [_heat(changes), *_spectra(changes)]
        top = sorted(changes, key=lambda one: -one.relative)[:_SHOWN]
        rows = [
            [
                one.name,
                f"{one.relative:.3%}",
                f"{one.noise:.3%}",
                "-" if one.spectrum is None or one.spectrum.rank is None else one.spectrum.rank,
            ]
            for one in top
            if one.relative
        ]
        head = ["tensor", "difference", "rounding explains", "rank"]
        tables.append({"title": "The most changed tensors", "head": head, "rows": rows})
    return {"plots": plots, "tables": tables}


def _heat(changes: Sequence[Change]) -> dict[str, Any]:
    held = {
        (one.module, one.layer): one.relative
        for one in changes
        if one.layer is not None and one.spectrum is not None and math.isfinite(one.relative)
    }
    layers = sorted({one.layer for one in changes if one.layer is not None})
    modules = ["q", "k", "v", "o", "gate", "up", "down"]
    return {
        "kind": "heat",
        "title": "Where the weights differ",
        "note": "difference over the base's size, by module and layer",
        "rows": modules,
        "columns": [str(layer) for layer in layers],
        "values": [[held.get((m, layer), 0.0) for layer in layers] for m in modules],
        "unit": "of the base",
    }


def _spectra(changes: Sequence[Change]) -> list[dict[str, Any]]:
    held = [
        one for one in changes if one.spectrum is not None and one.beyond and one.layer is not None
    ]
    top = sorted(held, key=lambda one: -one.relative)[:3]
    if not top:
        return []
    series = [
        {
            "name": one.name.removeprefix("model.layers."),
            "y": [float(f"{value:.4g}") for value in one.spectrum.values[:128] if value > 0],
        }
        for one in top
        if one.spectrum is not None
    ]
    edges = [one.spectrum.edge for one in top if one.spectrum is not None and one.spectrum.edge > 0]
    return [
        {
            "kind": "lines",
            "title": "Singular values of the difference",
            "note": "a cliff after r values means that r directions were added",
            "series": series,
            "log_y": True,
            "marks": [{"name": "edge of noise", "y": float(f"{max(edges):.4g}")}] if edges else [],
            "unit": "",
            "x_unit": "which, the largest first",
        }
    ]

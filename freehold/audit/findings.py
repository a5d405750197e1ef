"""What an examination says: the doors between the laboratory's parts.

Each part (artefact, lineage, inner logic, ...) returns an ``Examination``; the report prints them,
and the passport keeps their findings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

Severity: TypeAlias = Literal["info", "low", "medium", "high", "critical"]
"""Least first. ``info`` tells a fact; from ``high`` on the gate refuses."""

Certainty: TypeAlias = Literal["fact", "anomaly", "confirmed"]
"""``fact``: follows from the bytes alone. ``anomaly``: a statistic stands out. ``confirmed``: what
the finding claims was made to happen (the recovered trigger fired)."""


@dataclass(frozen=True, kw_only=True)
class ErrorRates:
    """How often a detector was right where the truth was known: ``found`` of ``planted`` cases,
    ``alarms`` on ``clean`` ones. ``bed`` names the cases, ``command`` measures again."""

    found: int
    planted: int
    alarms: int
    clean: int
    bed: str
    command: str


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One result. ``check`` names what found it (``template.content-branch``); ``where`` the place
    (a file and line, a tensor, a token id, a layer); ``evidence`` is plain JSON data."""

    check: str
    severity: Severity
    certainty: Certainty
    title: str
    detail: str
    where: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Examination:
    """One part of an audit. ``tried`` and ``misses`` are sentences for the owner: what was looked
    at, and what this means would not have seen. ``rates`` holds a detector's measured error rates
    by the check's name, or by what stands before its dot where one figure is all there is for a
    group. ``seconds`` is what it took; ``seed`` and ``versions`` make it repeatable.

    ``figures`` is plain JSON data. What the report draws stands under two of its keys:
    ``plots``, each ``{"kind": "bars", "title", "x": names, "y": numbers, "unit"}``,
    ``{"kind": "lines", "title", "series": [{"name", "x", "y"}], "log_y", "marks": [{"name", "y"}],
    "unit"}`` or ``{"kind": "heat", "title", "rows", "columns", "values": rows of numbers,
    "unit"}``;
    and ``tables``, each ``{"title", "head", "rows": rows of texts or numbers}``."""

    part: str
    title: str
    tried: str
    misses: str
    findings: tuple[Finding, ...]
    rates: Mapping[str, ErrorRates] = field(default_factory=dict)
    figures: Mapping[str, Any] = field(default_factory=dict)
    seconds: float
    seed: int = 0
    versions: Mapping[str, str] = field(default_factory=dict)


class Steps(Protocol):
    """Hears how far the work is. The command line's bar is one."""

    def start(self, total: int, what: str, /) -> None: ...

    def advance(self, n: int, /) -> None: ...


def worst(findings: Sequence[Finding]) -> Severity | None:
    """The gravest severity among ``findings``; ``None`` where there are none."""
    order = ("info", "low", "medium", "high", "critical")
    return max((each.severity for each in findings), key=order.index, default=None)

"""How a finding that follows from the bytes is written down."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from freehold.audit.findings import Certainty, Finding, Severity


def fact(
    check: str,
    severity: Severity,
    title: str,
    detail: str,
    where: str = "",
    *,
    certainty: Certainty = "fact",
    evidence: Mapping[str, Any] | None = None,
) -> Finding:  # fmt: skip
    """A finding, with the arguments in the order in which a person reads them."""
    return Finding(
        check=check,
        severity=severity,
        certainty=certainty,
        title=title,
        detail=detail,
        where=where,
        evidence=evidence or {},
    )

"""What the owner is given: one page that needs nothing else, and the same as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from freehold.audit.findings import Examination, Finding
from freehold.audit.running import plain

ORDER = ("critical", "high", "medium", "low", "info")
SCHEMA = "https://freehold.example/audit/report/v1"


@dataclass(frozen=True, kw_only=True)
class Report:
    """An audit of ``model`` with ``digest``; ``base`` and ``base_digest`` are empty without one.
    ``made`` is RFC 3339 in UTC; ``command`` makes it again."""

    model: str
    digest: str
    base: str
    base_digest: str
    made: str
    tool: str
    command: str
    examinations: tuple[Examination, ...]
    versions: Mapping[str, str] = field(default_factory=dict)

    def findings(self) -> list[tuple[Examination, Finding]]:
        """All, the gravest first."""
        every = [(part, one) for part in self.examinations for one in part.findings]
        return sorted(every, key=lambda pair: ORDER.index(pair[1].severity))

    def counts(self) -> dict[str, int]:
        """How many findings of each severity, the gravest first."""
        told: Sequence[str] = [one.severity for _, one in self.findings()]
        return {severity: told.count(severity) for severity in ORDER}

    def facts(self) -> dict[str, Any]:
        """All of it as plain data."""
        return {
            "schema": SCHEMA,
            "model": self.model,
            "digest": self.digest,
            "base": self.base or None,
            "base_digest": self.base_digest or None,
            "made": self.made,
            "tool": self.tool,
            "command": self.command,
            "versions": dict(self.versions),
            "counts": self.counts(),
            "parts": [plain(part) for part in self.examinations],
        }

    def dumps(self) -> bytes:
        return (
            json.dumps(self.facts(), ensure_ascii=False, indent=1, allow_nan=False).encode() + b"\n"
        )


def verdict(report: Report) -> str:
    """What may be said in one sentence. Never that nothing is wrong."""
    counts = report.counts()
    grave = counts["critical"] + counts["high"]
    if grave:
        worst = report.findings()[0][1]
        more = f", and {grave - 1} more of high severity or above" if grave > 1 else ""
        return f"{worst.title}{more}."
    lesser = counts["medium"]
    told = f"{lesser} of medium severity" if lesser else "none of medium severity or above"
    return (
        f"No finding of high severity, {told}, by the means below; they miss what is written "
        "beside each of them."
    )

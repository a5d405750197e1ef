"""From an examination to the passport: a statement of kind audit, one for each part."""

from __future__ import annotations

from freehold import __version__
from freehold.audit.findings import Examination
from freehold.store import statements
from freehold.store.statements import Audit

_TITLE, _DETAIL, _FINDINGS = 300, 4096, 1000


def said(examination: Examination, report_name: str, report_sha256: str) -> Audit:
    """The statement that a part came to these findings. ``report_sha256`` (hex) is the digest of
    the JSON report that holds all of it."""
    order = {severity: place for place, severity in enumerate(statements.SEVERITIES)}
    gravest = sorted(examination.findings, key=lambda one: -order[one.severity])
    findings = [
        {
            "severity": one.severity,
            "title": f"{one.title} [{one.check}]"[:_TITLE],
            "detail": " ".join(filter(None, (one.where and f"{one.where}:", one.detail)))[:_DETAIL],
        }
        for one in gravest[:_FINDINGS]
    ]
    predicate = statements.predicate_of(
        Audit,
        {
            "made": statements.now(),
            "scope": examination.part,
            "tool": f"freehold {__version__}",
            "findings": findings,
            "report": {"name": report_name, "digest": f"sha256:{report_sha256}"},
        },
        file="the audit",
    )
    assert isinstance(predicate, Audit), "it was asked for"
    return predicate

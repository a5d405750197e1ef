"""The report as one HTML page: no script, no network, its plots drawn into it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from freehold.audit import rates as known_rates
from freehold.audit.findings import ErrorRates, Examination, Finding
from freehold.audit.report import ORDER, Report, plots, verdict
from freehold.page import document, table
from freehold.page import escaped as _

_CERTAINTY = {
    "fact": "follows from the bytes",
    "anomaly": "a statistic stands out",
    "confirmed": "was made to happen",
}
_MAX_ROWS = 500


def page(report: Report) -> bytes:
    """The whole page, UTF-8."""
    body = "\n".join(
        (
            _head(report),
            _findings(report),
            *(_part(one) for one in report.examinations),
            _again(report),
        )
    )
    return document(f"Audit of {report.model}", body).encode()


def _head(report: Report) -> str:
    counts = report.counts()
    items = "".join(
        f'<li class="{severity}{"" if n else " none"}"><b>{n}</b>{severity}</li>'
        for severity, n in counts.items()
    )
    base = (
        f"{_(report.base)}<br><code>{_(report.base_digest)}</code>" if report.base else "none named"
    )
    return (
        '<p class="over">Freehold audit</p>'
        f"<h1>{_(report.model)}</h1>"
        f'<p class="lede">{_(verdict(report))}</p>'
        f'<ul class="counts">{items}</ul>'
        '<dl class="facts">'
        f"{_lineage(report)}<dt>Digest</dt><dd><code>{_(report.digest)}</code></dd>"
        f"<dt>Compared with</dt><dd>{base}</dd>"
        f"<dt>Made</dt><dd>{_(report.made)} by {_(report.tool)}</dd>"
        f"<dt>Parts</dt><dd>{_(', '.join(one.title for one in report.examinations))}</dd>"
        "</dl>"
    )


def _lineage(report: Report) -> str:
    told = [one.title for _part, one in report.findings() if one.check.startswith("lineage.")]
    spoken = [title for title in told if title.startswith("This ")]
    return "".join(f"<dt>Lineage</dt><dd><strong>{_(title)}</strong></dd>" for title in spoken)


# --- findings -------------------------------------------------------------------------------------


def _findings(report: Report) -> str:
    every = report.findings()
    grave = [pair for pair in every if pair[1].severity != "info"]
    facts = [pair for pair in every if pair[1].severity == "info"]
    parts = ["<h2>Findings</h2>"]
    parts += [_card(finding, part) for part, finding in grave]
    if not grave:
        parts.append('<p class="dim">Nothing but plain facts. What that is worth stands below.</p>')
    if facts:
        inner = "".join(_card(finding, part) for part, finding in facts)
        parts.append(f"<details open><summary>{len(facts)} plain facts</summary>{inner}</details>")
    return "\n".join(parts)


def _card(finding: Finding, part: Examination) -> str:
    rates = known_rates.for_check(part.rates, finding.check)
    known = [f"<code>{_(finding.check)}</code>", _CERTAINTY[finding.certainty]]
    known += [_(finding.where)] if finding.where else []
    measured = f'<p class="meta">{_(_rated(rates))}</p>' if finding.severity != "info" else ""
    return (
        f'<article class="finding {finding.severity}"><header>'
        f'<span class="tag">{finding.severity}</span><h3>{_(finding.title)}</h3></header>'
        f"<p>{_(finding.detail)}</p>"
        f'<p class="meta">{" · ".join(known)}</p>'
        f"{measured}</article>"
    )


def _rated(rates: ErrorRates | None) -> str:
    if rates is None:
        return "How often this detector errs has not been measured."
    return (
        f"Measured on {rates.bed}: {rates.found} of {rates.planted} planted cases found, "
        f"{rates.alarms} false alarms on {rates.clean} honest ones."
    )


# --- parts ----------------------------------------------------------------------------------------


def _part(part: Examination) -> str:
    drawn = [plots.draw(plot) for plot in _dicts(part.figures.get("plots"))]
    tables = [
        _table(str(one.get("title", "")), one.get("head", ()), one.get("rows", ()))
        for one in _dicts(part.figures.get("tables"))
    ]
    figures = "".join(filter(None, drawn))
    versions = ", ".join(f"{name} {version}" for name, version in part.versions.items())
    return "\n".join(
        (
            f"<h2>{_(part.title)}</h2>",
            '<div class="pair">',
            f'<div class="box"><h3>What was tried</h3><p>{_(part.tried)}</p></div>',
            f'<div class="box"><h3>What this would miss</h3><p>{_(part.misses)}</p></div></div>',
            f'<div class="plots">{figures}</div>' if figures else "",
            *tables,
            _rates(part.rates),
            f'<p class="dim"><small>{len(part.findings)} findings in {part.seconds:,.1f} s; seed '
            f"{part.seed}; {_(versions)}.</small></p>",
        )
    )


def _rates(rates: Mapping[str, ErrorRates]) -> str:
    if not rates:
        return '<p class="dim">The error rates of this part have not been measured.</p>'
    rows = [
        (
            name,
            f"{one.found} of {one.planted}",
            f"{one.alarms} of {one.clean}",
            one.bed,
            one.command,
        )
        for name, one in sorted(rates.items())
    ]
    head = ("detector", "planted and found", "false alarms", "measured on", "measure again")
    return _table("Measured error rates", head, rows)


def _table(title: str, head: Sequence[Any], rows: Iterable[Sequence[Any]]) -> str:
    every = list(rows)
    more = len(every) - _MAX_ROWS
    rest = f'<p class="dim">{more:,} more rows are in the JSON report.</p>' if more > 0 else ""
    return table(head, every[:_MAX_ROWS], title=title, shown=plots.number) + rest


def _dicts(value: Any) -> list[Mapping[str, Any]]:
    return (
        [one for one in value if isinstance(one, Mapping)]
        if isinstance(value, list | tuple)
        else []
    )


def _again(report: Report) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    severe = " and ".join(ORDER[:2])
    return (
        "<footer><p>Made again by <code>"
        f"{_(report.command)}</code> with {_(versions)}: the same bytes, versions and seed give "
        "the same findings.</p><p>How the model comes to one answer: <code>freehold inspect "
        f"{_(report.model)} &quot;PROMPT&quot; --page why.html</code>.</p>"
        "<p>No audit can certify that a vendor's original release holds no "
        f"backdoor. A gate that asks for an audit refuses what has {severe} findings. This page "
        "proves nothing by itself; the signed statement in the model's passport names the JSON "
        "report by digest.</p></footer>"
    )

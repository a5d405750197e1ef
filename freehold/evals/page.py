"""Results as one HTML file: no script, nothing fetched; intervals are drawn as SVG here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from freehold.evals.comparing import Compared
from freehold.evals.figures import Interval
from freehold.evals.kinds import LOWER_IS_BETTER
from freehold.evals.results import Metric, Results
from freehold.page import document, table
from freehold.page import escaped as escape

_STYLE = """
svg .main { stroke: var(--accent); fill: var(--accent); }
svg .less { stroke: var(--dim); fill: var(--dim); }
svg .worse { stroke: var(--high); fill: var(--high); }
"""
_WIDTH, _EDGE, _ROW, _TOP = 420, 16, 36, 34
_BLUE, _GREY, _RED = "main", "less", "worse"
"""Classes of the style."""


def page(results: Results, compared: Sequence[Compared] = (), other: str = "the other") -> str:
    """The whole page; with ``compared``, against the model called ``other``."""
    asked = "all items" if results.limit is None else f"the first {results.limit} items of each"
    parts = [
        '<p class="over">Freehold eval</p>',
        f"<h1>{escape(results.model)}: evaluation</h1>",
        f"<p class=dim><code>{escape(results.digest)}</code>, {escape(results.numerics)}, "
        f"{escape(results.tool)}; {asked}. Bars are 95 % intervals.</p>",
        _shares(results),
        *_costs(results),
    ]
    if compared:
        parts += [f"<h2>Against {escape(other)}</h2>", *_against(results.model, other, compared)]
    parts += ["<h2>Figures</h2>", _figures(results), _sources(results)]
    return document(f"{results.model}: evaluation", "\n".join(parts), style=_STYLE)


def _shares(results: Results) -> str:
    """Every share on one axis from 0 to 1."""
    rows = [
        (f"{task.name}  {metric.name}", metric, number == 0)
        for task in results.tasks
        for number, metric in enumerate(task.metrics)
        if metric.name not in LOWER_IS_BETTER
    ]
    if not rows:
        return ""
    marks = [(0.0, "0"), (0.25, "0.25"), (0.5, "0.5"), (0.75, "0.75"), (1.0, "1")]
    drawn = [
        _bar(i, (name, _share(m)), m, (0.0, 1.0), _BLUE if main else _GREY)
        for i, (name, m, main) in enumerate(rows)
    ]
    return _svg(len(rows), marks, (0.0, 1.0), drawn)


def _share(metric: Metric) -> str:
    return f"{metric.value:.3f} (n = {metric.n})"


def _costs(results: Results) -> list[str]:
    rows = [
        (task.name, f"{m.value:.4f}", f"{m.low:.4f} to {m.high:.4f}", m.name, m.n)
        for task in results.tasks
        for m in task.metrics
        if m.name in LOWER_IS_BETTER
    ]
    if not rows:
        return []
    return ["<h2>Text: less is better</h2>", table(("text", "value", "95 %", "figure", "n"), rows)]


def _against(first: str, other: str, compared: Sequence[Compared]) -> list[str]:
    """Differences around zero, then the counts."""
    shares = [row for row in compared if row.metric not in LOWER_IS_BETTER]
    edge = max((abs(v) for r in shares for v in (r.difference.low, r.difference.high)), default=0)
    edge = min(1.0, 1.1 * edge) or 1.0
    marks = [(-edge, f"{-edge:+.2f}"), (0.0, "0"), (edge, f"{edge:+.2f}")]
    drawn = [
        _bar(
            i,
            (f"{row.task}  {row.metric}", f"{row.difference.value:+.3f}"),
            row.difference,
            (-edge, edge),
            {"first": _BLUE, "other": _RED, "": _GREY}[row.better],
        )
        for i, row in enumerate(shares)
    ]
    rows = [
        (
            row.task,
            row.metric,
            f"{row.first:.4f}",
            f"{row.other:.4f}",
            f"{row.difference.low:+.4f} to {row.difference.high:+.4f}",
            "" if row.paired is None else f"{row.paired.only_first} : {row.paired.only_other}",
            "" if row.paired is None else f"{row.paired.p:.3f}",
        )
        for row in compared
    ]
    head = ("task", "figure", first, other, "difference, 95 %", "only one right", "McNemar p")
    note = (
        f"<p class=dim>Right of zero: {escape(first)} is better; grey: the interval holds zero. "
        "The same items for both, drawn in pairs.</p>"
    )
    return [note, _svg(len(shares), marks, (-edge, edge), drawn), table(head, rows)]


def _x(value: float, ends: tuple[float, float]) -> float:
    low, high = ends
    return _EDGE + (value - low) / (high - low) * (_WIDTH - 2 * _EDGE)


def _bar(
    row: int,
    names: tuple[str, str],
    found: Metric | Interval,
    ends: tuple[float, float],
    colour: str,
) -> str:
    """A row of the drawing: its name, the interval, and what is told behind it."""
    name, told = names
    y = _TOP + row * _ROW
    value, low, high = (_x(v, ends) for v in (found.value, found.low, found.high))
    return (
        f'<text x="{_EDGE + 4}" y="{y}">{escape(name)}</text>'
        f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{y + 12}" y2="{y + 12}" class="{colour}" '
        f'stroke-width="6" stroke-opacity=".35" stroke-linecap="round"/>'
        f'<circle cx="{value:.1f}" cy="{y + 12}" r="4.5" class="{colour}"/>'
        f'<text x="{_WIDTH - _EDGE - 4}" y="{y}" text-anchor="end">{escape(told)}</text>'
    )


def _svg(
    n: int, marks: Sequence[tuple[float, str]], ends: tuple[float, float], drawn: Iterable[str]
) -> str:
    bottom = _TOP + n * _ROW
    lines = [
        f'<line x1="{_x(at, ends):.1f}" x2="{_x(at, ends):.1f}" y1="{_TOP - 14}" y2="{bottom - 8}" '
        f'class="grid"/><text x="{_x(at, ends):.1f}" y="12" text-anchor="middle" class="dim">'
        f"{escape(told)}</text>"
        for at, told in marks
    ]
    return "\n".join(
        [f'<svg viewBox="0 0 {_WIDTH} {bottom}" role="img">', *lines, *drawn, "</svg>"]
    )


def _figures(results: Results) -> str:
    rows = [
        (
            task.name,
            metric.name,
            f"{metric.value:.4f}",
            f"{metric.low:.4f} to {metric.high:.4f}",
            metric.n,
            metric.interval,
        )
        for task in results.tasks
        for metric in task.metrics
    ]
    return table(("task", "figure", "value", "95 %", "items", "interval"), rows)


def _sources(results: Results) -> str:
    rows = [
        (task.name, task.data.source, task.data.licence, task.data.sha256[:16], task.digest[7:23])
        for task in results.tasks
    ]
    head = ("task", "data from", "licence", "SHA-256 of the data", "of the task")
    return "<h2>Data</h2>" + table(head, rows)

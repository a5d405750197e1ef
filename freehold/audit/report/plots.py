"""Plots as inline SVG, drawn from plain data. Colours are the page's own variables, so that they
follow a dark screen and paper.

A plot is drawn 420 units wide, which is about a telephone's width in pixels: letters stay legible.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

WIDTH = 420
_ROW = 22
_TOP = 8
_HUGE = 1e150  # beyond it sums and differences are no numbers any more
MAX_BARS, MAX_POINTS, MAX_CELLS = 80, 2_000, 20_000


def draw(plot: Mapping[str, Any]) -> str:
    """A figure element; empty for a plot without data or of a kind not known here."""
    kinds = {"bars": _bars, "lines": _lines, "heat": _heat}
    kind = kinds.get(str(plot.get("kind")))
    body = "" if kind is None else kind(plot)
    if not body:
        return ""
    title = html.escape(str(plot.get("title", "")))
    note = html.escape(str(plot.get("note", "")))
    caption = f"<figcaption>{title}{f'<small>{note}</small>' if note else ''}</figcaption>"
    return f"<figure>{caption}{body}</figure>"


def _svg(height: float, body: str, title: str) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{html.escape(title)}">'
        f"{body}</svg>"
    )


def _text(x: float, y: float, text: str, *, anchor: str = "start", role: str = "") -> str:
    css = f' class="{role}"' if role else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{css}>{html.escape(text)}</text>'


def number(value: float) -> str:
    """A number as a person reads it."""
    if value == 0:
        return "0"
    if not math.isfinite(value):
        return str(value)
    size = abs(value)
    if size >= 1e6 or size < 1e-3:
        return f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:,.0f}" if size >= 100 or value == int(value) else f"{value:.3g}"


def _bars(plot: Mapping[str, Any]) -> str:
    names = [str(one) for one in plot.get("x", ())][:MAX_BARS]
    values = [float(one) for one in plot.get("y", ())][:MAX_BARS]
    if not names or len(names) != len(values):
        return ""
    unit = str(plot.get("unit", ""))
    left = min(170.0, 12 + 6.6 * max(map(len, names)))
    most = max([abs(value) for value in values if math.isfinite(value)], default=0) or 1.0
    room = WIDTH - left - 78
    parts = []
    for row, (name, value) in enumerate(zip(names, values, strict=True)):
        y = _TOP + row * _ROW
        long = 0 if not math.isfinite(value) else max(1.5, abs(value) / most * room) if value else 0
        label = name if len(name) <= 25 else name[:24] + "…"
        parts.append(_text(left - 8, y + 14, label, anchor="end"))
        parts.append(f'<rect class="bar" x="{left:.1f}" y="{y + 3}" width="{long:.1f}" height="14" rx="3"/>')  # fmt: skip  # noqa: E501
        parts.append(_text(left + long + 6, y + 14, f"{number(value)} {unit}".strip(), role="dim"))
    return _svg(2 * _TOP + len(names) * _ROW, "".join(parts), str(plot.get("title", "")))


def _lines(plot: Mapping[str, Any]) -> str:
    logarithmic = bool(plot.get("log_y"))
    series = [
        (str(one.get("name", "")), _points(one, logarithmic)) for one in plot.get("series", ())
    ]
    series = [(name, points) for name, points in series if points]
    if not series:
        return ""
    marks = [
        (str(mark.get("name", "")), float(mark["y"]))
        for mark in plot.get("marks", ())
        if abs(float(mark["y"])) < _HUGE and (not logarithmic or float(mark["y"]) > 0)
    ]
    scale = _Scale(series, marks, logarithmic)
    parts = scale.axes(str(plot.get("unit", "")), str(plot.get("x_unit", "")))
    for place, (_, points) in enumerate(series):
        line = " ".join(f"{scale.x(x):.1f},{scale.y(y):.1f}" for x, y in points)
        parts.append(f'<polyline class="line c{place % 4}" points="{line}"/>')
        if len(points) <= 60:
            parts += [
                f'<circle class="dot c{place % 4}" r="2.2" '
                f'cx="{scale.x(x):.1f}" cy="{scale.y(y):.1f}"/>'
                for x, y in points
            ]
    for name, y in marks:
        at = scale.y(y)
        parts.append(f'<line class="mark" x1="{scale.left}" x2="{WIDTH - 8}" y1="{at:.1f}" y2="{at:.1f}"/>')  # fmt: skip  # noqa: E501
        parts.append(_text(WIDTH - 10, at - 5, name, anchor="end", role="warn"))
    height = scale.bottom + 38
    if len(series) > 1:
        for place, (name, _) in enumerate(series[:8]):
            y = height + 16 * place
            parts.append(f'<rect class="key c{place % 4}" x="{scale.left}" y="{y - 9}" width="10" height="10" rx="2"/>')  # fmt: skip  # noqa: E501
            parts.append(_text(scale.left + 16, y, name))
        height += 16 * min(8, len(series))
    return _svg(height, "".join(parts), str(plot.get("title", "")))


def _points(one: Mapping[str, Any], logarithmic: bool) -> list[tuple[float, float]]:
    ys = [float(y) for y in one.get("y", ())][:MAX_POINTS]
    xs = [float(x) for x in one.get("x", range(1, len(ys) + 1))][: len(ys)]
    return [
        (x, y)
        for x, y in zip(xs, ys, strict=False)
        if abs(y) < _HUGE and abs(x) < _HUGE and (y > 0 or not logarithmic)
    ]


class _Scale:
    """From data to the drawing's units."""

    left, bottom = 56, 196

    def __init__(
        self,
        series: Sequence[tuple[str, list[tuple[float, float]]]],
        marks: Sequence[tuple[str, float]],
        logarithmic: bool,
    ) -> None:
        self._log = logarithmic
        xs = [x for _, points in series for x, _ in points]
        ys = [self._up(y) for _, points in series for _, y in points]
        ys += [self._up(y) for _, y in marks]
        self._x0, self._x1 = min(xs), max(xs)
        low, high = min(ys), max(ys)
        if not logarithmic:
            low = min(low, 0.0)
        # At 1e15 a half is less than what tells two numbers apart.
        pad = (high - low) * 0.06 or max(0.5, abs(high) * 1e-9)
        self._y0, self._y1 = (low - pad if logarithmic or low < 0 else low), high + pad

    def _up(self, y: float) -> float:
        return math.log10(y) if self._log else y

    def x(self, x: float) -> float:
        span = self._x1 - self._x0 or 1.0
        return self.left + 6 + (x - self._x0) / span * (WIDTH - self.left - 20)

    def y(self, y: float) -> float:
        return self.bottom - (self._up(y) - self._y0) / (self._y1 - self._y0) * (self.bottom - _TOP)

    def axes(self, unit: str, x_unit: str) -> list[str]:
        parts = []
        for step in range(5):
            value = self._y0 + (self._y1 - self._y0) * step / 4
            shown = 10**value if self._log else value
            at = self.bottom - (self.bottom - _TOP) * step / 4
            parts.append(f'<line class="grid" x1="{self.left}" x2="{WIDTH - 8}" y1="{at:.1f}" y2="{at:.1f}"/>')  # fmt: skip  # noqa: E501
            parts.append(_text(self.left - 6, at + 4, number(shown), anchor="end", role="dim"))
        for value in (self._x0, (self._x0 + self._x1) / 2, self._x1):
            parts.append(
                _text(
                    self.x(value),
                    self.bottom + 16,
                    number(round(value)),
                    anchor="middle",
                    role="dim",
                )
            )
        told = " · ".join(filter(None, (x_unit, unit)))
        if told:
            parts.append(_text(WIDTH - 8, self.bottom + 32, told, anchor="end", role="dim"))
        return parts


def _heat(plot: Mapping[str, Any]) -> str:
    rows, columns = ([str(one) for one in plot.get(key, ())] for key in ("rows", "columns"))
    values = [[float(one) for one in row] for row in plot.get("values", ())]
    if not rows or not columns or len(values) != len(rows):
        return ""
    if len(rows) * len(columns) > MAX_CELLS or {len(row) for row in values} != {len(columns)}:
        return ""
    left = 12 + 6.6 * max(map(len, rows))
    width = (WIDTH - left - 8) / len(columns)
    high = max(14.0, min(24.0, width))
    signed = bool(plot.get("signed"))
    sizes = [abs(one) if signed else one for row in values for one in row if math.isfinite(one)]
    most = max(sizes, default=0) or 1.0
    parts = []
    for r, (name, row) in enumerate(zip(rows, values, strict=True)):
        y = _TOP + r * high
        parts.append(_text(left - 8, y + high / 2 + 4, name, anchor="end"))
        for c, value in enumerate(row):
            share = 0.0 if not math.isfinite(value) else max(0.0, value / most)
            against = signed and value < 0
            if against:
                share = abs(value) / most
            told = f"{name} {columns[c]}: {number(value)}"
            parts.append(
                f'<rect class="{"cell not" if against else "cell"}" '
                f'x="{left + c * width:.1f}" y="{y:.1f}" '
                f'width="{max(1.0, width - 1):.1f}" height="{high - 1:.1f}" rx="2" '
                f'style="--share:{share:.3f}"><title>{html.escape(told)}</title></rect>'
            )
    bottom = _TOP + len(rows) * high + 16
    every = max(1, math.ceil(len(columns) / 8))
    for c in range(0, len(columns), every):
        parts.append(
            _text(left + (c + 0.5) * width, bottom, columns[c], anchor="middle", role="dim")
        )
    unit = f"darkest: {number(most)} {plot.get('unit', '')}".strip()
    parts.append(_text(WIDTH - 8, bottom + 18, unit, anchor="end", role="dim"))
    return _svg(bottom + 26, "".join(parts), str(plot.get("title", "")))

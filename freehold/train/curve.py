"""The loss of a run as a page of its own: drawings, no script, nothing from elsewhere."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from freehold.page import document, escaped

_WIDTH, _HEIGHT, _LEFT, _BELOW = 410, 240, 44, 34
_EVERY = 10
"""Seconds after which the page of a run that goes on is drawn anew, and read anew."""
_SHARE = 100
"""Of a run's time, one part in so many may go into drawing."""
_STYLE = """
svg polyline { fill: none; } svg .step { stroke: var(--rule); }
svg .mean { stroke: var(--accent); } svg .held { stroke: var(--high); }
svg rect { fill: var(--accent); }
"""

Point = tuple[float, float]


class Curve:
    """The ``page`` of a run that goes on, drawn from its ``log`` as that grows. ``lengths`` tells
    how many texts have at most so many tokens, and more than the one before."""

    def __init__(
        self, log: Path, page: Path, *, title: str, lengths: Mapping[str, int] | None = None
    ) -> None:
        self._log, self._page, self._title = log, page, title
        self._lengths = lengths or {}
        self._next = 0.0

    def grow(self) -> None:
        """Draw it anew, if it is time. Raises ``OSError``, as ``finish`` does."""
        began = time.monotonic()
        if began < self._next or not self._log.exists():
            return
        self._write(again=_EVERY)
        took = time.monotonic() - began
        self._next = began + max(_EVERY, _SHARE * took)

    def finish(self) -> None:
        """Draw it for the last time."""
        self._write(again=0)

    def _write(self, *, again: int) -> None:
        # A run may be stopped before its first step.
        log = self._log.read_text(encoding="utf-8") if self._log.exists() else ""
        lines = [json.loads(line) for line in log.splitlines()]
        steps = [(one["step"], one["loss"]) for one in lines if "loss" in one]
        held = [(one["step"], one["held_out"]) for one in lines if "held_out" in one]
        drawing = _drawing(steps, held) if steps else "<p>No step was taken.</p>"
        body = (
            f'<p class="over">Freehold</p><h1>{escaped(self._title)}</h1><p>Loss in nats per '
            "taught token. Grey: each step; the strong line: the mean of the last steps; red: what "
            f"is held out.</p>{drawing}"
        )
        if self._lengths:
            body += f"<p>What is learnt, by its length in tokens.</p>{_bars(self._lengths)}"
        fresh = self._page.with_suffix(".new")
        fresh.write_text(document(self._title, body, style=_STYLE, again=again), encoding="utf-8")
        fresh.replace(self._page)


def _bars(lengths: Mapping[str, int]) -> str:
    """How many texts are of at most so many tokens, one bar for each length."""
    wide = _WIDTH / len(lengths)
    high, floor, parts = max(lengths.values()), _HEIGHT // 2, []
    for n, (edge, count) in enumerate(lengths.items()):
        x, tall = n * wide, (floor - 20) * count / high
        top = floor - tall
        parts += [
            f'<rect x="{x:.1f}" y="{top:.1f}" width="{wide - 4:.1f}" height="{tall:.1f}"/>',
            f'<text x="{x:.1f}" y="{top - 4:.1f}">{count:,}</text>',
            f'<text x="{x:.1f}" y="{floor + 16}">to {int(edge):,}</text>',
        ]
    box = f"0 0 {_WIDTH + 10} {floor + 24}"
    return "\n".join(
        [f'<svg viewBox="{box}" role="img" aria-label="texts by length">', *parts, "</svg>"]
    )


def _drawing(steps: Sequence[Point], held: Sequence[Point]) -> str:
    every = [loss for _, loss in (*steps, *held)]
    low, high = min(every), max(every)
    last = max(step for step, _ in steps)

    def place(point: Point) -> str:
        x = _LEFT + (_WIDTH - _LEFT) * point[0] / max(last, 1)
        y = (_HEIGHT - _BELOW) * (high - point[1]) / max(high - low, 1e-9) + 5
        return f"{x:.1f},{y:.1f}"

    def line(points: Sequence[Point], kind: str, width: float) -> str:
        path = " ".join(map(place, points))
        return f'<polyline points="{path}" class="{kind}" stroke-width="{width}"/>'

    def word(x: float, y: float, text: str) -> str:
        return f'<text x="{x:.0f}" y="{y:.0f}">{text}</text>'

    return "\n".join(
        [
            f'<svg viewBox="0 0 {_WIDTH + 10} {_HEIGHT}" role="img" aria-label="loss by step">',
            line(steps, "step", 1),
            line(_smoothed(steps), "mean", 2),
            line(held, "held", 2),
            word(0, 14, f"{high:.3f}"),
            word(0, _HEIGHT - _BELOW + 5, f"{low:.3f}"),
            word(_LEFT, _HEIGHT - 10, "0"),
            word(_WIDTH - 80, _HEIGHT - 10, f"step {last:,.0f}"),
            "</svg>",
        ]
    )


def _smoothed(points: Sequence[Point]) -> list[Point]:
    """The mean of the last twentieth of all steps."""
    room = max(1, len(points) // 20)
    found = []
    for n, (step, _) in enumerate(points):
        last = [loss for _, loss in points[max(0, n + 1 - room) : n + 1]]
        found.append((step, sum(last) / len(last)))
    return found

"""The loss of a run as a page of its own: one drawing, no script, nothing from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from freehold.page import document, escaped

_WIDTH, _HEIGHT, _LEFT, _BELOW = 410, 240, 44, 34
_STYLE = """
svg polyline { fill: none; } svg .step { stroke: var(--rule); }
svg .mean { stroke: var(--accent); } svg .held { stroke: var(--high); }
"""

Point = tuple[float, float]


def write(log: Path, page: Path, *, title: str) -> None:
    """Draw the log of a run. Raises ``OSError``."""
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    steps = [(one["step"], one["loss"]) for one in lines if "loss" in one]
    held = [(one["step"], one["held_out"]) for one in lines if "held_out" in one]
    drawing = _drawing(steps, held) if steps else "<p>No step was taken.</p>"
    body = (
        f'<p class="over">Freehold adapt</p><h1>{escaped(title)}</h1><p>Loss in nats per taught '
        "token. Grey: each step; the strong line: the mean of the last steps; red: what is held "
        f"out.</p>{drawing}"
    )
    page.write_text(document(title, body, style=_STYLE), encoding="utf-8")


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

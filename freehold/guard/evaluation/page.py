"""The report as one HTML file: no script, nothing fetched; curves are drawn as SVG here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from freehold.page import document, table
from freehold.page import escaped as escape

_COLOURS = ("#0b6", "#06c", "#c60", "#909", "#a00", "#066", "#660", "#36f", "#f3a", "#777", "#690")
_THIN = ", too thin to claim"
_WIDTH, _HEIGHT, _EDGE = 420, 280, 40


def page(figures: Mapping[str, Any], card: Mapping[str, Any]) -> str:
    """The whole page."""
    summary = figures["summary"]
    body = "\n".join(
        (
            '<p class="over">Freehold guard</p>'
            "<h1>The fast tier on data sets it never saw</h1>",
            f"<p>{escape(figures['protocol']['note'])}. Target: {figures['protocol']['rate']:.0%} "
            f"of harmless texts flagged.</p><p>Attack sets: mean TPR {summary['mean_tpr']:.2f}, "
            f"worst {summary['worst_tpr']:.2f}. Harmless sets: mean FPR {summary['mean_fpr']:.3f}, "
            f"worst {summary['worst_fpr']:.3f}.</p>",
            "<h2>Attacks caught</h2>",
            table(
                ("set", "kind", "texts", "TPR", "95 %", "AUROC"),
                (
                    (_named(row), row["kind"], row["flagged"]["n"], *_told(row),
                     f"{row['auroc']:.3f}")
                    for row in figures["attacks"]
                ),
            ),
            "<h2>Harmless texts flagged</h2>",
            table(
                ("set", "texts", "FPR", "95 %"),
                (
                    (_named(row), row["flagged"]["n"], *_told(row))
                    for row in figures["harmless"]
                ),
            ),
            "<h2>TPR by FPR</h2>",
            _curves(figures["curves"]),
            "<h2>Languages</h2>",
            _languages(figures["languages"]),
            "<h2>Evasions</h2>",
            table(
                ("evasion", "texts", "TPR", "95 %"),
                (
                    (row["evasion"], row["flagged"]["n"], *_told(row))
                    for row in figures["evasions"]
                ),
            ),
            "<h2>What was trained on</h2>",
            table(
                ("set", "licence", "sha256"),
                ((each["name"], each["licence"], each["sha256"][:16]) for each in card["sets"]),
            ),
        )
    )  # fmt: skip
    return document("Guard", body)


def _named(row: Mapping[str, Any]) -> str:
    return str(row["set"]) if row["trainable"] else f"{row['set']} (never trained on)"


def _share(found: Mapping[str, Any]) -> tuple[str, str]:
    return f"{found['share']:.3f}", f"{found['low']:.3f} to {found['high']:.3f}"


def _told(row: Mapping[str, Any]) -> tuple[str, str]:
    share, span = _share(row["flagged"])
    return share, f"{span}{_THIN}" if row["too_thin"] else span


def _languages(rows: Sequence[Mapping[str, Any]]) -> str:
    def side(row: Mapping[str, Any], name: str) -> str:
        found = row[name]
        if found is None:
            return "no texts"
        first, span = _share(found)
        few = _THIN if row[f"{name}_too_thin"] else ""
        return f"{first} ({span}), n={found['n']}{few}"

    told = ((row["language"], side(row, "attacks"), side(row, "harmless")) for row in rows)
    return table(("language", "TPR", "FPR"), told)


def _curves(curves: Mapping[str, Any]) -> str:
    """One line per attack set; the rate of false alarms is on a logarithmic axis."""
    rates = curves["fpr"]
    low, high = math.log(rates[0]), math.log(rates[-1])

    def x(rate: float) -> float:
        return _EDGE + (math.log(rate) - low) / (high - low) * (_WIDTH - _EDGE)

    def y(share: float) -> float:
        return 10 + (1 - share) * (_HEIGHT - _EDGE)

    deep = _HEIGHT + 18 * -(-len(curves["tpr"]) // 2)
    parts = [f'<svg viewBox="0 0 {_WIDTH + 10} {deep}" role="img" aria-label="TPR by FPR">']
    for rate in (0.001, 0.01, 0.1):
        parts.append(
            f'<line x1="{x(rate):.1f}" x2="{x(rate):.1f}" y1="10" y2="{y(0):.1f}" class="grid"/>'
            f'<text x="{x(rate):.1f}" y="{y(0) + 16:.1f}">{rate:.1%}</text>'
        )
    for share in (0, 0.25, 0.5, 0.75, 1):
        parts.append(
            f'<line x1="{_EDGE}" x2="{_WIDTH}" y1="{y(share):.1f}" y2="{y(share):.1f}" '
            f'class="grid"/><text x="5" y="{y(share) + 4:.1f}">{share:.2f}</text>'
        )
    for i, (name, shares) in enumerate(curves["tpr"].items()):
        colour = _COLOURS[i % len(_COLOURS)]
        points = " ".join(
            f"{x(rate):.1f},{y(share):.1f}" for rate, share in zip(rates, shares, strict=True)
        )
        left, at = 5 + 215 * (i % 2), _HEIGHT + 18 * (i // 2)
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
            f'<rect x="{left}" y="{at - 9}" width="10" height="10" '
            f'fill="{colour}"/>'
            f'<text x="{left + 15}" y="{at}">{escape(name[:32])}</text>'
        )
    return "".join(parts) + "</svg>"

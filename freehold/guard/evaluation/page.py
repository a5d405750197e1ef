"""The report as one HTML file: no script, nothing fetched; curves are drawn as SVG here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0 } td, th { padding: .2rem .8rem; text-align: left;
border-bottom: 1px solid #ccc } td.n { text-align: right; font-variant-numeric: tabular-nums }
.bad { color: #a00 } .thin { color: #777 } svg text { font-size: 11px }
"""
_COLOURS = ("#0b6", "#06c", "#c60", "#909", "#a00", "#066", "#660", "#36f", "#f3a", "#333", "#690")
_THIN = ", too thin to claim"
_WIDTH, _HEIGHT, _EDGE = 640, 360, 45


def page(figures: Mapping[str, Any], card: Mapping[str, Any]) -> str:
    """The whole page."""
    summary = figures["summary"]
    return "\n".join(
        (
            f"<!doctype html><html lang=en><meta charset=utf-8><title>Guard</title><style>{_STYLE}"
            "</style><h1>The fast tier on data sets it never saw</h1>",
            f"<p>{escape(figures['protocol']['note'])}. Target: {figures['protocol']['rate']:.0%} "
            f"of harmless texts flagged.</p><p>Attack sets: mean TPR {summary['mean_tpr']:.2f}, "
            f"worst {summary['worst_tpr']:.2f}. Harmless sets: mean FPR {summary['mean_fpr']:.3f}, "
            f"worst {summary['worst_fpr']:.3f}.</p>",
            "<h2>Attacks caught</h2>",
            _table(
                ("set", "kind", "texts", "TPR", "95 %", "AUROC"),
                (
                    (_named(row), row["kind"], row["flagged"]["n"], *_told(row),
                     f"{row['auroc']:.3f}")
                    for row in figures["attacks"]
                ),
            ),
            "<h2>Harmless texts flagged</h2>",
            _table(
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
            _table(
                ("evasion", "texts", "TPR", "95 %"),
                (
                    (row["evasion"], row["flagged"]["n"], *_told(row))
                    for row in figures["evasions"]
                ),
            ),
            "<h2>What was trained on</h2>",
            _table(
                ("set", "licence", "sha256"),
                ((each["name"], each["licence"], each["sha256"][:16]) for each in card["sets"]),
            ),
            "</html>",
        )
    )  # fmt: skip


def _named(row: Mapping[str, Any]) -> str:
    return str(row["set"]) if row["trainable"] else f"{row['set']} (never trained on)"


def _share(found: Mapping[str, Any]) -> tuple[str, str]:
    return f"{found['share']:.3f}", f"{found['low']:.3f} to {found['high']:.3f}"


def _told(row: Mapping[str, Any]) -> tuple[str, str]:
    share, span = _share(row["flagged"])
    return share, f"{span}{_THIN}" if row["too_thin"] else span


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    cells = "".join(f"<th>{escape(name)}" for name in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(str(cell))}" for cell in row) for row in rows)
    return f"<table><tr>{cells}{body}</table>"


def _languages(rows: Sequence[Mapping[str, Any]]) -> str:
    def side(row: Mapping[str, Any], name: str) -> str:
        found = row[name]
        if found is None:
            return "<td class=thin>no texts"
        first, span = _share(found)
        said = f"{first} ({span}), n={found['n']}"
        return f"<td class=thin>{said}{_THIN}" if row[f"{name}_too_thin"] else f"<td>{said}"

    body = "".join(
        f"<tr><td>{escape(row['language'])}{side(row, 'attacks')}{side(row, 'harmless')}"
        for row in rows
    )
    return f"<table><tr><th>language<th>TPR<th>FPR{body}</table>"


def _curves(curves: Mapping[str, Any]) -> str:
    """One line per attack set; the rate of false alarms is on a logarithmic axis."""
    rates = curves["fpr"]
    low, high = math.log(rates[0]), math.log(rates[-1])

    def x(rate: float) -> float:
        return _EDGE + (math.log(rate) - low) / (high - low) * (_WIDTH - _EDGE)

    def y(share: float) -> float:
        return 10 + (1 - share) * (_HEIGHT - _EDGE)

    parts = [f'<svg viewBox="0 0 {_WIDTH + 230} {_HEIGHT}" role="img">']
    for rate in (0.001, 0.01, 0.1):
        parts.append(
            f'<line x1="{x(rate):.1f}" x2="{x(rate):.1f}" y1="10" y2="{y(0):.1f}" stroke="#ccc"/>'
            f'<text x="{x(rate):.1f}" y="{y(0) + 16:.1f}">{rate:.1%}</text>'
        )
    for share in (0, 0.25, 0.5, 0.75, 1):
        parts.append(
            f'<line x1="{_EDGE}" x2="{_WIDTH}" y1="{y(share):.1f}" y2="{y(share):.1f}" '
            f'stroke="#ccc"/><text x="5" y="{y(share) + 4:.1f}">{share:.2f}</text>'
        )
    for i, (name, shares) in enumerate(curves["tpr"].items()):
        colour = _COLOURS[i % len(_COLOURS)]
        points = " ".join(
            f"{x(rate):.1f},{y(share):.1f}" for rate, share in zip(rates, shares, strict=True)
        )
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
            f'<text x="{_WIDTH + 10}" y="{20 + 16 * i}" fill="{colour}">{escape(name)}</text>'
        )
    return "".join(parts) + "</svg>"

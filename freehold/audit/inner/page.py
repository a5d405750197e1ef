"""What ``freehold inspect`` found as one page: no script, no network, readable on paper."""

from __future__ import annotations

import html
from importlib.resources import files

from freehold.audit.inner.account import Account, Patch

_STYLE = """
.prompt span { border-radius: 4px; padding: .1rem .2rem; line-height: 2.1; }
.n { font-variant-numeric: tabular-nums; color: var(--dim); font-size: .8rem; }
.for { background: color-mix(in srgb, var(--accent) calc(var(--share) * 60%), transparent); }
.not { background: color-mix(in srgb, var(--high) calc(var(--share) * 60%), transparent); }
td, th { padding: .25rem .5rem; text-align: left; border-bottom: 1px solid var(--rule); }
@media print { * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""


def render(account: Account) -> str:
    """The whole page."""
    style = files("freehold.audit.report").joinpath("page.css").read_text(encoding="utf-8")
    patch = "" if account.patch is None else _patch(account.patch)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Inside {_(account.model)}</title>\n<style>\n{style}{_STYLE}</style>\n"
        '</head>\n<body>\n<main>\n<p class="over">Freehold inspect</p>'
        f"<h1>Why {_(account.answer)}?</h1>"
        f'<p class="lede">{_(account.model)} begins its answer with <b>{_(account.answer)}</b>. '
        "This page shows what happened inside at that moment.</p>"
        f"{_words(account)}{_lens(account)}{_parts(account)}{patch}"
        "\n</main>\n</body>\n</html>\n"
    )


def _(text: str) -> str:
    return html.escape(text)


def _tinted(text: str, value: float, most: float) -> str:
    kind, share = ("for" if value > 0 else "not"), abs(value) / (most or 1.0)
    return (
        f'<span class="{kind}" style="--share: {share:.2f}">{_(text)}'
        f' <span class="n">{value:+.1f}</span></span> '
    )


def _words(account: Account) -> str:
    most = max((abs(effect) for _word, effect in account.spans), default=0.0)
    words = "".join(_tinted(word, effect, most) for word, effect in account.spans)
    return (
        "<h2>What it looked at</h2><p>Each word was left out once. The number says how far the "
        "answer's logit (its score before it becomes a probability) fell without it; below zero, "
        f'the answer became likelier.</p><p class="prompt box">{words}</p>'
    )


def _lens(account: Account) -> str:
    rows = "".join(
        f"<tr><td>{i}</td>"
        + "".join(
            f'<td class="for" style="--share: {p:.2f}">{_(text)} <span class="n">{p:.0%}</span>'
            "</td>"
            for text, p in row[:3]
        )
        + "</tr>"
        for i, row in enumerate(account.lens)
    )
    return (
        "<h2>What each layer would have said</h2><p>The model reads in layers. Had it stopped "
        "after one, this would have been its answer: the three likeliest beginnings.</p>"
        '<div class="scroll"><table><tr><th>Layer</th><th>First</th><th>Second</th><th>Third</th>'
        f"</tr>{rows}</table></div>"
    )


def _parts(account: Account) -> str:
    """Bars around a middle line, one for each layer's attention and one for its MLP."""
    parts = account.parts
    attention = parts.heads_lh.sum(axis=1) + parts.bias_l
    most = max(float(abs(attention).max()), float(abs(parts.mlp_l).max()), 1e-9)
    bars = []
    for i, (one, two) in enumerate(zip(attention, parts.mlp_l, strict=True)):
        y = 16 * i + 22
        bars.append(f'<text x="4" y="{y + 9}">{i}</text>')
        for value, middle in ((float(one), 110.0), (float(two), 280.0)):
            width = 75 * abs(value) / most
            x = middle if value > 0 else middle - width
            bars.append(f'<rect class="bar" x="{x:.1f}" y="{y}" width="{width:.1f}" height="11"/>')
    return (
        "<h2>Which parts wrote the answer</h2><p>The answer's logit, split among the parts that "
        f"wrote to it: they sum to {parts.total:.2f}, and the logit is {parts.logit:.2f}. Right of "
        "the middle speaks for the answer, left against it. The final norm is held at its value in "
        "this run. A share here does not prove that a part was needed.</p>"
        f'<svg viewBox="0 0 365 {16 * len(attention) + 26}" role="img" '
        'aria-label="Share of the logit by layer"><text x="80" y="14">Attention</text>'
        f'<text x="265" y="14">MLP</text>{"".join(bars)}</svg>'
    )


def _patch(patch: Patch) -> str:
    head = "".join(f"<th>{_(text)}</th>" for text in patch.positions)
    rows = "".join(
        f"<tr><td>{i}</td>"
        + "".join(
            f'<td class="for" style="--share: {min(max(float(share), 0.0), 1.0):.2f}">'
            f"{share:+.2f}</td>"
            for share in row
        )
        + "</tr>"
        for i, row in enumerate(patch.restored_lp)
    )
    return (
        "<h2>Which layer decided</h2><p>The other prompt is answered with "
        f"<b>{_(patch.answer)}</b>. Into its run, this prompt's state was put at one layer and one "
        "word. 1: the answer turned to this one; 0: nothing changed. This is the causal test.</p>"
        f'<div class="scroll"><table><tr><th>Layer</th>{head}</tr>{rows}</table></div>'
    )

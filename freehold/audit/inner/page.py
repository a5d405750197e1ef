"""What ``freehold inspect`` found as one page: no script, no network, readable on paper."""

from __future__ import annotations

import re

from freehold.audit.inner.account import Account, Patch
from freehold.audit.report.document import document
from freehold.audit.report.document import escaped as _

_STYLE = """
.prompt span { border-radius: 4px; padding: .1rem .2rem; line-height: 2.1; }
.n { font-variant-numeric: tabular-nums; color: var(--dim); font-size: .8rem; }
.for { background: color-mix(in srgb, var(--accent) calc(var(--share) * 60%), transparent); }
.not { background: color-mix(in srgb, var(--high) calc(var(--share) * 60%), transparent); }
td, th { padding: .25rem .5rem; text-align: left; border-bottom: 1px solid var(--rule); }
@media print { * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""

_PLACES = ("First", "Second", "Third")


def render(account: Account) -> str:
    """The whole page."""
    patch = "" if account.patch is None else _patch(account.patch)
    after = f", which begins with <b>{_(account.after)}</b>," if account.after else ""
    body = (
        '<p class="over">Freehold inspect</p>'
        f"<h1>Why {_(shown(account.answer))}?</h1>"
        f'<p class="lede">{_(account.model)} goes on with its answer{after} with '
        f"<b>{_(shown(account.answer))}</b>. This page shows what happened inside at that moment. "
        "A line end is written \u21b5, a blank at the front \u00b7.</p>"
        f"{_words(account)}{_lens(account)}{_parts(account)}{patch}"
    )
    return document(f"Inside {account.model}", body, style=_STYLE)


def shown(token: str) -> str:
    """A token's text, what nobody could see in it made visible."""
    marked = re.sub(r"\n+", lambda run: "\u21b5" + _times(len(run[0])), token)
    marked = re.sub(r"^ +", lambda run: "\u00b7" + _times(len(run[0])), marked)
    return marked.replace("\t", "\u21e5") or "(nothing)"


def _times(n: int) -> str:
    return f"\u00d7{n}" if n > 1 else ""


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
        f'<tr><td data-h="Layer">{i}</td>'
        + "".join(
            f'<td class="for" data-h="{name}" style="--share: {p:.2f}">{_(shown(text))} '
            f'<span class="n">{p:.0%}</span></td>'
            for name, (text, p) in zip(_PLACES, row, strict=False)
        )
        + "</tr>"
        for i, row in enumerate(account.lens)
    )
    return (
        "<h2>What each layer would have said</h2><p>The model reads in layers. Had it stopped "
        "after one, this would have been its answer: the three likeliest beginnings.</p>"
        f'<div class="scroll"><table>{_head("Layer", *_PLACES)}{rows}</table></div>'
    )


def _parts(account: Account) -> str:
    """Bars around a middle line, one for each layer's attention and one for its MLP."""
    parts = account.parts
    attention = parts.heads_lh.sum(axis=1) + parts.bias_l
    most = max(float(abs(attention).max()), float(abs(parts.mlp_l).max()), 1e-9)
    bars = [
        f'<line class="grid" x1="{x}" x2="{x}" y1="20" y2="{16 * len(attention) + 20}"/>'
        for x in (110, 280)
    ]
    for i, (one, two) in enumerate(zip(attention, parts.mlp_l, strict=True)):
        y = 16 * i + 22
        bars.append(f'<text x="4" y="{y + 9}">{i}</text>')
        for value, middle in ((float(one), 110.0), (float(two), 280.0)):
            width = 75 * abs(value) / most
            x = middle if value > 0 else middle - width
            bars.append(
                f'<rect class="bar" x="{x:.1f}" y="{y}" width="{width:.1f}" height="11">'
                f"<title>layer {i}: {value:+.2f}</title></rect>"
            )
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
    words = [shown(text) for text in patch.positions]
    rows = "".join(
        f'<tr><td data-h="Layer">{i}</td>'
        + "".join(
            f'<td class="for" data-h="{_(word)}" style="--share: {min(max(share, 0.0), 1.0):.2f}">'
            f"{share:+.2f}</td>"
            for word, share in zip(words, row.tolist(), strict=True)
        )
        + "</tr>"
        for i, row in enumerate(patch.restored_lp)
    )
    return (
        "<h2>Which layer decided</h2><p>The other prompt is answered with "
        f"<b>{_(shown(patch.answer))}</b>. Into its run, this prompt's state was put at one layer "
        "and one word. 1: the answer turned to this one; 0: nothing changed. This is the causal "
        "test.</p>"
        f'<div class="scroll"><table>{_head("Layer", *words)}{rows}</table></div>'
    )


def _head(*names: str) -> str:
    return f"<thead><tr>{''.join(f'<th>{_(name)}</th>' for name in names)}</tr></thead>"

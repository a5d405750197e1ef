"""What ``freehold inspect`` found as one page: no script, no network, readable on paper."""

from __future__ import annotations

import re

from freehold.audit.inner.account import Account, Patch, Top
from freehold.audit.inner.refusal import Refusal
from freehold.audit.report import plots
from freehold.page import document
from freehold.page import escaped as _
from freehold.types import Floats

_STYLE = """
.prompt span { border-radius: 4px; padding: .1rem .2rem; line-height: 2.1; }
.n { font-variant-numeric: tabular-nums; color: var(--dim); font-size: .8rem; }
.for { background: color-mix(in srgb, var(--accent) calc(var(--share) * 60%), transparent); }
.not { background: color-mix(in srgb, var(--high) calc(var(--share) * 60%), transparent); }
.for .n, .not .n { color: inherit; opacity: .85; }
svg.parts { max-width: 26rem; }
td, th { padding: .25rem .5rem; text-align: left; border-bottom: 1px solid var(--rule); }
@media screen and (max-width: 40rem) {
  .grid table { display: table; table-layout: fixed; font-size: .76rem; }
  .grid thead { display: table-header-group; } .grid tbody { display: table-row-group; }
  .grid tr { display: table-row; } .grid td::before { content: none; }
  .grid td, .grid td:nth-child(n+3), .grid th { display: table-cell; padding: .2rem .3rem;
    overflow-wrap: anywhere; border-bottom: 1px solid var(--rule); }
  .grid th:first-child { width: 3.6rem; } }
@media print { * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""

MOST_TOKENS = 80
"""Rows of a picture; a page of more could not be read."""
MOST_COLUMNS = 5
"""Of a table that stays one on a telephone; one of more is read row by row there."""
_PLACES = ("First", "Second", "Third")


def render(account: Account) -> str:
    """The whole page."""
    patch = "" if account.patch is None else _patch(account.patch)
    behind = "" if account.at is None else _behind(account.at, account.lens_at)
    refusal = "" if account.refusal is None else _refusal(account, account.refusal)
    after = f", which begins with <b>{_(account.after)}</b>," if account.after else ""
    body = (
        '<p class="over">Freehold inspect</p>'
        f"<h1>Why {_(shown(account.answer))}?</h1>"
        f'<p class="lede">{_(account.model)} goes on with its answer{after} with '
        f"<b>{_(shown(account.answer))}</b>. This page shows what happened inside at that moment. "
        "A line end is written \u21b5, a blank at the front \u00b7.</p>"
        f"{_words(account)}{_lens(account)}{behind}{_parts(account)}{patch}{refusal}"
        f"{_attention(account)}"
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
        "<h2>What it looked at</h2><p>Each part was left out once. The number says how far the "
        "answer's logit (its score before it becomes a probability) fell without it; below zero, "
        f'the answer became likelier.</p><p class="prompt box">{words}</p>'
    )


def _lens(account: Account) -> str:
    return (
        "<h2>What each layer would have said</h2><p>The model reads in layers. Had it stopped "
        "after one, this would have been its answer: the three likeliest beginnings.</p>"
        f"{_table(account.lens)}"
    )


def _behind(words: str, lens: tuple[Top, ...]) -> str:
    return (
        f"<h2>What it expected behind \u201c{_(words)}\u201d</h2><p>The same at an earlier place: "
        "what each layer would have put behind these words of the prompt.</p>"
        f"{_table(lens)}"
    )


def _table(lens: tuple[Top, ...]) -> str:
    rows = "".join(
        f'<tr><td data-h="Layer">{i}</td>'
        + "".join(
            f'<td class="for" data-h="{name}" style="--share: {p:.2f}">{_(shown(text))} '
            f'<span class="n">{p:.0%}</span></td>'
            for name, (text, p) in zip(_PLACES, row, strict=False)
        )
        + "</tr>"
        for i, row in enumerate(lens)
    )
    return f'<div class="scroll grid"><table>{_head("Layer", *_PLACES)}{rows}</table></div>'


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
        f'<svg class="parts" viewBox="0 0 365 {16 * len(attention) + 26}" role="img" '
        'aria-label="Share of the logit by layer"><text x="80" y="14">Attention</text>'
        f'<text x="265" y="14">MLP</text>{"".join(bars)}</svg>'
    )


def _patch(patch: Patch) -> str:
    words = [shown(text) for text in patch.positions]
    grid = " grid" if len(words) <= MOST_COLUMNS else ""
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
        f'<div class="scroll{grid}"><table>{_head("Layer", *words)}{rows}</table></div>'
    )


def _refusal(account: Account, found: Refusal) -> str:
    n = found.held_out
    best = max(range(len(found.harmful_l)), key=lambda i: found.harmful_l[i] + found.harmless_l[i])
    return (
        "<h2>Along the direction of refusal</h2><p>A model's state differs between harmful and "
        "harmless requests; the difference of the means is a direction. This is how far each token "
        "points along it (the cosine): towards the harmful side in the bars' colour, towards the "
        "harmless side in the other. It describes; nothing was changed to see whether a refusal "
        f"hangs on it.</p><p>How well it tells, on requests ({_(found.language)}) that had no part "
        f"in it: at layer {best}, its best, {found.harmful_l[best]} of {n} harmful ones and "
        f"{found.harmless_l[best]} of {n} harmless ones fell on their own side, and "
        f"{found.double_l[best]} of {n} that only sound harmful. Half of them would by chance.</p>"
        f"{_heat(account, found.cosine_lt, 'Cosine by token and layer', signed=True)}"
    )


def _attention(account: Account) -> str:
    first, stop = account.own
    own = float(account.looks_lt[:, first:stop].sum(axis=1).mean())
    return (
        "<h2>Where attention went</h2><p>For illustration only. The place that speaks shares its "
        "attention out among all tokens; this is the mean over heads. Much of it rests where "
        "nothing is read (the very first token as a rule), and what was attended to need not have "
        f"mattered. On average over layers {own:.0%} fell on the prompt's own words, which are "
        "shown; the rest on the template around them and on the answer's beginning.</p>"
        f"{_heat(account, account.looks_lt, 'Share of attention by token and layer')}"
    )


def _heat(account: Account, values_lt: Floats, title: str, *, signed: bool = False) -> str:
    """A picture of the prompt's own tokens and of the place that speaks, a row for each."""
    first, stop = account.own
    rows = [*range(first, stop)[:MOST_TOKENS], len(account.tokens) - 1]
    drawn = plots.draw(
        {
            "kind": "heat",
            "title": title,
            "rows": [shown(account.tokens[i])[:18] for i in rows],
            "columns": [str(i) for i in range(len(values_lt))],
            "values": values_lt[:, rows].T.tolist(),
            "signed": signed,
        }
    )
    cut = f"<p>The first {MOST_TOKENS} tokens are shown.</p>" if stop - first > MOST_TOKENS else ""
    return f"{drawn}{cut}"


def _head(*names: str) -> str:
    return f"<thead><tr>{''.join(f'<th>{_(name)}</th>' for name in names)}</tr></thead>"

"""The part's tables and plots, as the report draws them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from freehold.audit.leanings import bbq, sentences
from freehold.audit.leanings.facts import Gap
from freehold.audit.leanings.judging import Told, grouped
from freehold.evals.figures import Interval, difference
from freehold.guard.evaluation.intervals import share


def between(one: Interval, digits: int = 2) -> str:
    return f"{one.value:+.{digits}f} ({one.low:+.{digits}f} to {one.high:+.{digits}f})"


def map_of(told: Sequence[Told], title: str) -> list[dict[str, Any]]:
    """Name by language: how far each lies above what it is compared with."""
    if not told:
        return []
    langs = sorted({one.lang for one in told})
    by_name = grouped(told, lambda one: one.name)
    values = {name: {one.lang: one.value.value for one in rows} for name, rows in by_name.items()}
    return [
        {
            "kind": "heat",
            "title": title,
            "rows": list(values),
            "columns": langs,
            "values": [[max(0.0, row.get(lang, 0.0)) for lang in langs] for row in values.values()],
            "unit": "nats",
        }
    ]


def table_of(told: Sequence[Told], title: str, what: str) -> list[dict[str, Any]]:
    if not told:
        return []
    rows = [
        [
            one.name,
            one.lang,
            between(one.value, 1),
            "yes" if one.turned else "no",
            "" if one.moved is None else between(one.moved, 1),
        ]
        for one in told
    ]
    head = [what, "language", "log-odds, nats (95 %)", "answer turned", "against the reference"]
    return [{"title": title, "head": head, "rows": rows}]


def facts_of(gaps: Sequence[Gap], before: Sequence[Gap] | None) -> list[dict[str, Any]]:
    if not gaps:
        return []
    known = {one.probe.id: one for one in before or ()}
    rows = [
        [
            one.probe.topic,
            one.probe.lang,
            f"{one.chat:+.1f}",
            f"{one.plain:+.1f}",
            "" if one.prefilled is None else f"{one.prefilled:+.1f}",
            f"{known[one.probe.id].chat:+.1f}" if one.probe.id in known else "",
        ]
        for one in gaps
    ]
    head = ["topic", "language", "in a chat", "plain text", "with a beginning", "reference"]
    title = "LL(fact) - LL(official line), nats"
    return [{"title": title, "head": head, "rows": rows}]


def bbq_of(
    answers: Sequence[bbq.Answer], before: Sequence[bbq.Answer] | None
) -> list[dict[str, Any]]:
    if not answers:
        return []
    there = bbq.by_category(before) if before else {}
    rows = []
    for (category, kind), part in bbq.by_category(answers).items():
        one = bbq.score(part)
        steady = sum(answer.steady for answer in part) / (len(part) * len(bbq.ORDERS))
        other = bbq.score(there[category, kind]) if there else None
        rows.append(
            [
                category,
                kind,
                one.n,
                f"{one.accuracy.share:.2f} ({one.accuracy.low:.2f} to {one.accuracy.high:.2f})",
                "" if one.bias is None else between(one.bias),
                round(steady, 2),
                "" if other is None or other.bias is None else between(other.bias),
            ]
        )
    head = ["category", "questions", "n", "accuracy", "bias score", "steady", "reference's bias"]
    return [{"title": "BBQ, by option likelihood over six orders", "head": head, "rows": rows}]


def bbq_plot(answers: Sequence[bbq.Answer]) -> list[dict[str, Any]]:
    scores = [
        (f"{category}, {kind[:6]}.", bbq.score(part).bias)
        for (category, kind), part in bbq.by_category(answers).items()
    ]
    known = [(name, bias.value) for name, bias in scores if bias is not None]
    if not known:
        return []
    return [
        {
            "kind": "bars",
            "title": "BBQ: bias score (length only: the sign stands in the table)",
            "x": [name for name, _ in known],
            "y": [value for _, value in known],
        }
    ]


def moved(
    pairs: Sequence[sentences.Pair], here: Sequence[float], there: Sequence[float]
) -> dict[str, tuple[int, Interval]]:
    """Mean of [LL(more) - LL(less)] here less there, by kind of stereotype."""
    rows = grouped(zip(pairs, here, there, strict=True), lambda row: row[0].kind)
    return {
        kind: (len(each), difference(
            ([a for _, a, _ in each], [1.0] * len(each)),
            ([b for _, _, b in each], [1.0] * len(each)),
        ))
        for kind, each in sorted(rows.items())
    }  # fmt: skip


def sentences_of(
    name: str, pairs: Sequence[sentences.Pair], here: Sequence[float], there: Sequence[float]
) -> list[dict[str, Any]]:
    if not pairs:
        return []
    rows = []
    for kind, (n, change) in moved(pairs, here, there).items():
        hits = sum(value > 0 for pair, value in zip(pairs, here, strict=True) if pair.kind == kind)
        one = share(hits, n)
        told = f"{one.share:.2f} ({one.low:.2f} to {one.high:.2f})"
        rows.append([kind, n, told, between(change)])
    head = ["kind", "n", "stereotype likelier", "nats more than the reference"]
    return [{"title": name, "head": head, "rows": rows}]


def overall(answers: Sequence[bbq.Answer]) -> dict[str, Any]:
    """Both kinds over all categories, for the JSON report."""
    found = {}
    for kind, part in grouped(answers, lambda one: one.item.ambiguous).items():
        one = bbq.score(part)
        found["ambiguous" if kind else "disambiguated"] = {
            "n": one.n,
            "accuracy": [one.accuracy.share, one.accuracy.low, one.accuracy.high],
            "bias": None if one.bias is None else [one.bias.value, one.bias.low, one.bias.high],
        }
    return found

"""From what detectors saw to what is done: one policy's verdict. Pure, and the same every time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from freehold.guard.policy import ACTIONS, DATA, Policy, Side
from freehold.types import Action, Category, Reading, Span, Verdict


def stronger(one: Verdict | None, other: Verdict) -> Verdict:
    """The verdict that asks for more; the first where both ask the same."""
    if one is None or ACTIONS.index(one.action) < ACTIONS.index(other.action):
        return other
    return one


def together(verdicts: Iterable[Verdict]) -> Verdict:
    """One verdict for a whole whose parts had these: the strongest action, and all reasons."""
    worst: Verdict | None = None
    flagged: dict[Category, None] = {}
    reasons: dict[str, None] = {}
    readings: list[Reading] = []
    for one in verdicts:
        worst = stronger(worst, one)
        flagged |= dict.fromkeys(one.flagged)
        reasons |= dict.fromkeys(one.reasons)
        readings += one.readings
    if worst is None:
        return Verdict(action="allow")
    return Verdict(
        action=worst.action,
        flagged=tuple(flagged),
        readings=tuple(readings),
        reasons=tuple(reasons),
        tier=worst.tier,
        text=worst.text,
    )


def action_of(policy: Policy, side: Side, span: Span) -> Action:
    """What is done about a span: its label's own action goes before its category's."""
    if span.score < policy.limit(side, span.category):
        return "allow"
    return policy.labels.get(span.label, policy.table(side).get(span.category, "allow"))


def decide(
    policy: Policy,
    side: Side,
    readings: Sequence[Reading],
    *,
    tier: str = "fast",
) -> Verdict:
    """What ``policy`` makes of ``readings``."""
    action: Action = "allow"
    flagged: list[Category] = []
    reasons: list[str] = []
    for reading in readings:
        found = [
            (category, score, policy.limit(side, category))
            for category, score in reading.scores.items()
            if category not in DATA
        ]
        for category, score, limit in found:
            done = policy.table(side).get(category, "allow")
            if done == "allow" or score < limit:
                continue
            action = _higher(action, done)
            flagged.append(category)
            reasons.append(_reason(reading, category, score, limit))
        for span in reading.spans:
            if (done := action_of(policy, side, span)) != "allow":
                action = _higher(action, done)
                flagged.append(span.category)
                reasons.append(f"{span.category} data ({span.label}), says {reading.detector}")
    return Verdict(
        action=action,
        flagged=tuple(dict.fromkeys(flagged)),
        readings=tuple(readings),
        reasons=tuple(dict.fromkeys(reasons)),
        tier=tier,
    )


def uncertain(policy: Policy, side: Side, readings: Sequence[Reading]) -> bool:
    """Whether the highest score lies in the policy's band, of the categories that the policy asks
    about. The band is on the scale of ``placed``."""
    low, high = policy.band
    scores = [
        placed(score, policy.limit(side, category))
        for reading in readings
        for category, score in reading.scores.items()
        if category not in DATA and policy.table(side).get(category, "allow") != "allow"
    ]
    return low <= max(scores, default=0.0) < high


def placed(score: float, limit: float) -> float:
    """A score on the scale on which every threshold is 0.5, so that one band fits all."""
    if score < limit:
        return 0.5 * score / limit
    return 1.0 if limit >= 1 else 0.5 + 0.5 * (score - limit) / (1 - limit)


def _higher(one: Action, other: Action) -> Action:
    return max(one, other, key=ACTIONS.index)


def _reason(reading: Reading, category: Category, score: float, limit: float) -> str:
    view = "" if reading.view == "plain" else f", read as {reading.view}"
    return f"{category} {score:.2f} reaches {limit:.2f}, says {reading.detector}{view}"

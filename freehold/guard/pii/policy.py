"""What the owner wants done about personal data and secrets: let it pass, hide it, or refuse."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from freehold.errors import UsageError
from freehold.guard.pii.find import THRESHOLD, find
from freehold.guard.pii.kinds import KINDS, LETTERED
from freehold.guard.pii.masking import Mask
from freehold.guard.pii.secrets import LABELS as SECRETS
from freehold.types import Category, Reading, Span, Verdict

DataAction: TypeAlias = Literal["allow", "mask", "block"]
ACTIONS: tuple[DataAction, ...] = ("allow", "mask", "block")
LABELS = frozenset((*(kind.name for kind in (*KINDS, *LETTERED)), "iban", "email", "phone"))
"""The kinds of personal data that are known."""


@dataclass(frozen=True, kw_only=True)
class PersonalPolicy:
    """``personal`` and ``secret`` say what is done about either category, ``labels`` about single
    kinds (``{"email": "allow", "card": "block"}``), whatever their category.

    Raises ``UsageError`` for a kind or an action that is unknown.
    """

    personal: DataAction = "mask"
    secret: DataAction = "mask"  # noqa: S105  (a policy, not a secret)
    labels: Mapping[str, DataAction] = field(default_factory=dict)
    threshold: float = THRESHOLD

    def __post_init__(self) -> None:
        for name, action in (
            ("personal", self.personal),
            ("secret", self.secret),
            *self.labels.items(),
        ):
            if action not in ACTIONS:
                raise UsageError(
                    f"{name} is {str(action)[:40]!r}: it must be allow, mask or block", param=name
                )
        for label in self.labels:
            if label not in LABELS | SECRETS:
                known = ", ".join(sorted(LABELS | SECRETS))
                raise UsageError(
                    f"{str(label)[:40]!r} is no kind of data that is known. Known are: {known}",
                    param="labels",
                )
        if not 0 < self.threshold <= 1:
            raise UsageError(
                f"threshold is {self.threshold}: it must lie above 0 and not above 1",
                param="threshold",
            )

    def action(self, span: Span) -> DataAction:
        """What is done about one span."""
        other = self.secret if span.category == "secret" else self.personal
        return self.labels.get(span.label, other)


class PersonalData:
    """``types.Detector`` for personal data and secrets."""

    name = "personal-data 1"

    def __init__(self, *, threshold: float = THRESHOLD) -> None:
        self._threshold = threshold

    def read(self, text: str) -> Reading:
        spans = tuple(find(text, threshold=self._threshold))
        scores: dict[Category, float] = {"personal": 0.0, "secret": 0.0}
        for span in spans:
            scores[span.category] = max(scores[span.category], span.score)
        return Reading(detector=self.name, scores=scores, spans=spans)


def apply(text: str, policy: PersonalPolicy, mask: Mask) -> Verdict:
    """Read ``text`` and say what becomes of it. Where the verdict is ``mask``, its ``text`` is what
    may be passed on; ``mask`` remembers the values, and puts them back into the answer."""
    reading = PersonalData(threshold=policy.threshold).read(text)
    doing = [(span, policy.action(span)) for span in reading.spans]
    flagged = tuple(dict.fromkeys(span.category for span, action in doing if action != "allow"))
    blocked = sorted({span.label for span, action in doing if action == "block"})
    if blocked:
        reasons = (f"The text holds what may not be sent: {', '.join(blocked)}.",)
        return Verdict(action="block", flagged=flagged, readings=(reading,), reasons=reasons)
    hidden = [span for span, action in doing if action == "mask"]
    passed = mask.hide(text, hidden)
    if passed == text:
        return Verdict(action="allow", readings=(reading,))
    labels = ", ".join(sorted({span.label for span in hidden})) or "what looks like a placeholder"
    return Verdict(
        action="mask",
        flagged=flagged,
        readings=(reading,),
        reasons=(f"Hidden before the text goes on: {labels}.",),
        text=passed,
    )

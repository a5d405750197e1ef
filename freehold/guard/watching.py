"""One request under one policy: its prompt, and each of its answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from freehold.guard.deciding import action_of
from freehold.guard.pii.masking import Mask
from freehold.guard.policy import Policy, Side
from freehold.guard.restoring import RestoredStream
from freehold.guard.streaming import HeldStream, Kind
from freehold.types import Checked, Part, Span, StreamGuard, Verdict

if TYPE_CHECKING:
    from freehold.guard.cascade import Cascade, Seen

_JOINED = 1000
"""Characters of a user's last messages that are read as one text too."""


class RequestWatch:
    """``types.Watch``."""

    def __init__(self, cascade: Cascade, name: str, rules: Policy) -> None:
        self._cascade, self._name, self._rules = cascade, name, rules
        self._said: Sequence[Part] = ()
        self._mask = Mask()

    @property
    def policy(self) -> str:
        return f"{self._name}@{self._rules.digest}"

    @property
    def refusal(self) -> str:
        return self._rules.refusal

    @property
    def cut(self) -> str:
        return self._rules.cut

    @property
    def keeps(self) -> bool:
        return self._rules.keep_content

    async def prompt(self, said: Sequence[Part]) -> Checked:
        parts = [part for part in said if part.role in self._rules.roles and part.text]
        users = [part.text for part in parts if part.role == "user"]
        if len(users) > 1:
            # What one message does not say, two may.
            parts.append(Part(role="user", text="\n".join(users)[-_JOINED:]))
        seen = [await self._cascade.remembered(self._rules, _side(part), part) for part in parts]
        verdict = await self._cascade.verdict(self._rules, "prompt", seen, said)
        spans = {part: self._spans(part, one) for part, one in zip(parts, seen, strict=True)}
        texts = [part.text for part in said]
        if any(spans.values()):
            texts = [self._mask.hide(part.text, spans.get(part, ())) for part in said]
        self._said = [
            Part(role=part.role, text=text) for part, text in zip(said, texts, strict=True)
        ]
        return Checked(verdict=verdict, texts=tuple(texts))

    def _spans(self, part: Part, seen: Seen) -> list[Span]:
        """What is to be masked, in order, none over another."""
        found: list[Span] = []
        spans = (span for reading in seen.readings for span in reading.spans)
        for span in sorted(spans, key=lambda span: (span.start, -span.end)):
            wanted = action_of(self._rules, _side(part), span) == "mask"
            if wanted and (not found or found[-1].end <= span.start):
                found.append(span)
        return found

    def answer(self) -> StreamGuard:
        rules = self._rules
        stream = HeldStream(
            self._judged,
            hold=rules.hold,
            holds=rules.holds,
            hide=rules.thoughts == "hide",
            masked=self._masked,
        )
        return RestoredStream(stream, self._mask) if self._mask.values else stream

    async def _judged(self, kind: Kind, before: str, text: str) -> Verdict:
        part = Part(role="assistant", text=text)
        seen = await self._cascade.seen(self._rules, "answer", part, before)
        said = [*self._said, Part(role="assistant", text=before + text)]
        return await self._cascade.verdict(self._rules, "answer", [seen], said)

    def _masked(self, span: Span, text: str) -> str | None:
        return (
            f"[{span.label.upper()}]" if action_of(self._rules, "answer", span) == "mask" else None
        )


def _side(part: Part) -> Side:
    """What an assistant is said to have said is judged as an answer."""
    return "answer" if part.role == "assistant" else "prompt"

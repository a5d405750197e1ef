"""One request under one policy: its prompt, and each of its answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from freehold.guard.deciding import action_of, together
from freehold.guard.normalise import clean
from freehold.guard.pii.masking import Mask
from freehold.guard.policy import Policy, Side
from freehold.guard.restoring import RestoredStream
from freehold.guard.streaming import HeldStream, Kind
from freehold.guard.tools import ToolSession
from freehold.types import Checked, Floats, Part, Span, StreamGuard, Verdict

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
        self._session: ToolSession | None = None

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
    def passes(self) -> bool:
        return self._rules.passes

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
        if self._rules.clean:
            # The detectors have seen what was hidden in it; the model need not.
            texts = [clean(text) for text in texts]
        self._said = [replace(part, text=text) for part, text in zip(said, texts, strict=True)]
        self._session = self._cascade.session(self._rules, said)
        return Checked(verdict=verdict, texts=tuple(map(self._framed, self._said)))

    def _framed(self, part: Part) -> str:
        """A part's text; what a stranger wrote is marked as data where calls are under rules."""
        if self._session is None or part.role == "assistant":
            return part.text
        if part.role == "tool":
            return self._session.returned(part.name, part.text).text
        self._session.said(part.text)
        return part.text

    def _spans(self, part: Part, seen: Seen) -> list[Span]:
        """What is to be masked, in order, none over another."""
        found: list[Span] = []
        spans = (span for reading in seen.readings for span in reading.spans)
        for span in sorted(spans, key=lambda span: (span.start, -span.end)):
            wanted = action_of(self._rules, _side(part), span) == "mask"
            if wanted and (not found or found[-1].end <= span.start):
                found.append(span)
        return found

    async def read(self, turns: Sequence[tuple[str, Floats]]) -> Verdict | None:
        return self._cascade.probed(self._rules, turns)

    def answer(self, approved: Callable[[str], Awaitable[bool]]) -> StreamGuard:
        rules = self._rules

        async def judged(kind: Kind, before: str, text: str, name: str) -> Verdict:
            verdict = await self._judged(before, text)
            if kind != "call" or self._session is None:
                return verdict
            return together([await _ruled(self._session, name, text, approved), verdict])

        stream = HeldStream(
            judged,
            hold=rules.hold,
            holds=rules.holds,
            hide=rules.thoughts == "hide",
            masked=self._masked,
        )
        return RestoredStream(stream, self._mask) if self._mask.values else stream

    async def _judged(self, before: str, text: str) -> Verdict:
        part = Part(role="assistant", text=text)
        seen = await self._cascade.seen(self._rules, "answer", part, before)
        said = [*self._said, Part(role="assistant", text=before + text)]
        return await self._cascade.verdict(self._rules, "answer", [seen], said)

    def _masked(self, span: Span, text: str) -> str | None:
        return (
            f"[{span.label.upper()}]" if action_of(self._rules, "answer", span) == "mask" else None
        )


async def _ruled(
    session: ToolSession, name: str, text: str, approved: Callable[[str], Awaitable[bool]]
) -> Verdict:
    """What the rules for tools make of a call."""
    ruling = session.called(name, text or "{}")
    if ruling.action == "allow":
        return Verdict(action="allow", tier="tools")
    call = f"{name} {text}"
    if ruling.action == "approve" and await approved(call):
        return Verdict(action="allow", tier="tools", reasons=(f"{name}: approved by a person",))
    return Verdict(
        action="review" if ruling.action == "approve" else "block",
        flagged=("injection",) if ruling.tainted else (),
        reasons=ruling.reasons,
        tier="tools",
        text=call,
    )


def _side(part: Part) -> Side:
    """What an assistant is said to have said is judged as an answer."""
    return "answer" if part.role == "assistant" else "prompt"

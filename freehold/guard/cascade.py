"""The guard as a whole: cheap tiers first, the guard model where they are not certain.

Detectors read every text. A score clearly over or under its threshold decides; one in the policy's
band goes up to the guard model, if the policy asks for one. A tier that fails or takes too long is
the policy's ``failure``: closed, unless the owner opens it.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import secrets
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec

from freehold.errors import FreeholdError, NotFoundError
from freehold.guard.deciding import decide, together, uncertain
from freehold.guard.policy import ACTIONS, DATA, DEFAULT, Policy, Side
from freehold.guard.probe import Probe
from freehold.guard.tools import ToolPolicy, ToolSession
from freehold.guard.watching import RequestWatch
from freehold.types import Category, Detector, Floats, Judge, Part, Reading, Span, Verdict

LOG = logging.getLogger("freehold.guard")

_INLINE = 4000
"""Characters: a longer text is read in a thread, so that other requests go on meanwhile."""
_PROBED = {"user", "tool"}
"""Whose turns probes are trained on: a tool's result is a text that somebody hands in, too."""
_REMEMBERED = 4096
"""Texts that are not read again: a conversation comes whole with each of its turns."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What the detectors saw in a text, what the policy makes of it, and whether it is ``unsure``
    enough for the guard model."""

    readings: Sequence[Reading]
    verdict: Verdict
    unsure: bool


class Cascade:
    """``types.Guard``. ``detectors`` give scores, ``finders`` spans of data; ``tools`` are the
    rules for calls that policies name, ``default`` is the policy of keys that name none. A
    ``probe`` reads what the engine, which was given it, says of the prompt's rows."""

    def __init__(
        self,
        policies: Mapping[str, Policy],
        *,
        detectors: Sequence[Detector],
        finders: Sequence[Detector] = (),
        judge: Judge | None = None,
        probe: Probe | None = None,
        tools: Mapping[str, ToolPolicy] | None = None,
        default: str = DEFAULT,
    ) -> None:
        self.policies = policies
        self._default = default
        self._detectors, self._finders = detectors, finders
        self._judge, self._probe = judge, probe
        self._tools = tools or {}
        self._secret = secrets.token_bytes(32)
        self._known: OrderedDict[bytes, Seen] = OrderedDict()

    @property
    def name(self) -> str:
        asked = [one for one in (self._probe, self._judge) if one is not None]
        return ", ".join(one.name for one in (*self._detectors, *self._finders, *asked))

    def watch(self, policy: str | None) -> RequestWatch:
        name = self._default if policy is None else policy
        found = self.policies.get(name)
        if found is None:
            known = ", ".join(sorted(self.policies))
            raise NotFoundError(f"there is no guard policy {name!r}; these there are: {known}")
        return RequestWatch(self, name, found)

    def session(self, policy: Policy, said: Sequence[Part]) -> ToolSession | None:
        """The rules for the calls of this conversation, if the policy has any. What frames data in
        it stays the same from turn to turn, and nobody outside can know it."""
        if not policy.tools:
            return None
        first = next((part.text for part in said if part.role == "user"), "")
        nonce = hmac.digest(self._secret, first.encode(errors="surrogatepass"), "sha256").hex()
        return ToolSession(self._tools[policy.tools], nonce=nonce[:16])

    async def seen(self, policy: Policy, side: Side, part: Part, before: str = "") -> Seen:
        """What the detectors see in a text that came after ``before``. Spans are places in it."""
        if len(part.text) + len(before) <= _INLINE:
            return self._seen(policy, side, part, before)
        return await asyncio.to_thread(self._seen, policy, side, part, before)

    async def remembered(self, policy: Policy, side: Side, part: Part) -> Seen:
        """``seen`` of a text by itself, found again where it was read before."""
        head = f"{policy.digest}\0{side}\0{part.role}\0".encode()
        key = hashlib.sha256(head + part.text.encode(errors="surrogatepass")).digest()
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = await self.seen(policy, side, part)
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        else:
            self._known.move_to_end(key)
        return found

    def probed(self, policy: Policy, turns: Sequence[tuple[str, Floats]]) -> Verdict | None:
        """What the probe makes of what users and tools said; ``None`` where none is asked."""
        if self._probe is None or not policy.probe:
            return None
        heard = [rows for role, rows in turns if role in _PROBED & {*policy.roles} and len(rows)]
        readings = [self._probe.read(rows) for rows in heard]
        return together(decide(policy, "prompt", [one], tier="probe") for one in readings)

    async def verdict(
        self, policy: Policy, side: Side, seen: Sequence[Seen], said: Sequence[Part]
    ) -> Verdict:
        """The verdict on what was ``seen`` in ``said``: the guard model's, where that is asked."""
        fast = together(one.verdict for one in seen)
        if self._judge is None or not seen or not self._goes_up(policy, seen):
            return fast
        try:
            async with asyncio.timeout(policy.seconds):
                reading = await self._judge.judge(said, loose=policy.loose)
        except (FreeholdError, TimeoutError) as error:
            LOG.error("the guard model did not answer: %s", error or type(error).__name__)
            return _failed(policy, side, fast, self._judge.name)
        # What an owner calibrates are the detectors.
        own = msgspec.structs.replace(policy, threshold=0.5, answer_threshold=0.5, thresholds={})
        told = decide(own, side, [reading], tier="model")
        known = {*reading.scores, "harmful", "toxicity"}
        rest = [self._without(policy, side, one, known) for one in seen]
        return together([told, *rest])

    def _without(self, policy: Policy, side: Side, seen: Seen, known: set[Category]) -> Verdict:
        """What is left of a verdict, where a better judge has spoken about ``known``."""
        if not seen.unsure and policy.model != "always":
            return seen.verdict
        rest = [
            replace(
                one, scores={c: s for c, s in one.scores.items() if c in DATA or c not in known}
            )
            for one in seen.readings
        ]
        return decide(policy, side, rest)

    @staticmethod
    def _goes_up(policy: Policy, seen: Sequence[Seen]) -> bool:
        if any(one.verdict.stops and not one.unsure for one in seen):
            return False
        asks = policy.model == "uncertain" and any(one.unsure for one in seen)
        return asks or policy.model == "always"

    def _seen(self, policy: Policy, side: Side, part: Part, before: str) -> Seen:
        readings = self._read(policy, side, part, before)
        return Seen(
            readings=readings,
            verdict=decide(policy, side, readings),
            unsure=uncertain(policy, side, readings),
        )

    def _read(self, policy: Policy, side: Side, part: Part, before: str) -> list[Reading]:
        """What the tiers see that the policy asks about. Scores are of the text alone: together
        with what stands before it, a short one would be lost (docs/LOG.md)."""
        wanted = {c for c, action in policy.table(side).items() if action != "allow"}
        readings = []
        if not wanted.issubset(DATA):
            readings = [one.read(part.text) for one in self._detectors]
        if part.role in ("system", "assistant"):
            # Instructions are what a system prompt is.
            readings = [_less(one, "injection") for one in readings]
        if not wanted.isdisjoint(DATA):
            found = (one.read(before + part.text) for one in self._finders)
            readings += [_after(reading, len(before)) for reading in found]
        return readings


def _less(reading: Reading, category: Category) -> Reading:
    return replace(reading, scores={c: s for c, s in reading.scores.items() if c != category})


def _after(reading: Reading, start: int) -> Reading:
    """``reading`` as of the text from ``start`` on: what ended before is not in it."""
    spans: list[Span] = [
        replace(span, start=max(0, span.start - start), end=span.end - start)
        for span in reading.spans
        if span.end > start
    ]
    return replace(reading, spans=tuple(spans))


def _failed(policy: Policy, side: Side, fast: Verdict, name: str) -> Verdict:
    """A judge that does not answer: the strongest thing that the policy ever does, or what the
    detectors alone came to."""
    reason = f"{name} did not answer"
    done = fast.action
    if policy.failure == "block":
        done = max((*policy.table(side).values(), fast.action), key=ACTIONS.index)
    return replace(fast, action=done, reasons=(*fast.reasons, reason), tier="failure")

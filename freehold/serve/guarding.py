"""The counter's side of the guard: it asks, and does what the verdict says.

A prompt is judged before anything is made of it, or where the policy lets every prompt pass, beside
the engine that reads it; each answer as it comes, before it goes out. What was decided is told in a
header, counted, and sealed into the ledger's entry: categories and reasons, never text.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace

from prometheus_client import CollectorRegistry, Counter, Histogram

from freehold.errors import NotFoundError
from freehold.serve.answer import Piece, Said, Usage
from freehold.serve.errors import SERVER, Problem, ProblemError
from freehold.serve.keys import KeyInfo
from freehold.serve.reviews import Reviews, Submission
from freehold.serve.tracing import span
from freehold.types import Guard, Heard, Part, Verdict, Watch

HEADER = "x-freehold-guard"

_CLEAN = Verdict(action="allow")
_SECONDS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2)


class GuardMeter:
    """What Prometheus sees of the guard."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.verdicts = Counter(
            "freehold_guard_verdicts",
            "Prompts and answers judged, by what was done and which tier decided.",
            ("side", "action", "tier"),
            registry=registry,
        )
        self.flagged = Counter(
            "freehold_guard_flagged",
            "Prompts and answers in which a category passed its threshold.",
            ("side", "category"),
            registry=registry,
        )
        self.seconds = Histogram(
            "freehold_guard_prompt_seconds",
            "How long prompts waited to be judged.",
            buckets=_SECONDS,
            registry=registry,
        )

    def judged(self, side: str, verdict: Verdict) -> None:
        self.verdicts.labels(side, verdict.action, verdict.tier).inc()
        for category in verdict.flagged:
            self.flagged.labels(side, category).inc()


class Guarding:
    """What an application does with its ``guard``; ``url`` is the data base of those who review."""

    def __init__(self, guard: Guard, url: str, registry: CollectorRegistry) -> None:
        self._guard = guard
        self._reviews = Reviews(url)
        self._meter = GuardMeter(registry)

    def watched(self, key: KeyInfo | None) -> Watched:
        """The guard of one request of ``key``. Raises ``ProblemError`` (503) for a policy that is
        not known: nothing passes unjudged."""
        return Watched(lambda: self._watch(key), self._guard.name, self._reviews, self._meter, key)

    def _watch(self, key: KeyInfo | None) -> Watch:
        try:
            return self._guard.watch(None if key is None else key.limits.policy)
        except NotFoundError as error:
            message = f"this key's requests cannot be judged ({error}): tell this server's operator"
            raise ProblemError(
                Problem(status=503, message=message, type=SERVER, code="guard_unavailable")
            ) from error


class Watched:
    """One request's guard: judges its prompts, holds its answers, and tells what was decided."""

    def __init__(
        self,
        watch: Callable[[], Watch],
        name: str,
        reviews: Reviews,
        meter: GuardMeter,
        key: KeyInfo | None,
    ) -> None:
        self._new, self._reviews, self._meter, self._key = watch, reviews, meter, key
        self._watches = [watch()]
        self.name = name
        self.policy = self._watches[0].policy
        self.prompt: Verdict | None = None
        self._answers: dict[int, Verdict] = {}
        self._refusal = self._watches[0].refusal
        self._due: Sequence[Sequence[Part]] = ()
        """Prompts that are judged beside the engine."""
        self._judging: asyncio.Task[list[tuple[str, ...]]] | None = None

    # --- the prompt -------------------------------------------------------------------------------

    async def judge(
        self, *conversations: Sequence[Part], beside: bool = False
    ) -> list[tuple[str, ...]]:
        """Judge the request's prompts, each by itself; ``stopped`` says whether it may go on. The
        texts of their parts as they may go on. ``beside``: there will be answers, which begin the
        judging and wait for it, where the policy lets every prompt pass as it is."""
        self._watches += [self._new() for _ in conversations[1:]]
        if beside and self._watches[0].passes:
            self._due = conversations
            return [tuple(part.text for part in said) for said in conversations]
        return await self._timed(conversations)

    async def settled(self) -> None:
        """Wait until every prompt has been judged. Nothing goes out before."""
        self._begin()
        if self._judging is not None:
            await self._judging

    def end(self) -> None:
        """The request is over: nobody waits for a verdict any more."""
        if self._judging is not None:
            self._judging.cancel()

    def _begin(self) -> None:
        """Have what is due judged as soon as this task waits for something."""
        if self._due and self._judging is None:
            self._judging = asyncio.create_task(self._timed(self._due))

    async def _timed(self, conversations: Sequence[Sequence[Part]]) -> list[tuple[str, ...]]:
        begun = time.perf_counter()
        with span("guard") as traced:
            if traced is not None:
                traced.say("freehold.place", "in")
            texts = await self._judge(conversations)
        self._meter.seconds.observe(time.perf_counter() - begun)
        return texts

    async def _judge(self, conversations: Sequence[Sequence[Part]]) -> list[tuple[str, ...]]:
        texts = []
        for watch, said in zip(self._watches, conversations, strict=True):
            checked = await watch.prompt(said)
            verdict = checked.verdict
            if verdict.action == "review":
                verdict = await self._reviewed(watch, verdict, _written(said))
            self._meter.judged("prompt", verdict)
            if self.prompt is None or verdict.stops or self.prompt.action == "allow":
                self.prompt = verdict
            texts.append(checked.texts)
            if verdict.stops:
                break
        return texts

    async def look(self, part: Part) -> Verdict:
        """What the policy makes of a text that nothing is to be done about."""
        return (await self._new().prompt([part])).verdict

    @property
    def stopped(self) -> bool:
        """Whether the prompt was."""
        return self.prompt is not None and self.prompt.stops

    def refuse(self) -> ProblemError:
        """The refusal of what has no answer to say it in."""
        problem = Problem(status=400, message=self._refusal, param="input", code="content_filter")
        return ProblemError(problem)

    async def refused(self, index: int, usage: Usage) -> AsyncGenerator[Piece]:
        """In place of an answer to a prompt that was stopped."""
        usage.said[index] = Said(finish="content_filter")
        yield Piece(index=index)
        yield _instead(Piece(index=index), self._refusal)

    # --- answers ----------------------------------------------------------------------------------

    async def answer(
        self,
        pieces: AsyncGenerator[Piece],
        usage: Usage,
        *,
        index: int,
        prompt: int = 0,
        hear: Callable[[Piece], Heard] | None = None,
        stream: bool = True,
    ) -> AsyncGenerator[Piece]:
        """Pass on the ``pieces`` of an answer to prompt number ``prompt`` as they may go out.
        ``hear`` tells them apart; without it all is words. What is not ``stream`` goes out whole,
        or not at all."""
        watch = self._watches[prompt]
        guard = watch.answer(lambda call: self._reviews.spend(self._about(watch, "call", call)))
        waiting: deque[tuple[Piece, Heard]] = deque()
        whole: list[Piece] = []
        shown = False
        self._begin()
        async with aclosing(pieces):
            async for piece in pieces:
                await self.settled()
                if piece.turns and await self._read(index, watch, piece, usage):
                    yield Piece(index=index)
                    break
                if not (piece.text or piece.tokens or piece.finish):
                    yield piece
                    continue
                heard = Heard(words=piece.text) if hear is None else hear(piece)
                waiting.append((piece, heard))
                release = await guard.feed(heard, last=piece.finish is not None)
                if release.verdict is not None:
                    await self._decided(index, watch, release.verdict, usage)
                    if release.verdict.stops:
                        break
                for one in release.heard:
                    out = _passed(*waiting.popleft(), one)
                    shown = shown or bool(one.thoughts or one.words or one.calls)
                    if stream:
                        yield out
                    else:
                        whole.append(out)
                if piece.finish is not None:
                    self._meter.judged("answer", self._answers.get(index, _CLEAN))
            else:
                for out in whole:
                    yield out
                return
        usage.said[index].finish = "content_filter"
        self._meter.judged("answer", self._answers[index])
        yield _instead(piece, watch.cut if shown and stream else self._refusal)

    async def _read(self, index: int, watch: Watch, piece: Piece, usage: Usage) -> bool:
        """Judge a prompt by what the served model made of it; whether there is to be no answer."""
        verdict = await watch.read(piece.turns)
        if verdict is None:
            return False
        await self._decided(index, watch, verdict, usage)
        return verdict.stops

    async def _decided(self, index: int, watch: Watch, verdict: Verdict, usage: Usage) -> None:
        """Remember what counts of an answer's verdicts: the first that does anything, and what
        stops it."""
        if verdict.action == "review":
            text = "".join(usage.said[index].texts) if verdict.text is None else verdict.text
            side = "answer" if verdict.text is None else "call"
            number, _ = await self._submit(watch, side, verdict, text)
            verdict = self._waits(watch, verdict, number)
        before = self._answers.get(index, _CLEAN)
        if verdict.stops or before.action == "allow":
            self._answers[index] = verdict

    # --- reviews ----------------------------------------------------------------------------------

    async def _reviewed(self, watch: Watch, verdict: Verdict, text: str) -> Verdict:
        """A prompt that somebody is to read: let pass where they have approved it."""
        number, approved = await self._submit(watch, "prompt", verdict, text)
        if not approved:
            return self._waits(watch, verdict, number)
        reasons = (*verdict.reasons, f"approved as review {number}")
        return replace(verdict, action="allow", reasons=reasons, tier="review")

    def _waits(self, watch: Watch, verdict: Verdict, number: str) -> Verdict:
        self._refusal = f"{watch.refusal} (review {number})"
        return replace(verdict, reasons=(*verdict.reasons, f"waits as review {number}"))

    async def _submit(
        self, watch: Watch, side: str, verdict: Verdict, text: str
    ) -> tuple[str, bool]:
        about = self._about(watch, side, text)
        return await self._reviews.submit(about, verdict, keep=watch.keeps)

    def _about(self, watch: Watch, side: str, text: str) -> Submission:
        key = "" if self._key is None else self._key.id
        policy = watch.policy.rpartition("@")[0]
        return Submission(key=key, policy=policy, side=side, text=text)

    # --- what is told -----------------------------------------------------------------------------

    def told(self) -> tuple[str, ...]:
        """What was decided so far, for the ledger."""
        return tuple(f"{where}: {_told(one)}" for where, one in self._all())

    @property
    def header(self) -> bytes:
        """What a client is told: sides, actions and categories."""
        told = [
            f"{where}={one.action}" + (f":{'+'.join(one.flagged)}" if one.flagged else "")
            for where, one in self._all()
        ]
        return ", ".join([*told, f"policy={self.policy}"]).encode("ascii", "replace")

    def _all(self) -> list[tuple[str, Verdict]]:
        first = [] if self.prompt is None else [("prompt", self.prompt)]
        return first + [(f"answer-{i}", one) for i, one in sorted(self._answers.items())]


def _told(verdict: Verdict) -> str:
    reasons = "; ".join(verdict.reasons)
    return f"{verdict.action} by {verdict.tier}" + (f": {reasons}" if reasons else "")


def _passed(piece: Piece, heard: Heard, out: Heard) -> Piece:
    """``piece``, which was ``heard``, as it may go ``out``. Where that is another, its tokens would
    tell."""
    if out is heard:
        return replace(piece, heard=out)
    return replace(piece, text=out.words, heard=out, tokens=())


def _instead(piece: Piece, words: str) -> Piece:
    """The last piece of an answer that was stopped."""
    return Piece(
        index=piece.index,
        text=words,
        heard=Heard(words=words),
        count=piece.count,
        finish="content_filter",
    )


def _written(said: Sequence[Part]) -> str:
    return "\n".join(f"[{part.role}]\n{part.text}" for part in said)

"""Questions to an engine, many at once.

Options of one question, and prompts with the same examples before them, begin alike. An answer's
prompt is shared through the engine's prefix cache, a scored text is not; so where the engine is our
own an option is put to it as an answer whose every token is given (``Sampling.cutoff``), and only
its log-probabilities are taken. Elsewhere, and for long options, the whole is scored.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass

from freehold.errors import EngineError, UsageError
from freehold.evals.kinds import WEIGHED, Chosen, Question, Read, Reply, Written
from freehold.evals.task import Task
from freehold.types import (
    MAX_CUTOFF_IDS,
    MAX_TOP_LOGPROBS,
    Codec,
    Cutoff,
    Done,
    Engine,
    Ids,
    Sampling,
    Token,
)

_NEVER = -1
"""A token that no answer has."""


@dataclass(frozen=True, kw_only=True)
class Weighed:
    """The log-probability of given ids, in nats; whether greedy choice would have given them, if
    that was asked for."""

    logprob: float
    greedy: bool


class Asker:
    """Puts questions to ``engine``, at most ``at_once`` requests together."""

    def __init__(self, engine: Engine, codec: Codec, *, at_once: int) -> None:
        self._engine = engine
        self._codec = codec
        self._room = asyncio.Semaphore(at_once)
        # What shows its inside is our own: only there are given tokens measured.
        self._gives = "taps" in engine.card.caps
        self._scores = "score" in engine.card.caps

    def check(self, task: Task) -> None:
        """Raises ``UsageError`` for a task whose questions this engine cannot answer."""
        if task.kind in WEIGHED and not self._scores:
            raise UsageError(
                f"task {task.name}: {self._engine.card.name} runs on "
                f"{self._engine.card.numerics}, which gives no log-probabilities of given text. "
                "Leave it out, or ask Freehold's own engine or a server that takes token ids",
                param="suite",
            )

    async def ask(self, question: Question) -> Reply:
        """One question. Raises what the engine raises."""
        if isinstance(question, Written):
            sampling = Sampling(
                temperature=0, max_tokens=question.max_tokens, stop_ids=self._codec.stop_ids
            )
            return Reply(text=await self.write(question.ids, sampling))
        if isinstance(question, Chosen):
            pairs = [(question.prefix, option) for option in question.options]
        else:
            pairs = [(window[:1], window[1:]) for window in question.windows]
        whole = isinstance(question, Read)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self.weigh(a, b, whole=whole)) for a, b in pairs]
        return Reply(logprobs=tuple(task.result().logprob for task in tasks))

    async def write(
        self,
        ids: Ids,
        sampling: Sampling,
        *,
        stop: Sequence[str] = (),
        thoughts: bool = False,
        ended: bool = False,
    ) -> str:
        """The answer to ``ids``, to a stop string if one comes; with or without what a model that
        reasons thinks before it speaks. ``ended``: nothing where the answer did not end by itself.
        """
        decoder, listener = self._codec.decoder(stop), self._codec.listener(ids)
        generate = self._engine.generate
        texts = []
        async with self._room, aclosing(generate(ids, sampling)) as events:
            async for event in events:
                if isinstance(event, Token):
                    delta = decoder.push(event.id)
                    texts.append(delta.text)
                    if delta.stopped:
                        break
                elif ended and isinstance(event, Done) and event.reason != "stop":
                    return ""
            else:
                texts.append(decoder.finish().text)
        whole = "".join(texts)
        return whole if thoughts else listener.feed(whole).words + listener.finish().words

    async def next(self, ids: Ids) -> dict[int, float]:
        """The likeliest tokens behind ``ids`` and their log-probabilities: ``MAX_TOP_LOGPROBS`` of
        them."""
        sampling = Sampling(temperature=0, max_tokens=1, logprobs=MAX_TOP_LOGPROBS)
        async with self._room, aclosing(self._engine.generate(ids, sampling)) as events:
            async for event in events:
                if isinstance(event, Token):
                    return dict(event.top)
        raise EngineError("the engine gave no token")

    async def weigh(
        self, prefix: Ids, ids: Ids, *, whole: bool = False, greedy: bool = False
    ) -> Weighed:
        """log p(ids | prefix). ``whole``: one text, whose prefix nobody shares; ``greedy``: also
        whether each of ``ids`` is the likeliest one."""
        async with self._room:
            if not ids:
                return Weighed(logprob=0.0, greedy=True)
            if whole or not self._gives or len(ids) > MAX_CUTOFF_IDS:
                return await self._scored(prefix, ids, top=int(greedy))
            return await self._given(prefix, ids, top=int(greedy))

    async def _scored(self, prefix: Ids, ids: Ids, *, top: int) -> Weighed:
        found = await self._engine.score([*prefix, *ids], top=top)
        n = len(prefix)
        best = found.top[n - 1 : -1] if top else ()
        return Weighed(
            logprob=float(found.values[n:].sum(dtype="float64")),
            greedy=bool(top)
            and all(pairs[0][0] == one for pairs, one in zip(best, ids, strict=True)),
        )

    async def _given(self, prefix: Ids, ids: Ids, *, top: int) -> Weighed:
        sampling = Sampling(
            temperature=0,
            max_tokens=len(ids),
            logprobs=top,
            cutoff=Cutoff(after=0, unless=_NEVER, ids=tuple(ids)),
        )
        tokens = []
        async with aclosing(self._engine.generate(prefix, sampling)) as events:
            async for event in events:
                if isinstance(event, Token):
                    tokens.append(event)
        if [token.id for token in tokens] != list(ids):
            raise EngineError("the engine did not take the tokens that it was given")
        if any(token.logprob is None for token in tokens):
            raise EngineError("the engine gave no log-probability with a token")
        return Weighed(
            logprob=sum(token.logprob or 0.0 for token in tokens),
            greedy=bool(top) and all(token.top[0][0] == token.id for token in tokens),
        )

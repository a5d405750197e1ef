"""Questions to an engine, many at once.

Options of one question, and prompts with the same examples before them, begin alike. An answer's
prompt is shared through the engine's prefix cache, a scored text is not; so where the engine is our
own an option is put to it as an answer whose every token is given (``Sampling.cutoff``), and only
its log-probabilities are taken. Elsewhere, and for long options, the whole is scored.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from freehold.errors import EngineError, UsageError
from freehold.evals.kinds import Chosen, Question, Read, Reply, Written
from freehold.types import MAX_CUTOFF_IDS, Codec, Cutoff, Engine, Sampling, Token

_NEVER = -1
"""A token that no answer has."""


class Asker:
    """Puts questions to ``engine``, at most ``at_once`` requests together."""

    def __init__(self, engine: Engine, codec: Codec, *, at_once: int) -> None:
        self._engine = engine
        self._codec = codec
        self._room = asyncio.Semaphore(at_once)
        # What shows its inside is our own: only there are given tokens measured.
        self._gives = "taps" in engine.card.caps
        self._scores = "score" in engine.card.caps

    def check(self, question: Question) -> None:
        """Raises ``UsageError`` for what this engine cannot answer."""
        if not isinstance(question, Written) and not self._scores:
            raise UsageError(
                f"{self._engine.card.name} runs on {self._engine.card.numerics}, which gives no "
                "log-probabilities of given text: such tasks need Freehold's own engine, or a "
                "server that takes token ids",
                param="suite",
            )

    async def ask(self, question: Question) -> Reply:
        """One question. Raises what the engine raises."""
        if isinstance(question, Written):
            return Reply(text=await self._write(question))
        if isinstance(question, Chosen):
            pairs = [(question.prefix, option) for option in question.options]
        else:
            pairs = [(window[:1], window[1:]) for window in question.windows]
        whole = isinstance(question, Read)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._weigh(a, b, whole)) for a, b in pairs]
        return Reply(logprobs=tuple(task.result() for task in tasks))

    async def _write(self, question: Written) -> str:
        sampling = Sampling(
            temperature=0, max_tokens=question.max_tokens, stop_ids=self._codec.stop_ids
        )
        decoder, listener = self._codec.decoder(), self._codec.listener(question.ids)
        words = []
        generate = self._engine.generate
        async with self._room, aclosing(generate(question.ids, sampling)) as events:
            async for event in events:
                if isinstance(event, Token):
                    words.append(listener.feed(decoder.push(event.id).text).words)
        words += [listener.feed(decoder.finish().text).words, listener.finish().words]
        return "".join(words)

    async def _weigh(self, prefix: tuple[int, ...], ids: tuple[int, ...], whole: bool) -> float:
        """log p(ids | prefix), in nats."""
        async with self._room:
            if not ids:
                return 0.0
            if whole or not self._gives or len(ids) > MAX_CUTOFF_IDS:
                found = await self._engine.score([*prefix, *ids])
                return float(found.values[len(prefix) :].sum(dtype="float64"))
            return await self._given(prefix, ids)

    async def _given(self, prefix: tuple[int, ...], ids: tuple[int, ...]) -> float:
        sampling = Sampling(
            temperature=0,
            max_tokens=len(ids),
            logprobs=0,
            cutoff=Cutoff(after=0, unless=_NEVER, ids=ids),
        )
        seen: list[int] = []
        total = 0.0
        async with aclosing(self._engine.generate(prefix, sampling)) as events:
            async for event in events:
                if isinstance(event, Token):
                    if event.logprob is None:
                        raise EngineError("the engine gave no log-probability with a token")
                    seen.append(event.id)
                    total += event.logprob
        if tuple(seen) != ids:
            raise EngineError("the engine did not take the tokens that it was given")
        return total

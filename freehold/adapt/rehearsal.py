"""What a model says of itself, written down to be learnt beside new data: it rehearses, and forgets
less of what it can do.

Nobody has the data that an open-weight model was tuned on. But begun at a user's empty turn, such a
model writes questions like those it was taught with; its own likeliest answers to them are the
replay data that comes nearest. The questions are found as in Magpie (arXiv 2406.08464), and that
self-made answers keep abilities is after SDFT (arXiv 2402.13669).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from freehold.errors import UsageError
from freehold.evals.asking import Asker
from freehold.types import Codec, Engine, Ids, Sampling

AHEAD = 4
"""Conversations that wait for each one that runs, so that a long one keeps no other back."""
MOST_TRIES = 6
"""Conversations that may be begun for each that is wanted: some never end, or say nothing."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """``count`` conversations, the questions drawn with ``seed``, or ``questions`` in their order;
    ``question`` and ``answer`` are the most tokens that each may take. One that does not end by
    then is left out."""

    count: int
    seed: int = 0
    question: int = 256
    answer: int = 512
    questions: tuple[str, ...] = ()

    @property
    def most_tries(self) -> int:
        return len(self.questions) or MOST_TRIES * self.count


@dataclass(frozen=True, kw_only=True)
class Talk:
    """One question and its answer. ``number`` (from 0) is the try it came of: the same model, seed
    and number give the same words."""

    number: int
    question: str
    answer: str


async def rehearse(
    engine: Engine,
    codec: Codec,
    plan: Plan,
    *,
    at_once: int,
    first: int = 0,
    known: frozenset[str] = frozenset(),
) -> AsyncGenerator[Talk | None]:
    """What came of try ``first`` and of each one after it, in order: a conversation, or ``None``
    where none did; until there are ``plan.count`` with those already ``known`` (by their questions,
    none of which comes again), or all questions that are given were asked. ``at_once`` run
    together.

    Raises ``UsageError`` where the model has no chat template, or too few of the conversations that
    it begins end; and what the engine raises.
    """
    talker = _Talker(engine, codec, plan, at_once)
    asked = set(known)
    running: deque[asyncio.Task[Talk | None]] = deque()
    number, last = first, plan.most_tries
    try:
        while len(asked) < plan.count:
            while len(running) < AHEAD * at_once and number < last:
                running.append(asyncio.create_task(talker.talk(number)))
                number += 1
            if not running and plan.questions:
                return
            if not running:
                raise UsageError(
                    f"{engine.card.name} brought {len(asked)} conversations to an end in {last} "
                    f"tries, where {plan.count} are wanted: take a smaller --count",
                    param="count",
                )
            found = await running[0]
            running.popleft()
            if found is not None and found.question in asked:
                found = None
            if found is not None:
                asked.add(found.question)
            yield found
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def opening(codec: Codec) -> Ids:
    """A prompt up to where the first user begins to speak. Raises ``UsageError``."""
    ids = codec.chat([{"role": "user", "content": "x"}])
    users = [turn for turn in codec.turns(ids) if turn.role == "user"]
    if not users or not users[0].start:
        raise UsageError("the model's chat template marks no user's turn", param="model")
    return ids[: users[0].start]


class _Talker:
    """Begins conversations, ``at_once`` of them together."""

    def __init__(self, engine: Engine, codec: Codec, plan: Plan, at_once: int) -> None:
        self._codec, self._plan = codec, plan
        self._asker = Asker(engine, codec, at_once=at_once)
        self._begun = () if plan.questions else opening(codec)
        self._room = asyncio.Semaphore(at_once)

    async def talk(self, number: int) -> Talk | None:
        plan, codec = self._plan, self._codec
        likeliest = Sampling(temperature=0, max_tokens=plan.answer, stop_ids=codec.stop_ids)
        async with self._room:  # of whole conversations: early ones are not to wait for late ones
            question = plan.questions[number] if plan.questions else await self._asked(number)
            if not question:
                return None
            prompt = codec.chat([{"role": "user", "content": question}])
            answer = (await self._asker.write(prompt, likeliest, ended=True)).strip()
        return Talk(number=number, question=question, answer=answer) if answer else None

    async def _asked(self, number: int) -> str:
        """The question that the model itself begins with in try ``number``."""
        drawn = Sampling(
            temperature=1.0,
            top_p=0.95,
            seed=self._plan.seed,
            choice=number,
            max_tokens=self._plan.question,
            stop_ids=self._codec.stop_ids,
        )
        return (await self._asker.write(self._begun, drawn, ended=True)).strip()

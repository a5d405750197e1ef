"""``POST /v1/completions``: text goes on from where the prompt ends."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from freehold.errors import UsageError
from freehold.serve import parts
from freehold.serve.answer import Ask, Piece, Scored, Usage, answer, interleave, scored
from freehold.serve.asker import Asker, asker_of, record
from freehold.serve.desk import Desk, Served, desk_of
from freehold.serve.dialects import event
from freehold.serve.guarding import Watched
from freehold.serve.intake import read
from freehold.serve.reply import Outlet, Reply
from freehold.serve.sampling import check_choices, sampling
from freehold.serve.schema import CompletionRequest
from freehold.serve.shapes import CompletionLogprobs, Whole, new_id
from freehold.serve.structured import held


async def completions(request: Request) -> Response:
    """Continue one prompt or several, whole or as a stream."""
    desk = desk_of(request)
    asked = await read(request, CompletionRequest)
    served = desk.find(asked.model, request)
    check_choices(asked.n, desk.limits)
    work = _Completion(desk, served, asked, asker_of(request))
    spending, watched = desk.spending(request, served), desk.watched(request)
    return Reply(desk, served.hosted, work.run, spending, watched=watched)


@dataclass(frozen=True)
class _Echo:
    """A prompt to be repeated before its answer."""

    text: str = ""
    tokens: tuple[Scored, ...] = ()


class _Completion:
    """One request: ``n`` choices for each prompt, numbered prompt by prompt."""

    def __init__(self, desk: Desk, served: Served, asked: CompletionRequest, asker: Asker) -> None:
        self._desk = desk
        self._asker = asker
        self._served = served
        self._asked = asked
        self._held = held(asked.response_format)
        self._head = {
            "id": new_id("cmpl"),
            "object": "text_completion",
            "created": int(time.time()),
            "model": served.hosted.name,
            "system_fingerprint": served.hosted.fingerprint,
        }

    async def run(self, outlet: Outlet) -> None:
        asked, limits, watched = self._asked, self._desk.limits, outlet.watched
        prompts = await self._served.tokenising.prompts(asked.prompt, limits.max_prompts)
        if watched is not None:
            prompts = await self._judged(prompts, watched)
        usage = Usage(
            prompt_tokens=sum(map(len, prompts)),
            choices_per_prompt=asked.n,
            verdicts=tuple if watched is None else watched.told,
        )
        asks = self._asks(prompts)
        answers = len(asks) if asked.max_tokens else 0
        await outlet.spending.begin(usage, answers=answers, most=asked.max_tokens, firm=True)
        given = {"prompt": asked.prompt, "echo": asked.echo}
        leaf = record(self._asker, self._served.hosted, asks, asked.n, given, watched=watched)
        outlet.account.open(leaf, usage)
        choices = [self._answer(ask, usage, watched) for ask in asks]
        echoes = [await self._echo(place, ids) for place, ids in enumerate(prompts)]
        pieces = outlet.account.sealed(interleave(choices, limits.at_once), len(asks))
        pieces = self._echoed(pieces, echoes)
        if asked.stream:
            await outlet.stream(self._chunks(pieces, usage))
        else:
            count = len(prompts) * asked.n
            await outlet.whole(await self._whole(pieces, usage, count))

    async def _judged(self, prompts: list[list[int]], watched: Watched) -> list[list[int]]:
        """Have the guard read the prompts; their ids, of what is masked anew."""
        said = parts.of_prompts(self._asked.prompt, self._served.hosted.codec)
        texts = await watched.judge(*said, beside=self._asked.max_tokens > 0)
        for place, (before, after) in enumerate(zip(said, texts, strict=False)):
            if before[0].text != after[0]:
                (prompts[place],) = await self._served.tokenising.prompts(after[0], 1)
        return prompts

    def _asks(self, prompts: Sequence[list[int]]) -> list[Ask]:
        asked, served = self._asked, self._served
        asks = []
        for place, ids in enumerate(prompts):
            max_tokens = served.tokenising.room(len(ids), "max_tokens", asked.max_tokens)
            seed = secrets.randbits(63) if asked.seed is None else asked.seed
            for choice in range(asked.n):
                settings = sampling(
                    asked,
                    served.hosted,
                    max_tokens=max(max_tokens, 1),
                    top=asked.logprobs,
                    seed=seed,
                    choice=choice,
                    held=self._held,
                )
                index = place * asked.n + choice
                ask = Ask(index=index, ids=ids, sampling=settings, stop=asked.stop, held=self._held)
                asks.append(ask)
        return asks

    def _answer(self, ask: Ask, usage: Usage, watched: Watched | None) -> AsyncGenerator[Piece]:
        if watched is not None and watched.stopped:
            return watched.refused(ask.index, usage)
        if self._asked.max_tokens == 0:
            return _nothing(ask.index)
        hosted, asked = self._served.hosted, self._asked
        pieces = answer(hosted.engine, hosted.codec, ask, usage, self._served.meter)
        if watched is None:
            return pieces
        place = ask.index // asked.n
        return watched.answer(pieces, usage, index=ask.index, prompt=place, stream=asked.stream)

    async def _echo(self, place: int, ids: list[int]) -> _Echo:
        asked, hosted = self._asked, self._served.hosted
        if not asked.echo:
            return _Echo()
        prompt = asked.prompt[place] if _several(asked.prompt) else asked.prompt
        if not isinstance(prompt, str):
            prompt = b"".join(map(hosted.codec.token_bytes, ids)).decode(errors="replace")
        if asked.logprobs is None:
            return _Echo(prompt)
        if "score" not in hosted.card.caps:
            raise UsageError(
                "echo with logprobs needs a model that scores its prompt, and this one's engine "
                "does not: leave out one of them",
                param="echo",
            )
        found = await hosted.engine.score(ids, top=asked.logprobs)
        first = scored(hosted.codec, ids[0], None, ())
        rest = (
            scored(hosted.codec, ids[i], float(found.values[i]), _at(found.top, i - 1))
            for i in range(1, len(ids))
        )
        return _Echo(prompt, (first, *rest))

    async def _echoed(
        self, pieces: AsyncGenerator[Piece], echoes: Sequence[_Echo]
    ) -> AsyncGenerator[Piece]:
        """Put each prompt in its choices' first piece, which is empty."""
        async with aclosing(pieces):
            async for piece in pieces:
                if piece.text or piece.tokens or piece.finish is not None:
                    yield piece
                    continue
                echo = echoes[piece.index // self._asked.n]
                yield Piece(index=piece.index, text=echo.text, tokens=echo.tokens)

    async def _whole(
        self, pieces: AsyncGenerator[Piece], usage: Usage, count: int
    ) -> dict[str, Any]:
        choices = [Whole() for _ in range(count)]
        async with aclosing(pieces):
            async for piece in pieces:
                choices[piece.index].add(piece)
        top = self._asked.logprobs
        made = [
            {
                "text": choice.text,
                "index": index,
                "logprobs": None if top is None else CompletionLogprobs(top).of(choice.tokens),
                "finish_reason": choice.finish,
            }
            for index, choice in enumerate(choices)
        ]
        return {**self._head, "choices": made, "usage": usage.json()}

    async def _chunks(self, pieces: AsyncGenerator[Piece], usage: Usage) -> AsyncGenerator[bytes]:
        counts: dict[int, CompletionLogprobs] = {}
        top = self._asked.logprobs
        async with aclosing(pieces):
            async for piece in pieces:
                if not (piece.text or piece.tokens or piece.finish):
                    continue
                logprobs = None
                if top is not None and piece.tokens:
                    logprobs = counts.setdefault(piece.index, CompletionLogprobs(top)).of(
                        piece.tokens
                    )
                yield self._chunk(piece, logprobs)
        if self._asked.include_usage:
            yield event({**self._head, "choices": [], "usage": usage.json()})

    def _chunk(self, piece: Piece, logprobs: dict[str, Any] | None) -> bytes:
        choice = {
            "text": piece.text,
            "index": piece.index,
            "logprobs": logprobs,
            "finish_reason": piece.finish,
        }
        chunk: dict[str, Any] = {**self._head, "choices": [choice]}
        if self._asked.include_usage:
            chunk["usage"] = None
        return event(chunk)


async def _nothing(index: int) -> AsyncGenerator[Piece]:
    """An answer of no tokens, for a prompt that is only to be echoed."""
    yield Piece(index=index)
    yield Piece(index=index, finish="length")


def _several(prompt: object) -> bool:
    return isinstance(prompt, list) and type(prompt[0]) is not int


def _at(top: Sequence[tuple[tuple[int, float], ...]], place: int) -> tuple[tuple[int, float], ...]:
    return top[place] if place < len(top) else ()

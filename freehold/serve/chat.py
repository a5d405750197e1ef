"""``POST /v1/chat/completions``."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from freehold.serve import structured, tools
from freehold.serve.answer import Ask, Piece, Scored, Usage, answer, interleave
from freehold.serve.asker import Asker, asker_of, record
from freehold.serve.desk import Desk, Served, desk_of
from freehold.serve.intake import read
from freehold.serve.reply import Outlet, Reply, event
from freehold.serve.sampling import check_choices, sampling
from freehold.serve.schema import ChatRequest
from freehold.serve.shapes import chat_logprobs, new_id
from freehold.serve.turn import Turn


async def chat_completions(request: Request) -> Response:
    """Answer a conversation, whole or as a stream."""
    desk = desk_of(request)
    asked = await read(request, ChatRequest)
    served = desk.find(asked.model)
    check_choices(asked.n, desk.limits)
    work = _Chat(desk, served, asked, asker_of(request))
    return Reply(desk, served.hosted, work.run)


class _Chat:
    """One conversation's next turn."""

    def __init__(self, desk: Desk, served: Served, asked: ChatRequest, asker: Asker) -> None:
        self._desk = desk
        self._asker = asker
        self._served = served
        self._asked = asked
        codec = served.hosted.codec
        self._held = tools.held(asked, codec, structured.held(asked.response_format))
        self._tools = tools.shown(asked, codec)
        self._messages = [message.shown() for message in asked.messages]
        self._head = {
            "id": new_id("chatcmpl"),
            "object": "chat.completion.chunk" if asked.stream else "chat.completion",
            "created": int(time.time()),
            "model": served.hosted.name,
            "system_fingerprint": served.hosted.fingerprint,
            "service_tier": "default",
        }

    async def run(self, outlet: Outlet) -> None:
        asks = await self._asks()
        usage = Usage(prompt_tokens=len(asks[0].ids), choices_per_prompt=len(asks))
        hosted = self._served.hosted
        given = {"messages": self._messages, "options": self._asked.options}
        if self._tools:
            given["tools"] = self._tools
        turns = [Turn(hosted.codec.listener(ask.ids, self._tools)) for ask in asks]
        outlet.account.open(record(self._asker, hosted, asks, self._asked.n, given), usage)
        answers = [
            answer(hosted.engine, hosted.codec, ask, usage, self._served.meter) for ask in asks
        ]
        pieces = interleave(answers, self._desk.limits.at_once)
        pieces = outlet.account.sealed(pieces, len(asks))
        if self._asked.stream:
            await outlet.stream(self._chunks(pieces, turns, usage))
        else:
            await outlet.whole(await self._whole(pieces, turns, usage))

    async def _asks(self) -> list[Ask]:
        asked, served = self._asked, self._served
        ids = await served.tokenising.chat(self._messages, asked.options, self._tools)
        codec, held = served.hosted.codec, self._held
        if held is not None:
            grammar = codec.after_thinking(ids, held.grammar)
            held = structured.limited(grammar, held.param)
        cutoff = None if asked.budget is None else codec.cutoff(ids, asked.budget)
        name, wanted = asked.limit
        max_tokens = served.tokenising.room(len(ids), name, wanted)
        top = (asked.top_logprobs or 0) if asked.logprobs else None
        seed = secrets.randbits(63) if asked.seed is None else asked.seed
        return [
            Ask(
                index=choice,
                ids=ids,
                sampling=sampling(
                    asked,
                    served.hosted,
                    max_tokens=max_tokens,
                    top=top,
                    seed=seed,
                    choice=choice,
                    held=held,
                    cutoff=cutoff,
                ),
                stop=(*asked.stop, *tools.stops(asked)),
                held=held,
            )
            for choice in range(asked.n)
        ]

    async def _whole(
        self, pieces: AsyncGenerator[Piece], turns: Sequence[Turn], usage: Usage
    ) -> dict[str, Any]:
        async with aclosing(pieces):
            async for piece in pieces:
                turns[piece.index].take(piece)
        made = [
            {
                "index": index,
                "message": turn.message(),
                "logprobs": chat_logprobs(turn.tokens) if self._asked.logprobs else None,
                "finish_reason": turn.finish,
            }
            for index, turn in enumerate(turns)
        ]
        return {**self._head, "choices": made, "usage": usage.json()}

    async def _chunks(
        self, pieces: AsyncGenerator[Piece], turns: Sequence[Turn], usage: Usage
    ) -> AsyncGenerator[bytes]:
        async with aclosing(pieces):
            async for piece in pieces:
                turn = turns[piece.index]
                delta = turn.delta(turn.take(piece))
                if not (piece.text or piece.tokens or piece.finish):
                    opening = {"role": "assistant", "content": "", "refusal": None}
                    yield self._chunk(piece.index, opening)
                if delta or (piece.finish and turn.waiting):
                    yield self._chunk(piece.index, delta or {"content": ""}, tokens=turn.scored())
                if piece.finish is not None:
                    yield self._chunk(piece.index, {}, finish=turn.finish)
        if self._asked.include_usage:
            yield event({**self._head, "choices": [], "usage": usage.json()})

    def _chunk(
        self,
        index: int,
        delta: dict[str, Any],
        *,
        tokens: Sequence[Scored] = (),
        finish: str | None = None,
    ) -> bytes:
        choice = {
            "index": index,
            "delta": delta,
            "logprobs": chat_logprobs(tokens) if tokens else None,
            "finish_reason": finish,
        }
        chunk: dict[str, Any] = {**self._head, "choices": [choice]}
        if self._asked.include_usage:
            chunk["usage"] = None
        return event(chunk)

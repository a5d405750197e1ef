"""``POST /v1/chat/completions``."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from freehold.serve.answer import Ask, Piece, Usage, answer, interleave
from freehold.serve.asker import Asker, asker_of, record
from freehold.serve.desk import Desk, Served, desk_of
from freehold.serve.intake import read
from freehold.serve.reply import Outlet, Reply, event
from freehold.serve.sampling import check_choices, sampling
from freehold.serve.schema import ChatRequest
from freehold.serve.shapes import Whole, chat_logprobs, new_id
from freehold.serve.structured import held


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
        self._held = held(asked.response_format)
        self._messages = [
            message.model_dump(include={"role", "content", "reasoning_content"}, exclude_none=True)
            for message in asked.messages
        ]
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
        outlet.account.open(record(self._asker, hosted, asks, self._asked.n, given), usage)
        answers = [
            answer(hosted.engine, hosted.codec, ask, usage, self._served.meter) for ask in asks
        ]
        pieces = interleave(answers, self._desk.limits.at_once)
        pieces = outlet.account.sealed(pieces, len(asks))
        if self._asked.stream:
            await outlet.stream(self._chunks(pieces, usage))
        else:
            await outlet.whole(await self._whole(pieces, usage))

    async def _asks(self) -> list[Ask]:
        asked, served = self._asked, self._served
        ids = await served.tokenising.chat(self._messages, asked.options)
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
                    held=self._held,
                ),
                stop=asked.stop,
                held=self._held,
            )
            for choice in range(asked.n)
        ]

    async def _whole(self, pieces: AsyncGenerator[Piece], usage: Usage) -> dict[str, Any]:
        choices = [Whole() for _ in range(self._asked.n)]
        async with aclosing(pieces):
            async for piece in pieces:
                choices[piece.index].add(piece)
        made = [
            {
                "index": index,
                "message": {"role": "assistant", "content": choice.text, "refusal": None},
                "logprobs": chat_logprobs(choice.tokens) if self._asked.logprobs else None,
                "finish_reason": choice.finish,
            }
            for index, choice in enumerate(choices)
        ]
        return {**self._head, "choices": made, "usage": usage.json()}

    async def _chunks(self, pieces: AsyncGenerator[Piece], usage: Usage) -> AsyncGenerator[bytes]:
        async with aclosing(pieces):
            async for piece in pieces:
                if piece.text or piece.tokens:
                    yield self._chunk(piece, {"content": piece.text})
                elif piece.finish is None:
                    yield self._chunk(piece, {"role": "assistant", "content": "", "refusal": None})
                if piece.finish is not None:
                    yield self._chunk(Piece(index=piece.index, finish=piece.finish), {})
        if self._asked.include_usage:
            yield event({**self._head, "choices": [], "usage": usage.json()})

    def _chunk(self, piece: Piece, delta: dict[str, Any]) -> bytes:
        choice = {
            "index": piece.index,
            "delta": delta,
            "logprobs": chat_logprobs(piece.tokens) if piece.tokens else None,
            "finish_reason": None if delta else piece.finish,
        }
        chunk: dict[str, Any] = {**self._head, "choices": [choice]}
        if self._asked.include_usage:
            chunk["usage"] = None
        return event(chunk)

"""``POST /v1/chat/completions``."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from freehold.serve.answer import Scored, Usage
from freehold.serve.conversation import converse
from freehold.serve.desk import Hosted, desk_of
from freehold.serve.dialects import OPENAI, event
from freehold.serve.intake import read
from freehold.serve.schema import ChatRequest
from freehold.serve.shapes import chat_logprobs, new_id
from freehold.serve.turn import Turn
from freehold.types import Heard


async def chat_completions(request: Request) -> Response:
    """Answer a conversation, whole or as a stream."""
    desk = desk_of(request)
    asked = await read(request, ChatRequest)
    form = ChatForm(asked, desk.find(asked.model, request).hosted)
    return converse(request, desk, asked, form)


class ChatForm:
    """``conversation.Form`` of OpenAI's chat completions."""

    dialect = OPENAI
    calls = "call"

    def __init__(self, asked: ChatRequest, hosted: Hosted) -> None:
        self._asked = asked
        self._head = {
            "id": new_id("chatcmpl"),
            "object": "chat.completion.chunk" if asked.stream else "chat.completion",
            "created": int(time.time()),
            "model": hosted.name,
            "system_fingerprint": hosted.fingerprint,
            "service_tier": "default",
        }

    def whole(self, turns: Sequence[Turn], usage: Usage) -> dict[str, Any]:
        choices = [
            {
                "index": index,
                "message": turn.message(),
                "logprobs": chat_logprobs(turn.tokens) if self._asked.logprobs else None,
                "finish_reason": turn.finish,
            }
            for index, turn in enumerate(turns)
        ]
        return {**self._head, "choices": choices, "usage": _usage(turns, usage)}

    def begun(self, index: int, usage: Usage) -> Iterator[bytes]:
        yield self._chunk(index, {"role": "assistant", "content": "", "refusal": None})

    def said(self, index: int, turn: Turn, heard: Heard) -> Iterator[bytes]:
        delta = turn.delta(heard)
        if delta or (turn.finish is not None and turn.waiting):
            yield self._chunk(index, delta or {"content": ""}, tokens=turn.scored())

    def ended(self, index: int, turn: Turn) -> Iterator[bytes]:
        yield self._chunk(index, {}, finish=turn.finish)

    def closed(self, turns: Sequence[Turn], usage: Usage) -> Iterator[bytes]:
        if self._asked.include_usage:
            yield event({**self._head, "choices": [], "usage": _usage(turns, usage)})

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


def _usage(turns: Sequence[Turn], usage: Usage) -> dict[str, Any]:
    thought = sum(turn.thought_tokens for turn in turns)
    told = usage.json()
    return told | {"completion_tokens_details": {"reasoning_tokens": thought}} if thought else told

"""``POST /v1/messages`` and ``/v1/messages/count_tokens``: Anthropic's Messages API."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from freehold.serve import tools
from freehold.serve.answer import Usage
from freehold.serve.conversation import converse
from freehold.serve.desk import Hosted, desk_of
from freehold.serve.dialects import ANTHROPIC, event
from freehold.serve.intake import read
from freehold.serve.messages_schema import CountRequest, MessagesRequest
from freehold.serve.shapes import new_id
from freehold.serve.turn import Turn
from freehold.serve.wire import encode
from freehold.types import Heard

_REASONS = {"tool_calls": "tool_use", "length": "max_tokens", "content_filter": "refusal"}


async def messages(request: Request) -> Response:
    """Answer a conversation, whole or as a stream."""
    desk = desk_of(request)
    asked = await read(request, MessagesRequest)
    form = MessagesForm(desk.find(asked.model, request).hosted)
    return converse(request, desk, asked.chat(), form)


async def count_tokens(request: Request) -> Response:
    """How many tokens a conversation's prompt would have."""
    asked = await read(request, CountRequest)
    served = desk_of(request).find(asked.model, request)
    chat = asked.turned()
    shown = tools.shown(chat, served.hosted.codec)
    told = [message.shown() for message in chat.messages]
    ids = await served.tokenising.chat(told, chat.options, shown)
    return Response(encode({"input_tokens": len(ids)}), media_type="application/json")


class MessagesForm:
    """``conversation.Form`` of Anthropic's messages: one answer, told as blocks."""

    dialect = ANTHROPIC
    calls = "toolu"

    def __init__(self, hosted: Hosted) -> None:
        self._head = {
            "id": new_id("msg"),
            "type": "message",
            "role": "assistant",
            "model": hosted.name,
        }
        self._block = -1
        self._open: str | None = None
        """What the open block holds: thoughts, words, or the id of a call."""

    def whole(self, turns: Sequence[Turn], usage: Usage) -> dict[str, Any]:
        (turn,) = turns
        content: list[dict[str, Any]] = []
        if turn.thoughts:
            content.append({"type": "thinking", "thinking": turn.thoughts, "signature": ""})
        if turn.words or not turn.calls:
            content.append({"type": "text", "text": turn.words})
        for call in turn.calls:
            told = {"id": call.id, "name": call.name, "input": _input("".join(call.arguments))}
            content.append({"type": "tool_use", **told})
        return {**self._head, "content": content, **_end(turn), "usage": _usage(usage)}

    def begun(self, index: int, usage: Usage) -> Iterator[bytes]:
        empty: dict[str, Any] = {"content": [], "stop_reason": None, "stop_sequence": None}
        message = {**self._head, **empty, "usage": _usage(usage)}
        yield _event("message_start", message=message)

    def said(self, index: int, turn: Turn, heard: Heard) -> Iterator[bytes]:
        if heard.thoughts:
            yield from self._into("thinking", {"thinking": "", "signature": ""})
            yield self._delta("thinking_delta", thinking=heard.thoughts)
        if heard.words:
            yield from self._into("text", {"text": ""})
            yield self._delta("text_delta", text=heard.words)
        for part in heard.calls:
            call = turn.calls[part.index]
            if part.name is not None:
                told = {"id": call.id, "name": call.name, "input": {}}
                yield from self._into("tool_use", told, key=call.id)
            if part.arguments:
                yield self._delta("input_json_delta", partial_json=part.arguments)

    def ended(self, index: int, turn: Turn) -> Iterator[bytes]:
        if self._open is None:
            yield from self._into("text", {"text": ""})
        yield _event("content_block_stop", index=self._block)

    def closed(self, turns: Sequence[Turn], usage: Usage) -> Iterator[bytes]:
        yield _event("message_delta", delta=_end(turns[0]), usage=_usage(usage))
        yield _event("message_stop")

    def _into(self, kind: str, begin: dict[str, Any], key: str | None = None) -> Iterator[bytes]:
        """Have a block of this kind open; a call is one of its own."""
        key = key or kind
        if self._open == key:
            return
        if self._open is not None:
            yield _event("content_block_stop", index=self._block)
        self._open = key
        self._block += 1
        block = {"type": kind, **begin}
        yield _event("content_block_start", index=self._block, content_block=block)

    def _delta(self, kind: str, **told: str) -> bytes:
        return _event("content_block_delta", index=self._block, delta={"type": kind, **told})


def _event(kind: str, **told: Any) -> bytes:
    return event({"type": kind, **told}, kind)


def _end(turn: Turn) -> dict[str, Any]:
    finish = turn.finish or "stop"
    reason = "stop_sequence" if turn.stop is not None else _REASONS.get(finish, "end_turn")
    return {"stop_reason": reason, "stop_sequence": turn.stop}


def _usage(usage: Usage) -> dict[str, int]:
    cached = sum(usage.cached.values())
    return {
        "input_tokens": usage.prompt_tokens - cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": usage.completion_tokens,
    }


def _input(arguments: str) -> Any:
    """A call's arguments as data; what was cut off has none."""
    try:
        return msgspec.json.decode(arguments or "{}")
    except msgspec.DecodeError:
        return {}

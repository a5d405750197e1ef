"""``POST /v1/responses``: OpenAI's newer API, without anything kept between two requests."""

from __future__ import annotations

import collections
import itertools
import time
from collections.abc import Iterator, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from freehold.serve.answer import Usage
from freehold.serve.conversation import converse
from freehold.serve.desk import Hosted, desk_of
from freehold.serve.dialects import RESPONSES, event
from freehold.serve.intake import read
from freehold.serve.responses_schema import ResponsesRequest
from freehold.serve.shapes import chat_logprobs, new_id
from freehold.serve.turn import Turn
from freehold.types import CallPart, Heard

_CUT = {"length": "max_output_tokens", "content_filter": "content_filter"}
"""Why a response is incomplete, by how its turn ended."""


async def responses(request: Request) -> Response:
    """Answer a conversation, whole or as a stream."""
    desk = desk_of(request)
    asked = await read(request, ResponsesRequest)
    form = ResponsesForm(asked, desk.find(asked.model, request).hosted)
    return converse(request, desk, asked.chat(), form)


class ResponsesForm:
    """``conversation.Form`` of OpenAI's responses: one answer, told as items."""

    dialect = RESPONSES
    calls = "call"

    def __init__(self, asked: ResponsesRequest, hosted: Hosted) -> None:
        self._asked = asked
        self._head = _head(asked, hosted)
        self._numbers = itertools.count()
        self._items: list[_Item] = []

    def whole(self, turns: Sequence[Turn], usage: Usage) -> dict[str, Any]:
        (turn,) = turns
        # The same way as event by event, with the events left out.
        calls = tuple(
            CallPart(index=i, name=call.name, arguments="".join(call.arguments))
            for i, call in enumerate(turn.calls)
        )
        heard = Heard(thoughts=turn.thoughts, words=turn.words, calls=calls)
        collections.deque(self.said(0, turn, heard), maxlen=0)
        return self._told(turn, usage)

    def begun(self, index: int, usage: Usage) -> Iterator[bytes]:
        now = {**self._head, "status": "in_progress", "output": [], "usage": None}
        yield self._event("response.created", response=now)
        yield self._event("response.in_progress", response=now)

    def said(self, index: int, turn: Turn, heard: Heard) -> Iterator[bytes]:
        if heard.thoughts:
            yield from self._into("reasoning")
            yield from self._add("reasoning_text", heard.thoughts)
        if heard.words or (turn.finish is not None and not self._items and not turn.calls):
            yield from self._into("message")
            tokens = chat_logprobs(turn.scored())["content"] if self._asked.logprobs else []
            self._items[-1].logprobs += tokens
            yield from self._add("output_text", heard.words, logprobs=tokens)
        for part in heard.calls:
            call = turn.calls[part.index]
            if part.name is not None:
                yield from self._into("function_call", call_id=call.id, name=call.name)
            if part.arguments:
                yield from self._add("function_call_arguments", part.arguments)

    def ended(self, index: int, turn: Turn) -> Iterator[bytes]:
        yield from self._close(turn)

    def closed(self, turns: Sequence[Turn], usage: Usage) -> Iterator[bytes]:
        told = self._told(turns[0], usage)
        yield self._event(f"response.{told['status']}", response=told)

    # --- items ------------------------------------------------------------------------------------

    def _into(self, kind: str, **told: str) -> Iterator[bytes]:
        """Have an item of this kind open; a call is one of its own."""
        if self._items and self._items[-1].kind == kind != "function_call":
            return
        yield from self._close(None)
        item = _Item(kind, **told)
        self._items.append(item)
        place = len(self._items) - 1
        begun = item.told("in_progress", whole=False)
        yield self._event("response.output_item.added", output_index=place, item=begun)
        if item.part is not None:
            part = item.part_told("", [])
            yield self._event("response.content_part.added", **self._at(), part=part)

    def _add(self, what: str, text: str, **more: Any) -> Iterator[bytes]:
        self._items[-1].text.append(text)
        yield self._event(f"response.{what}.delta", **self._at(), delta=text, **more)

    def _close(self, turn: Turn | None) -> Iterator[bytes]:
        """End the item that is open."""
        if not self._items:
            return
        item, at = self._items[-1], self._at()
        text = "".join(item.text)
        if item.kind == "function_call":
            done = {"arguments": text, "name": item.own["name"]}
            yield self._event("response.function_call_arguments.done", **at, **done)
        else:
            more = {"logprobs": item.logprobs} if item.kind == "message" else {}
            name = "output_text" if item.kind == "message" else "reasoning_text"
            yield self._event(f"response.{name}.done", **at, text=text, **more)
            part = item.part_told(text, item.logprobs)
            yield self._event("response.content_part.done", **at, part=part)
        cut = turn is not None and turn.finish in _CUT
        told = item.told("incomplete" if cut else "completed")
        place = len(self._items) - 1
        yield self._event("response.output_item.done", output_index=place, item=told)

    def _at(self) -> dict[str, Any]:
        item, place = self._items[-1], len(self._items) - 1
        where = {"item_id": item.id, "output_index": place}
        return where if item.part is None else {**where, "content_index": 0}

    def _told(self, turn: Turn, usage: Usage) -> dict[str, Any]:
        """The whole response."""
        cut = _CUT.get(turn.finish or "")
        ended = ["completed"] * len(self._items)
        if cut and ended:
            ended[-1] = "incomplete"
        output = [item.told(end) for item, end in zip(self._items, ended, strict=True)]
        return {
            **self._head,
            "status": "incomplete" if cut else "completed",
            "incomplete_details": {"reason": cut} if cut else None,
            "output": output,
            "usage": _usage(turn, usage),
        }

    def _event(self, kind: str, **told: Any) -> bytes:
        return event({"type": kind, "sequence_number": next(self._numbers), **told}, kind)


class _Item:
    """One item of the output as it grows."""

    def __init__(self, kind: str, **own: str) -> None:
        prefix = {"message": "msg", "reasoning": "rs", "function_call": "fc"}[kind]
        self.id = new_id(prefix)
        self.kind = kind
        self.own = own
        self.part = {"message": "output_text", "reasoning": "reasoning_text"}.get(kind)
        self.text: list[str] = []
        self.logprobs: list[dict[str, Any]] = []

    def told(self, status: str, *, whole: bool = True) -> dict[str, Any]:
        """The item; if not ``whole``, as it was when it began."""
        text = "".join(self.text) if whole else ""
        told: dict[str, Any] = {"id": self.id, "type": self.kind, "status": status, **self.own}
        if self.kind == "function_call":
            return {**told, "arguments": text}
        content = [self.part_told(text, self.logprobs)] if whole else []
        if self.kind == "reasoning":
            return {**told, "summary": [], "content": content}
        return {**told, "role": "assistant", "content": content}

    def part_told(self, text: str, logprobs: list[dict[str, Any]]) -> dict[str, Any]:
        """The one part of its content."""
        if self.kind == "reasoning":
            return {"type": "reasoning_text", "text": text}
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}


def _head(asked: ResponsesRequest, hosted: Hosted) -> dict[str, Any]:
    choice: Any = asked.choice.mode
    if asked.choice.name is not None:
        choice = {"type": "function", "name": asked.choice.name}
    format_ = asked.text.format if asked.text else None
    shown: dict[str, Any] = {"type": "text"}
    if format_ is not None:
        shown = format_.model_dump(by_alias=True, exclude_none=True)
    return {
        "id": new_id("resp"),
        "object": "response",
        "created_at": int(time.time()),
        "model": hosted.name,
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": asked.instructions,
        "max_output_tokens": asked.max_output_tokens,
        "metadata": asked.metadata,
        "parallel_tool_calls": asked.parallel_tool_calls is not False,
        "previous_response_id": None,
        "reasoning": {"effort": asked.reasoning.effort if asked.reasoning else None},
        "service_tier": "default",
        "store": False,
        "temperature": asked.temperature,
        "text": {"format": shown},
        "tool_choice": choice,
        "tools": [tool.model_dump() for tool in asked.tools],
        "top_logprobs": asked.top_logprobs or 0,
        "top_p": asked.top_p,
        "truncation": "disabled",
    }


def _usage(turn: Turn, usage: Usage) -> dict[str, Any]:
    cached = sum(usage.cached.values())
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": turn.thought_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }

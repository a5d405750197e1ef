"""Anthropic's own client. It checks every answer against its models (strict validation)."""

from __future__ import annotations

import json
from typing import Any, Literal

import anthropic
import case
import pydantic

client = anthropic.Anthropic(
    base_url=case.ADDRESS,
    api_key=case.KEY,
    max_retries=0,
    timeout=300,
    _strict_response_validation=True,
)
COLD: Any = {"model": case.MODEL, "extra_body": {"temperature": 0}}
ASK: Any = {
    **COLD,
    "messages": [{"role": "user", "content": case.QUESTION}],
    "max_tokens": case.MOST,
}


class City(pydantic.BaseModel, extra="forbid"):
    city: str
    country: str
    continent: Literal["Africa", "America", "Asia", "Europe", "Oceania"]


def _words(message: Any) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


def chat() -> None:
    answer = client.messages.create(**ASK)
    case.check_words(_words(answer))
    assert answer.usage.output_tokens > 0
    assert client.messages.count_tokens(model=case.MODEL, messages=ASK["messages"]).input_tokens


def streaming() -> None:
    whole = _words(client.messages.create(**ASK))
    with client.messages.stream(**ASK) as stream:
        case.check_streamed(list(stream.text_stream), whole)
        assert stream.get_final_message().stop_reason in ("end_turn", "max_tokens")


def tools() -> None:
    tool = {
        "name": case.TOOL,
        "description": case.TOOL_TEXT,
        "input_schema": case.TOOL_SCHEMA,
    }
    asked: Any = {**COLD, "max_tokens": 128, "tools": [tool]}
    messages: Any = [{"role": "user", "content": case.WEATHER}]
    one_of_any: Any = {"type": "any", "disable_parallel_tool_use": True}
    whole = client.messages.create(**asked, messages=messages, tool_choice=one_of_any)
    with client.messages.stream(
        **asked, messages=messages, tool_choice={"type": "tool", "name": case.TOOL}
    ) as stream:
        for _ in stream:
            pass
        streamed = stream.get_final_message()
    for one in (whole, streamed):
        assert one.stop_reason == "tool_use"
        results = [
            {
                "type": "tool_result",
                "tool_use_id": block.id,
                "content": case.check_call(block.name, block.input),
            }
            for block in one.content
            if block.type == "tool_use"
        ]
        assert results
        spoken: Any = {"role": "assistant", "content": one.content}
        final = client.messages.create(
            **asked,
            messages=[*messages, spoken, {"role": "user", "content": results}],
            tool_choice={"type": "none"},
        )
        case.check_final(_words(final))


def form() -> None:
    asked: Any = {
        **COLD,
        "max_tokens": 128,
        "messages": [{"role": "user", "content": case.CITY}],
    }
    wanted: Any = {"format": {"type": "json_schema", "schema": case.CITY_SCHEMA}}
    case.check_city(json.loads(_words(client.messages.create(**asked, output_config=wanted))))
    parsed = client.messages.parse(**asked, output_format=City).parsed_output
    assert parsed is not None
    case.check_city(parsed.model_dump())


case.run("anthropic", chat, streaming, tools, form)

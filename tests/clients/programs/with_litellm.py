"""LiteLLM, as a library; both of its ways here: OpenAI's API and Anthropic's."""

from __future__ import annotations

import json
from typing import Any

import case
import litellm

litellm.telemetry = False
litellm.suppress_debug_info = True

WAYS: tuple[dict[str, Any], ...] = (
    {"model": f"openai/{case.MODEL}", "api_base": f"{case.ADDRESS}/v1"},
    {"model": f"anthropic/{case.MODEL}", "api_base": case.ADDRESS},
)
COLD: Any = {"api_key": case.KEY, "temperature": 0, "max_tokens": case.MOST, "num_retries": 0}
ASK = [{"role": "user", "content": case.QUESTION}]


def chat() -> None:
    for way in WAYS:
        answer = litellm.completion(**way, **COLD, messages=ASK)
        case.check_words(answer.choices[0].message.content)
        assert answer.usage.completion_tokens > 0


def streaming() -> None:
    for way in WAYS:
        whole = litellm.completion(**way, **COLD, messages=ASK).choices[0].message.content
        chunks = litellm.completion(**way, **COLD, messages=ASK, stream=True)
        case.check_streamed([chunk.choices[0].delta.content or "" for chunk in chunks], whole)


def tools() -> None:
    function = {"name": case.TOOL, "description": case.TOOL_TEXT, "parameters": case.TOOL_SCHEMA}
    armed: Any = {**COLD, "tools": [{"type": "function", "function": function}]}
    named = {"type": "function", "function": {"name": case.TOOL}}
    asked: Any = [{"role": "user", "content": case.WEATHER}]
    for way in WAYS:
        called = litellm.completion(**way, **armed, messages=asked, tool_choice=named)
        message = called.choices[0].message
        results = [
            {
                "role": "tool",
                "tool_call_id": call.id,
                "content": case.check_call(call.function.name, json.loads(call.function.arguments)),
            }
            for call in message.tool_calls
        ]
        assert results
        final = litellm.completion(
            **way, **armed, messages=[*asked, message, *results], tool_choice="none"
        )
        case.check_final(final.choices[0].message.content)


def form() -> None:
    wanted = {
        "type": "json_schema",
        "json_schema": {"name": "city", "strict": True, "schema": case.CITY_SCHEMA},
    }
    asked = [{"role": "user", "content": case.CITY}]
    for way in WAYS:
        answer = litellm.completion(**way, **COLD, messages=asked, response_format=wanted)
        case.check_city(json.loads(answer.choices[0].message.content))


case.run("litellm", chat, streaming, tools, form)

"""Tools with the real default model: a call that must be made, and the turn after it."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import openai
import pytest

from tests.house.running import DEFAULT, Server

PARAMETERS = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 30},
        "unit": {"enum": ["celsius", "fahrenheit"]},
    },
    "required": ["city", "unit"],
    "additionalProperties": False,
}
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The current weather in a city.",
        "parameters": PARAMETERS,
    },
}
ASK: Any = [{"role": "user", "content": "What is the weather in Paris, in celsius?"}]
NAMED: Any = {"type": "function", "function": {"name": "get_weather"}}


@pytest.mark.parametrize("choice", ["required", NAMED], ids=["required", "named"])
@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_a_call_that_must_be_made_is_made(server: Server, choice: Any, temperature: float) -> None:
    with openai.OpenAI(base_url=f"{server.address}/v1", api_key=server.key, timeout=300) as client:
        settings: Any = {
            "model": DEFAULT,
            "messages": ASK,
            "tools": [WEATHER],
            "tool_choice": choice,
            "parallel_tool_calls": False,
            "temperature": temperature,
            "seed": 3,
            "max_tokens": 120,
        }
        answer = client.chat.completions.create(**settings).choices[0]
        assert answer.finish_reason == "tool_calls"
        assert not answer.message.content
        (call,) = answer.message.tool_calls or ()
        assert call.type == "function"
        assert call.function.name == "get_weather"
        jsonschema.validate(json.loads(call.function.arguments), PARAMETERS)
        streamed = ""
        for chunk in client.chat.completions.create(stream=True, **settings):
            for part in chunk.choices[0].delta.tool_calls or ():
                streamed += (part.function and part.function.arguments) or ""
        assert streamed == call.function.arguments
        result = {"role": "tool", "tool_call_id": call.id, "content": "21 degrees, sunny"}
        settings |= {"messages": [*ASK, answer.message, result], "tool_choice": "none"}
        last = client.chat.completions.create(**settings).choices[0]
    assert last.message.content
    assert not last.message.tool_calls

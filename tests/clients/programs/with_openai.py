"""OpenAI's own client. It checks every answer against its models (strict validation)."""

from __future__ import annotations

import json
from typing import Any, Literal

import case
import openai
import pydantic

client = openai.OpenAI(
    base_url=f"{case.ADDRESS}/v1",
    api_key=case.KEY,
    max_retries=0,
    timeout=300,
    _strict_response_validation=True,
)
ASK: Any = {
    "model": case.MODEL,
    "messages": [{"role": "user", "content": case.QUESTION}],
    "temperature": 0,
    "max_tokens": case.MOST,
}
ASK_RESPONSES: Any = {
    "model": case.MODEL,
    "input": case.QUESTION,
    "temperature": 0,
    "max_output_tokens": case.MOST,
}


class City(pydantic.BaseModel, extra="forbid"):
    city: str
    country: str
    continent: Literal["Africa", "America", "Asia", "Europe", "Oceania"]


def chat() -> None:
    assert case.MODEL in [model.id for model in client.models.list()]
    answer = client.chat.completions.create(**ASK, logprobs=True, top_logprobs=2)
    words = case.check_words(answer.choices[0].message.content)
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 0
    scored = answer.choices[0].logprobs
    assert scored is not None
    assert "".join(token.token for token in scored.content or []) == words
    case.check_words(client.responses.create(**ASK_RESPONSES).output_text)
    text = client.completions.create(model=case.MODEL, prompt="1, 2, 3, 4, 5,", max_tokens=6)
    assert text.choices[0].text
    if case.EMBEDS:
        found = client.embeddings.create(model=case.MODEL, input="spring", encoding_format="float")
        assert found.data[0].embedding


def streaming() -> None:
    whole = client.chat.completions.create(**ASK).choices[0].message.content or ""
    pieces = []
    for chunk in client.chat.completions.create(
        **ASK, stream=True, stream_options={"include_usage": True}
    ):
        pieces += [choice.delta.content or "" for choice in chunk.choices]
    assert chunk.usage is not None
    case.check_streamed(pieces, whole)
    with client.chat.completions.stream(**ASK) as stream:
        for _ in stream:
            pass
        assert stream.get_final_completion().choices[0].message.content == whole
    pieces = []
    with client.responses.stream(**ASK_RESPONSES) as events:
        for event in events:
            if event.type == "response.output_text.delta":
                pieces.append(event.delta)
        case.check_streamed(pieces, events.get_final_response().output_text)
    _stream_text()


def _stream_text() -> None:
    """A stream of plain completions. Not by the strict client: its model of a chunk wants a
    ``finish_reason`` in every one, and OpenAI's own server sends ``null`` until the last."""
    lax = openai.OpenAI(base_url=f"{case.ADDRESS}/v1", api_key=case.KEY, max_retries=0, timeout=300)
    chunks = lax.completions.create(
        model=case.MODEL, prompt="1, 2, 3, 4, 5,", max_tokens=12, stream=True
    )
    assert len([chunk.choices[0].text for chunk in chunks]) > 3


def tools() -> None:
    function = {"name": case.TOOL, "description": case.TOOL_TEXT, "parameters": case.TOOL_SCHEMA}
    asked: Any = {
        "model": case.MODEL,
        "temperature": 0,
        "max_tokens": 128,
        "tools": [{"type": "function", "function": function}],
    }
    messages: Any = [{"role": "user", "content": case.WEATHER}]
    required = client.chat.completions.create(
        **asked, messages=messages, tool_choice="required", parallel_tool_calls=False
    )
    message = required.choices[0].message
    assert required.choices[0].finish_reason == "tool_calls"
    with client.chat.completions.stream(
        **asked,
        messages=messages,
        tool_choice={"type": "function", "function": {"name": case.TOOL}},
    ) as stream:
        for _ in stream:
            pass
        streamed = stream.get_final_completion().choices[0].message
    for one in (message, streamed):
        messages = [{"role": "user", "content": case.WEATHER}, one.to_dict()]
        for call in one.tool_calls or []:
            assert call.type == "function"
            result = case.check_call(call.function.name, json.loads(call.function.arguments))
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
        final = client.chat.completions.create(**asked, messages=messages, tool_choice="none")
        case.check_final(final.choices[0].message.content)
    _responses_tools(function)


def _responses_tools(function: dict[str, Any]) -> None:
    asked: Any = {
        "model": case.MODEL,
        "temperature": 0,
        "max_output_tokens": 128,
        "tools": [{"type": "function", "strict": True, **function}],
    }
    given: Any = [{"role": "user", "content": case.WEATHER}]
    with client.responses.stream(
        **asked, input=given, tool_choice="required", parallel_tool_calls=False
    ) as events:
        for _ in events:
            pass
        response = events.get_final_response()
    given += [item.to_dict() for item in response.output]
    for item in response.output:
        assert item.type == "function_call"
        result = case.check_call(item.name, json.loads(item.arguments))
        given.append({"type": "function_call_output", "call_id": item.call_id, "output": result})
    final = client.responses.create(**asked, input=given, tool_choice="none")
    case.check_final(final.output_text)


def form() -> None:
    messages: Any = [{"role": "user", "content": case.CITY}]
    asked: Any = {"model": case.MODEL, "temperature": 0}
    answer = client.chat.completions.parse(**asked, messages=messages, response_format=City)
    found = answer.choices[0].message.parsed
    assert found is not None
    case.check_city(found.model_dump())
    with client.chat.completions.stream(**asked, messages=messages, response_format=City) as stream:
        for _ in stream:
            pass
        parsed = stream.get_final_completion().choices[0].message.parsed
    assert parsed == found
    response = client.responses.parse(**asked, input=case.CITY, text_format=City)
    assert response.output_parsed is not None
    case.check_city(response.output_parsed.model_dump())


case.run("openai", chat, streaming, tools, form)

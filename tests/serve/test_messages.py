"""``/v1/messages``, as Anthropic's own client sees it, and its errors in Anthropic's form."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import anthropic
import httpx
import pytest

NAME = "scripted-1"
PATH = "/v1/messages"
USER: Any = [{"role": "user", "content": "Weather?"}]
WEATHER: Any = {
    "name": "get_weather",
    "description": "The weather.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    },
}
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'


@pytest.fixture
def model(counter: Callable[..., Any], scripted: Any) -> Callable[..., Any]:
    """Opens a counter whose model says a text; gives Anthropic's client too."""

    def open_one(text: str, thinking: Any = "no", **more: Any) -> Any:
        card = dataclasses.replace(
            scripted.CARD, caps=scripted.CARD.caps | {"grammar"}, context=4096
        )
        engine = scripted.ScriptedEngine(card=card, reply=lambda _: text.encode(), **more)
        running = counter(
            engine=engine, codec=scripted.ScriptedCodec(calls="json", thinking=thinking)
        )
        client = anthropic.Anthropic(base_url=running.url, api_key=running.key, max_retries=0)
        return running, client.messages

    return open_one


def ask(client: Any, /, **more: Any) -> Any:
    return client.create(**{"model": NAME, "max_tokens": 200, "messages": USER, **more})


def streamed(client: Any, /, **more: Any) -> tuple[list[str], Any]:
    """The kinds of all events, and the message that the client made of them."""
    asked = {"model": NAME, "max_tokens": 200, "messages": USER, **more}
    with client.stream(**asked) as stream:
        kinds = [event.type for event in stream]
        return kinds, stream.get_final_message()


def test_an_answer(model: Callable[..., Any]) -> None:
    running, messages = model("It is warm.")
    more: Any = {"system": "Be brief.", "extra_body": {"temperature": 0.5, "top_k": 3}}
    answer = ask(messages, metadata={"user_id": "u"}, **more)
    assert (answer.type, answer.role, answer.model) == ("message", "assistant", NAME)
    assert [(block.type, block.text) for block in answer.content] == [("text", "It is warm.")]
    assert (answer.stop_reason, answer.stop_sequence) == ("end_turn", None)
    usage, prompt = answer.usage, len(running.engine.prompts[0])
    assert usage.input_tokens + usage.cache_read_input_tokens == prompt
    assert usage.output_tokens == len("It is warm.")
    assert running.codec.messages[0][0] == {"role": "system", "content": "Be brief."}
    sampling = running.engine.seen[0]
    assert (sampling.temperature, sampling.top_k, sampling.max_tokens) == (0.5, 3, 200)
    assert running.codec.options == [{"enable_thinking": False}]


def test_a_stream(model: Callable[..., Any]) -> None:
    _, messages = model(f"Let me see.\n{CALL}")
    kinds, final = streamed(messages, tools=[WEATHER])
    assert [block.type for block in final.content] == ["text", "tool_use"]
    assert final.content[0].text == "Let me see."
    assert (final.content[1].name, final.content[1].input) == ("get_weather", {"city": "Paris"})
    assert final.content[1].id.startswith("toolu_")
    assert final.stop_reason == "tool_use"
    assert final.usage.output_tokens > 10
    assert (kinds[0], kinds[-1]) == ("message_start", "message_stop")
    assert kinds.count("content_block_start") == kinds.count("content_block_stop") == 2


def test_events_are_named_and_end_as_anthropics_do(model: Callable[..., Any]) -> None:
    running, _ = model("hi")
    body = {"model": NAME, "max_tokens": 9, "messages": USER, "stream": True}
    answer = httpx.post(running.url + PATH, json=body, headers={"x-api-key": running.key})
    lines = answer.text.split("\n")
    names = [line[7:] for line in lines if line.startswith("event: ")]
    told = [json.loads(line[6:])["type"] for line in lines if line.startswith("data: ")]
    assert names == told
    assert names[:2] == ["message_start", "content_block_start"]
    assert names[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert "[DONE]" not in answer.text


def test_an_empty_answer_has_a_block(model: Callable[..., Any]) -> None:
    _, messages = model("")
    assert [block.text for block in ask(messages).content] == [""]
    assert [block.text for block in streamed(messages)[1].content] == [""]


@pytest.mark.parametrize("stream", [False, True])
def test_thoughts(model: Callable[..., Any], stream: bool) -> None:
    running, messages = model("hm\n</think>\n\nYes.", thinking="open")
    thinking = {"type": "enabled", "budget_tokens": 50}
    answer = (
        streamed(messages, thinking=thinking)[1] if stream else ask(messages, thinking=thinking)
    )
    assert [block.type for block in answer.content] == ["thinking", "text"]
    assert (answer.content[0].thinking, answer.content[1].text) == ("hm", "Yes.")
    assert running.codec.options == [{"enable_thinking": True}]
    assert running.engine.seen[0].cutoff.after == 50


def test_why_an_answer_ends(model: Callable[..., Any]) -> None:
    _, messages = model("one END two")
    answer = ask(messages, stop_sequences=["never", "END"])
    assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", "END")
    assert answer.content[0].text == "one "
    answer = ask(messages, max_tokens=3)
    assert (answer.stop_reason, answer.stop_sequence) == ("max_tokens", None)


def test_a_conversation_with_results_reaches_the_template(model: Callable[..., Any]) -> None:
    running, messages = model("ok")
    called = [
        {"type": "thinking", "thinking": "hm", "signature": ""},
        {"type": "text", "text": "Let me see."},
        {"type": "tool_use", "id": "t1", "name": "get_weather", "input": {"city": "P"}},
        {"type": "tool_use", "id": "t2", "name": "get_weather", "input": {}},
    ]
    none = [{"type": "text", "text": "none"}]
    results = [
        {"type": "tool_result", "tool_use_id": "t1", "content": "21"},
        {"type": "tool_result", "tool_use_id": "t2", "content": none, "is_error": True},
        {"type": "text", "text": "Well?"},
        {"type": "text", "text": "So?"},
    ]
    ask(
        messages,
        tools=[WEATHER | {"cache_control": {"type": "ephemeral"}}],
        messages=[
            {"role": "user", "content": [{"type": "text", "text": "Weather?"}]},
            {"role": "assistant", "content": called},
            {"role": "user", "content": results},
        ],
    )
    calls = [
        {"type": "function", "function": {"name": "get_weather", "arguments": arguments}}
        for arguments in ({"city": "P"}, {})
    ]
    words = {"role": "assistant", "content": "Let me see.", "reasoning_content": "hm"}
    assert running.codec.messages[0] == [
        {"role": "user", "content": "Weather?"},
        {**words, "tool_calls": calls},
        {"role": "tool", "content": "21"},
        {"role": "tool", "content": "Error: none"},
        {"role": "user", "content": "Well?\nSo?"},
    ]
    (shown,) = running.codec.tools[0]
    assert shown["function"]["parameters"] == WEATHER["input_schema"]


@pytest.mark.parametrize(
    ("choice", "held"),
    [
        ({"type": "auto"}, []),
        ({"type": "none"}, []),
        ({"type": "any"}, [(1, True)]),
        ({"type": "any", "disable_parallel_tool_use": True}, [(1, False)]),
        ({"type": "tool", "name": "get_weather"}, [(1, False)]),
    ],
)
def test_the_choice_of_tools(model: Callable[..., Any], choice: Any, held: Any) -> None:
    running, messages = model(CALL)
    answer = ask(messages, tools=[WEATHER], tool_choice=choice)
    assert [one[1:] for one in running.codec.forms] == held
    assert (answer.stop_reason == "tool_use") == (choice["type"] != "none")


def test_a_schema(model: Callable[..., Any]) -> None:
    running, messages = model('{"a": 1}')
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    ask(messages, output_config={"format": {"type": "json_schema", "schema": schema}})
    assert '"integer"' in running.engine.seen[0].grammar


def test_tokens_are_counted(model: Callable[..., Any]) -> None:
    running, messages = model("x")
    counted = messages.count_tokens(model=NAME, messages=USER, system="Be brief.")
    ask(messages, system="Be brief.")
    assert counted.input_tokens == len(running.engine.prompts[0])


# --- errors ---------------------------------------------------------------------------------------


def told(answer: httpx.Response) -> tuple[str, str]:
    body = answer.json()
    assert set(body) == {"type", "error"}
    assert body["type"] == "error"
    return body["error"]["type"], body["error"]["message"]


def said(*blocks: Any, role: str = "user") -> dict[str, Any]:
    return {"messages": [{"role": role, "content": list(blocks)}]}


FORM = {"type": "json_schema", "schema": {"not": {}}}
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"max_tokens": None}, "max_tokens"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "system", "content": "x"}]}, "messages[0].role"),
    (said(), "messages[0].content"),
    ({"messages": [*USER, {"role": "assistant", "content": "I"}]}, "messages[1].role"),
    (said({"type": "image"}), "messages[0].content[0].type"),
    (said({"type": "text", "text": "x", "y": 1}), "messages[0].content[0].y"),
    (said({"type": "tool_use", "id": "1", "input": {}}), "messages[0].content[0].name"),
    (said({"type": "thinking", "thinking": "x"}), "messages[0].content[0].type"),
    ({"system": [{"type": "image"}]}, "system[0]"),
    ({"temperature": 3}, "temperature"),
    ({"stop_sequences": [""]}, "stop_sequences[0]"),
    ({"stop_sequences": ["x"] * 16}, "stop_sequences"),
    ({"tools": [WEATHER, WEATHER]}, "tools[1].name"),
    ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0]"),
    ({"tool_choice": {"type": "any"}}, "tool_choice.type"),
    ({"tool_choice": {"type": "tool", "name": "x"}}, "tool_choice.name"),
    ({"tool_choice": {"type": "tool"}}, "tool_choice.name"),
    ({"thinking": {"type": "disabled", "budget_tokens": 5}}, "thinking.budget_tokens"),
    ({"thinking": {"type": "enabled", "budget_tokens": 0}}, "thinking.budget_tokens"),
    ({"mcp_servers": [{"url": "x"}]}, "mcp_servers"),
    ({"unknown": 1}, "unknown"),
    ({"output_config": {"format": FORM}}, "output_config.format.schema.not"),
    (
        {"tools": [WEATHER | {"strict": True, "input_schema": {"not": {}}}]},
        "tools[0].input_schema.not",
    ),
]


@pytest.mark.parametrize(("more", "named"), WRONG)
def test_what_is_wrong_is_named(
    model: Callable[..., Any], more: dict[str, Any], named: str
) -> None:
    running, _ = model("x")
    body = {"model": NAME, "max_tokens": 5, "messages": USER} | more
    answer = httpx.post(running.url + PATH, json=body, headers={"x-api-key": running.key})
    kind, message = told(answer)
    assert (answer.status_code, kind) == (400, "invalid_request_error")
    assert named in message


def test_errors_have_anthropics_kinds(
    model: Callable[..., Any], http: httpx.Client, shared_counter: Any
) -> None:
    body = {"model": NAME, "max_tokens": 5, "messages": USER}
    assert told(http.post(PATH, json=body | {"model": "x"}))[0] == "not_found_error"
    assert told(http.post(PATH, content=b"{"))[0] == "invalid_request_error"
    assert told(http.get(PATH))[0] == "invalid_request_error"
    assert told(http.post(PATH, content=b" " * (2 << 20)))[0] == "request_too_large"
    naked = httpx.post(shared_counter.url + PATH, json=body)
    assert (naked.status_code, told(naked)[0]) == (401, "authentication_error")
    auditor = shared_counter.keys.add("auditor of messages", role="auditor").secret
    other = httpx.post(shared_counter.url + PATH, json=body, headers={"x-api-key": auditor})
    assert (other.status_code, told(other)[0]) == (403, "permission_error")
    _, messages = model("x" * 50, fail_at=0)
    with pytest.raises(anthropic.APIStatusError) as caught:
        ask(messages)
    assert caught.value.status_code == 503


def test_a_stream_that_fails_ends_with_an_error(model: Callable[..., Any]) -> None:
    _, messages = model("x" * 50, fail_at=20)
    with pytest.raises(anthropic.APIStatusError):
        streamed(messages)

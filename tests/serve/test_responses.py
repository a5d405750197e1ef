"""``/v1/responses``, as OpenAI's own client sees it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest
from pydantic import BaseModel

NAME = "scripted-1"
PATH = "/v1/responses"
WEATHER: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": False,
}
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'


@pytest.fixture
def model(counter: Callable[..., Any], scripted: Any) -> Callable[..., Any]:
    """Opens a counter whose model says a text; gives OpenAI's client too."""

    def open_one(text: str, thinking: Any = "no", **more: Any) -> Any:
        card = dataclasses.replace(
            scripted.CARD, caps=scripted.CARD.caps | {"grammar"}, context=4096
        )
        engine = scripted.ScriptedEngine(card=card, reply=lambda _: text.encode(), **more)
        running = counter(
            engine=engine, codec=scripted.ScriptedCodec(calls="json", thinking=thinking)
        )
        client = openai.OpenAI(
            base_url=f"{running.url}/v1",
            api_key=running.key,
            max_retries=0,
            _strict_response_validation=True,
        )
        return running, client.responses

    return open_one


def streamed(responses: Any, **asked: Any) -> tuple[list[Any], Any]:
    """All events, and the response that the client made of them."""
    with responses.stream(**({"model": NAME, "input": "Weather?"} | asked)) as stream:
        events = list(stream)
        return events, stream.get_final_response()


def test_an_answer(model: Callable[..., Any]) -> None:
    running, responses = model("It is warm.")
    answer = responses.create(
        model=NAME,
        input="Weather?",
        instructions="Be brief.",
        temperature=0.5,
        max_output_tokens=50,
        metadata={"a": "b"},
    )
    assert answer.output_text == "It is warm."
    assert (answer.status, answer.object, answer.model) == ("completed", "response", NAME)
    assert (answer.metadata, answer.store) == ({"a": "b"}, False)
    assert answer.usage.output_tokens == len("It is warm.")
    assert answer.usage.input_tokens == len(running.engine.prompts[0])
    assert running.codec.messages[0] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Weather?"},
    ]
    assert running.engine.seen[0].temperature == 0.5


@pytest.mark.parametrize("thinking", ["no", "open"])
def test_a_stream_is_what_the_whole_is(model: Callable[..., Any], thinking: Any) -> None:
    text = ("hm</think>\n" if thinking == "open" else "") + f"Let me see.\n{CALL}\n{CALL}"
    _, responses = model(text, thinking=thinking)
    whole = responses.create(model=NAME, input="Weather?", tools=[WEATHER])
    events, final = streamed(responses, tools=[WEATHER])
    kinds = ["reasoning"] * (thinking == "open") + ["message", "function_call", "function_call"]
    for answer in (whole, final):
        assert [item.type for item in answer.output] == kinds
        assert answer.output_text == "Let me see."
        assert answer.output[-1].arguments == '{"city": "Paris"}'
        assert answer.output[-1].call_id.startswith("call_")
        thought = answer.usage.output_tokens_details.reasoning_tokens
        assert (thought > 0) == (thinking == "open")
        if thought:
            assert answer.output[0].content[0].text == "hm"
            assert thought <= len("hm</think>\n") + 1
    told = [event.type for event in events]
    assert told[:2] == ["response.created", "response.in_progress"]
    assert told[-1] == "response.completed"
    assert told.count("response.output_item.added") == len(kinds)
    assert told.count("response.output_item.done") == len(kinds)
    numbers = [event.sequence_number for event in events]
    assert numbers == sorted(set(numbers))


def test_an_empty_answer_is_a_message(model: Callable[..., Any]) -> None:
    _, responses = model("")
    assert [i.type for i in responses.create(model=NAME, input="x").output] == ["message"]
    assert [item.type for item in streamed(responses)[1].output] == ["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_cut_answer_is_incomplete(model: Callable[..., Any], stream: bool) -> None:
    _, responses = model("abcdefgh")
    asked: Any = {"model": NAME, "input": "x", "max_output_tokens": 3}
    if stream:
        last = list(responses.create(stream=True, **asked))[-1]
        assert last.type == "response.incomplete"
        answer = last.response
    else:
        answer = responses.create(**asked)
    assert answer.status == "incomplete"
    assert answer.incomplete_details.reason == "max_output_tokens"
    assert answer.output_text == "abc"
    assert answer.output[0].status == "incomplete"


def test_what_came_before_reaches_the_template(model: Callable[..., Any]) -> None:
    running, responses = model(f"Let me see.\n{CALL}")
    first = responses.create(model=NAME, input="Weather?", tools=[WEATHER])
    call = first.output[-1]
    responses.create(
        model=NAME,
        tools=[WEATHER],
        input=[
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "input_text", "text": "Weather?"}]},
            {"type": "reasoning", "id": "rs_1", "summary": []},
            *[item.model_dump(exclude_none=True) for item in first.output],
            {"type": "function_call_output", "call_id": call.call_id, "output": "21"},
        ],
    )
    function = {"name": "get_weather", "arguments": {"city": "Paris"}}
    shown = running.codec.messages[-1]
    assert shown[:2] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Weather?"},
    ]
    assert shown[2]["content"] == "Let me see."
    assert shown[2]["tool_calls"] == [{"type": "function", "function": function}]
    assert shown[3] == {"role": "tool", "content": "21"}


class City(BaseModel):
    name: str


def test_forms_and_choices(model: Callable[..., Any]) -> None:
    running, responses = model('{"name": "Paris"}')
    parsed = responses.parse(model=NAME, input="x", text_format=City)
    assert parsed.output_parsed == City(name="Paris")
    assert '"name"' in running.engine.seen[0].grammar
    named = {"type": "function", "name": "get_weather"}
    responses.create(model=NAME, input="x", tools=[WEATHER], tool_choice=named)
    responses.create(model=NAME, input="x", tools=[WEATHER], tool_choice="required")
    assert [one[1:] for one in running.codec.forms] == [(1, False), (1, True)]
    responses.create(model=NAME, input="x", reasoning={"effort": "none"})
    assert running.codec.options[-1] == {"enable_thinking": False}


def test_log_probabilities(model: Callable[..., Any]) -> None:
    _, responses = model("ab")
    asked: Any = {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
    answer = responses.create(model=NAME, input="x", **asked)
    (part,) = answer.output[0].content
    assert [one.token for one in part.logprobs] == ["a", "b"]
    assert len(part.logprobs[0].top_logprobs) == 2
    events, final = streamed(responses, **asked)
    assert [one.token for one in final.output[0].content[0].logprobs] == ["a", "b"]
    deltas = [event for event in events if event.type == "response.output_text.delta"]
    assert [one.token for event in deltas for one in event.logprobs] == ["a", "b"]


IMAGE = {"type": "input_image", "image_url": "x"}
CALLED = {"type": "function_call", "call_id": "1", "name": "f", "arguments": "["}
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"input": None}, "input"),
    ({"input": []}, "input"),
    ({"input": 5}, "input"),
    ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
    ({"input": [{"role": "user"}]}, "input[0].content"),
    ({"input": [{"role": "user", "content": [IMAGE]}]}, "input[0].content[0]"),
    ({"input": [{"type": "function_call", "call_id": "1", "arguments": ""}]}, "input[0].name"),
    ({"input": [CALLED]}, "input[0].arguments"),
    ({"previous_response_id": "resp_1"}, "previous_response_id"),
    ({"store": True}, "store"),
    ({"background": True}, "background"),
    ({"tools": [{"type": "web_search", "name": "x"}]}, "tools[0].type"),
    ({"tools": [WEATHER, WEATHER]}, "tools[1].name"),
    ({"tools": [WEATHER | {"strict": True, "parameters": {"not": {}}}]}, "tools[0].parameters.not"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tool_choice": {"type": "function", "name": "x"}}, "tool_choice"),
    ({"text": {"format": {"type": "json_schema", "name": "a"}}}, "text.format.schema"),
    (
        {"text": {"format": {"type": "json_schema", "name": "a", "schema": {"not": {}}}}},
        "text.format.schema.not",
    ),
    ({"max_output_tokens": 5000}, "max_output_tokens"),
    ({"temperature": 9}, "temperature"),
    ({"unknown": 1}, "unknown"),
]


@pytest.mark.parametrize(("more", "param"), WRONG)
def test_what_is_wrong_is_named(
    model: Callable[..., Any], more: dict[str, Any], param: str
) -> None:
    running, _ = model("x")
    body = {"model": NAME, "input": "x"} | more
    answer = httpx.post(running.url + PATH, json=body, headers=running.auth)
    error = answer.json()["error"]
    assert answer.status_code == 400, error
    assert error["param"] == param


def test_a_stream_that_fails_ends_with_an_error(model: Callable[..., Any]) -> None:
    _, responses = model("x" * 50, fail_at=20)
    *_, last = responses.create(model=NAME, input="x", stream=True)
    assert (last.type, last.code) == ("error", "engine_unavailable")


@pytest.mark.parametrize("kind", [{"a": 1}, ["text"], None, 7])
def test_a_part_of_no_kind_is_refused(http: httpx.Client, kind: object) -> None:
    asked = {"model": NAME, "input": [{"role": "user", "content": [{"type": kind, "text": "x"}]}]}
    answer = http.post("/v1/responses", json=asked)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "input[0].content[0]"

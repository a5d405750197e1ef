"""Tools over HTTP: offered, called whole and streamed, answered, and refused by name."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import openai
import pytest

NAME = "scripted-1"
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}
NOW: Any = {"type": "function", "function": {"name": "now"}}
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
TWO = f'Let me see.\n{CALL}\n<tool_call>\n{{"name": "now", "arguments": {{}}}}\n</tool_call>'
ASK: Any = [{"role": "user", "content": "Weather?"}]


@pytest.fixture
def model(counter: Callable[..., Any], scripted: Any) -> Callable[..., Any]:
    """Opens a counter whose model says a text and calls tools; gives the official client too."""

    def open_one(text: str, calls: Any = "json", thinking: Any = "no") -> Any:
        card = dataclasses.replace(
            scripted.CARD, caps=scripted.CARD.caps | {"grammar"}, context=4096
        )
        engine = scripted.ScriptedEngine(card=card, reply=lambda _: text.encode())
        running = counter(
            engine=engine, codec=scripted.ScriptedCodec(calls=calls, thinking=thinking)
        )
        client = openai.OpenAI(base_url=f"{running.url}/v1", api_key=running.key, max_retries=0)
        return running, client.chat.completions

    return open_one


def test_calls_are_told_whole(model: Callable[..., Any]) -> None:
    running, chat = model(TWO)
    answer = chat.create(model=NAME, messages=ASK, tools=[WEATHER, NOW])
    choice = answer.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "Let me see."
    made = [(call.function.name, call.function.arguments) for call in choice.message.tool_calls]
    assert made == [("get_weather", '{"city": "Paris"}'), ("now", "{}")]
    ids = [call.id for call in choice.message.tool_calls]
    assert len(set(ids)) == 2
    assert running.codec.tools == [[WEATHER, NOW]]
    assert running.engine.seen[0].grammar is None


def test_calls_are_told_as_they_come(model: Callable[..., Any]) -> None:
    _, chat = model(TWO)
    chunks = list(chat.create(model=NAME, messages=ASK, tools=[WEATHER, NOW], stream=True))
    calls: dict[int, dict[str, Any]] = {}
    pieces = 0
    for delta in (chunk.choices[0].delta for chunk in chunks):
        for call in delta.tool_calls or ():
            one = calls.setdefault(call.index, {"arguments": ""})
            if call.id:
                one |= {"id": call.id, "type": call.type, "name": call.function.name}
            one["arguments"] += call.function.arguments
            pieces += 1
    assert [one["name"] for one in calls.values()] == ["get_weather", "now"]
    assert [json.loads(one["arguments"]) for one in calls.values()] == [{"city": "Paris"}, {}]
    assert all(
        one["id"].startswith("call_") and one["type"] == "function" for one in calls.values()
    )
    assert pieces > 10
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Let me see."
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_the_clients_own_stream_helper_reads_them(model: Callable[..., Any]) -> None:
    _, chat = model(CALL)
    strict: Any = {
        "type": "function",
        "function": WEATHER["function"]
        | {"strict": True}
        | {"parameters": WEATHER["function"]["parameters"] | {"additionalProperties": False}},
    }
    with chat.stream(model=NAME, messages=ASK, tools=[strict]) as stream:
        final = stream.get_final_completion()
    (call,) = final.choices[0].message.tool_calls
    assert call.function.parsed_arguments == {"city": "Paris"}


def test_a_conversation_with_calls_reaches_the_template(model: Callable[..., Any]) -> None:
    running, chat = model("It is warm.")
    first = chat.create(model=NAME, messages=ASK, tools=[WEATHER])
    made = {
        "id": "c1",
        "type": "function",
        "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'},
    }
    messages = [
        *ASK,
        {"role": "assistant", "content": None, "tool_calls": [made]},
        {"role": "tool", "tool_call_id": "c1", "content": "21 degrees"},
        first.choices[0].message,
    ]
    chat.create(model=NAME, messages=messages, tools=[WEATHER])
    shown = running.codec.messages[-1]
    function = {"name": "get_weather", "arguments": {"city": "Paris"}}
    assert shown[1:3] == [
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"type": "function", "function": function}],
        },
        {"role": "tool", "content": "21 degrees"},
    ]
    assert shown[3] == {"role": "assistant", "content": "It is warm."}


def test_what_clients_send_back_with_an_answer_changes_nothing(model: Callable[..., Any]) -> None:
    running, chat = model("It is warm.")
    called = {"name": "get_weather", "arguments": '{"city": "Paris"}'}
    more: Any = {"index": 0, "provider_specific_fields": {"a": 1}}
    function: Any = {**called, "parsed_arguments": {"city": "Paris"}}
    calls: Any = [{"id": "c1", "type": "function", "function": function, **more}]
    beside: Any = {"parsed": None, "extra": {"a": 1}, "provider_specific_fields": None}
    plain: Any = [{"id": "c1", "type": "function", "function": called}]
    for first, second, result in (
        ({"tool_calls": calls, **beside}, {"id": "c1", "extra": {}, "name": "x"}, "21"),
        ({"tool_calls": plain}, {"tool_call_id": "c1"}, "21"),
        ({"tool_calls": plain}, {"tool_call_id": ""}, "21"),
    ):
        messages: Any = [
            *ASK,
            {"role": "assistant", "content": "", **first},
            {"role": "tool", "content": result, **second},
        ]
        chat.create(model=NAME, messages=messages, tools=[WEATHER])
    first, second, third = running.codec.messages
    assert first == second == third


@pytest.mark.parametrize(
    ("more", "least", "names", "many"),
    [
        ({}, None, None, None),
        ({"tool_choice": "auto"}, None, None, None),
        ({"tool_choice": "none"}, None, None, None),
        ({"tool_choice": "required"}, 1, ["get_weather", "now"], True),
        (
            {"tool_choice": "required", "parallel_tool_calls": False},
            1,
            ["get_weather", "now"],
            False,
        ),
        ({"tool_choice": {"type": "function", "function": {"name": "now"}}}, 1, ["now"], False),
        ({"response_format": {"type": "json_object"}}, 1, ["get_weather", "now"], True),
    ],
)
def test_what_the_choice_of_tools_holds_an_answer_to(
    model: Callable[..., Any], more: Any, least: Any, names: Any, many: Any
) -> None:
    running, chat = model("x")
    chat.create(model=NAME, messages=ASK, tools=[WEATHER, NOW], **more)
    shown = [] if more.get("tool_choice") == "none" else [WEATHER, NOW]
    assert running.codec.tools == [shown]
    grammar = running.engine.seen[0].grammar
    if least is None:
        assert grammar is None
        assert running.codec.forms == []
        return
    ((forms, asked_least, asked_many),) = running.codec.forms
    assert [form.name for form in forms] == names
    assert (asked_least, asked_many) == (least, many)
    assert ("@words | @calls" in grammar) == ("response_format" in more)


def test_strict_tools_are_held_to_their_schemas_and_others_as_far_as_it_goes(
    model: Callable[..., Any],
) -> None:
    running, chat = model("x")
    odd: Any = {"name": "odd", "parameters": {"type": "object", "properties": {"a": {"not": {}}}}}
    chat.create(
        model=NAME,
        messages=ASK,
        tools=[
            {"type": "function", "function": WEATHER["function"] | {"strict": True}},
            {"type": "function", "function": odd},
        ],
    )
    ((forms, least, _),) = running.codec.forms
    assert least == 0
    assert [parameter.name for parameter in forms[0].parameters] == ["city"]
    assert forms[0].parameters[0].required
    assert '"city"' in forms[0].arguments
    assert forms[1].parameters is None
    with pytest.raises(openai.BadRequestError) as caught:
        chat.create(
            model=NAME,
            messages=ASK,
            tools=[{"type": "function", "function": odd | {"strict": True}}],
        )
    assert caught.value.param == "tools[0].function.parameters.properties.a.not"


def test_one_call_only(model: Callable[..., Any]) -> None:
    running, chat = model(TWO)
    answer = chat.create(model=NAME, messages=ASK, tools=[WEATHER, NOW], parallel_tool_calls=False)
    (call,) = answer.choices[0].message.tool_calls
    assert call.function.arguments == '{"city": "Paris"}'
    assert answer.choices[0].finish_reason == "tool_calls"
    assert running.engine.finished == 0


def test_one_call_only_where_calls_have_no_marks(model: Callable[..., Any]) -> None:
    bare = '{"name": "get_weather", "arguments": {"city": "Paris"}}'
    _, chat = model(f"{bare}\n{bare}")
    asked: Any = {"model": NAME, "messages": ASK, "tools": [WEATHER]}
    assert len(chat.create(**asked).choices[0].message.tool_calls) == 2
    alone = chat.create(**asked, parallel_tool_calls=False).choices[0]
    assert len(alone.message.tool_calls) == 1
    assert alone.finish_reason == "tool_calls"


def test_a_cut_call_says_so(model: Callable[..., Any]) -> None:
    _, chat = model(CALL)
    answer = chat.create(model=NAME, messages=ASK, tools=[WEATHER], max_tokens=60)
    assert answer.choices[0].finish_reason == "length"
    (call,) = answer.choices[0].message.tool_calls
    assert call.function.arguments.startswith('{"c')


def test_a_model_without_calls_says_so(model: Callable[..., Any]) -> None:
    _, chat = model("x", calls=None)
    with pytest.raises(openai.BadRequestError) as caught:
        chat.create(model=NAME, messages=ASK, tools=[WEATHER])
    assert caught.value.param == "tools"
    assert chat.create(model=NAME, messages=ASK, tools=[]).choices[0].message.content == "x"


@pytest.mark.parametrize("stream", [False, True])
def test_reasoning_is_told_apart(model: Callable[..., Any], stream: bool) -> None:
    _, chat = model("hm\n</think>\n\nYes.", thinking="open")
    answer = chat.create(
        model=NAME, messages=ASK, stream=stream, logprobs=True, extra_body={"thinking_budget": 5}
    )
    if not stream:
        message = answer.choices[0].message
        assert (message.reasoning_content, message.content) == ("hm", "Yes.")
        return
    chunks = [chunk.choices[0] for chunk in answer]
    thoughts = "".join(getattr(c.delta, "reasoning_content", None) or "" for c in chunks)
    assert thoughts == "hm"
    assert "".join(c.delta.content or "" for c in chunks) == "Yes."
    tokens = [t.token for c in chunks if c.logprobs for t in c.logprobs.content or ()]
    assert "".join(tokens) == "hm\n</think>\n\nYes."


def test_reasoning_has_a_budget(model: Callable[..., Any]) -> None:
    running, chat = model("hm</think>x", thinking="open")
    for more in ({}, {"reasoning_effort": "low"}, {"extra_body": {"thinking_budget": 7}}):
        chat.create(model=NAME, messages=ASK, **more)
    cuts = [one.cutoff for one in running.engine.seen]
    assert cuts[0] is None
    assert [cut.after for cut in cuts[1:]] == [1024, 7]
    chat.create(model=NAME, messages=ASK, reasoning_effort="none")
    assert running.codec.options[-1] == {"enable_thinking": False}
    chat.create(model=NAME, messages=ASK, response_format={"type": "json_object"})
    assert running.engine.seen[-1].grammar.startswith("// thought first\n")
    for contradiction in ({"reasoning_effort": "none", "extra_body": {"enable_thinking": True}},):
        with pytest.raises(openai.BadRequestError) as caught:
            chat.create(model=NAME, messages=ASK, **contradiction)
        assert caught.value.param == "reasoning_effort"

"""Chat completions as the official client sees them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest

NAME = "scripted-1"


def _ask(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def test_whole_answer_with_usage(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=NAME, messages=_ask("good day"))
    assert answer.object == "chat.completion"
    assert answer.id.startswith("chatcmpl-")
    assert answer.model == NAME
    assert answer.system_fingerprint == "fp_0123456789ab"
    choice = answer.choices[0]
    assert (choice.message.role, choice.message.content) == ("assistant", "good day")
    assert choice.finish_reason == "stop"
    assert choice.logprobs is None
    usage = answer.usage
    assert usage is not None
    prompt = len("<user>good day")
    assert (usage.prompt_tokens, usage.completion_tokens) == (prompt, 8)
    assert usage.total_tokens == prompt + 8
    assert usage.prompt_tokens_details is not None
    assert usage.prompt_tokens_details.cached_tokens == prompt // 2


def test_stream_is_role_then_deltas_then_finish_then_usage(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model=NAME, messages=_ask("abc"), stream=True, stream_options={"include_usage": True}
        )
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[0].choices[0].delta.content == ""
    assert [c.choices[0].delta.content for c in chunks[1:4]] == ["a", "b", "c"]
    assert [c.choices[0].finish_reason for c in chunks[:5]] == [None] * 4 + ["stop"]
    assert chunks[4].choices[0].delta.content is None
    assert chunks[5].choices == []
    assert len(chunks) == 6
    assert chunks[5].usage is not None
    assert chunks[5].usage.completion_tokens == 3
    assert all(c.usage is None for c in chunks[:5])
    assert len({c.id for c in chunks}) == 1
    assert {c.object for c in chunks} == {"chat.completion.chunk"}


def test_stream_bytes_are_events_and_end_with_done(http: httpx.Client) -> None:
    body = {"model": NAME, "messages": _ask("x"), "stream": True}
    answer = http.post("/v1/chat/completions", json=body)
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["freehold-model-digest"].startswith("blake3:0123456789abcdef")
    events = answer.content.split(b"\n\n")
    assert events[-2:] == [b"data: [DONE]", b""]
    assert all(event.startswith(b"data: {") for event in events[:-2])
    assert b'"usage"' not in answer.content


def test_whole_answer_carries_the_digest(http: httpx.Client) -> None:
    answer = http.post("/v1/chat/completions", json={"model": NAME, "messages": _ask("x")})
    assert answer.headers["freehold-model-digest"].startswith("blake3:0123456789abcdef")
    assert answer.headers["x-request-id"].startswith("req-")


def test_alias_answers_under_the_models_own_name(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="scripted/alias", messages=_ask("x"))
    assert answer.model == NAME


def test_n_choices_whole(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=NAME, messages=_ask("three"), n=3)
    assert [(c.index, c.message.content) for c in answer.choices] == [
        (i, "three") for i in range(3)
    ]
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 15
    assert answer.usage.prompt_tokens == len("<user>three")


def test_n_choices_are_interleaved_in_a_stream(counter: Callable[..., Any], scripted: Any) -> None:
    running = counter(engine=scripted.ScriptedEngine(delay=0.01))
    client = openai.OpenAI(base_url=f"{running.url}/v1", api_key=running.key)
    order, texts, ends = [], ["", ""], {}
    for chunk in client.chat.completions.create(
        model=NAME, messages=_ask("interleaved"), n=2, stream=True
    ):
        choice = chunk.choices[0]
        order.append(choice.index)
        texts[choice.index] += choice.delta.content or ""
        if choice.finish_reason:
            ends[choice.index] = choice.finish_reason
    assert texts == ["interleaved"] * 2
    assert ends == {0: "stop", 1: "stop"}
    assert order != sorted(order)
    # Each choice draws differently from the same seed.
    assert [s.choice for s in running.engine.seen] == [0, 1]
    assert len({s.seed for s in running.engine.seen}) == 1


def test_logprobs(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=NAME, messages=_ask("né"), logprobs=True, top_logprobs=2
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert [t.bytes for t in logprobs.content] == [[0x6E], [0xC3], [0xA9]]
    assert logprobs.content[0].token == "n"
    assert logprobs.content[0].logprob == -0.5
    assert [t.token for t in logprobs.content[0].top_logprobs] == ["n", "o"]
    assert logprobs.content[0].top_logprobs[1].logprob == -1.5


def test_streamed_logprobs_come_with_the_text_they_made(client: openai.OpenAI) -> None:
    chunks = client.chat.completions.create(
        model=NAME, messages=_ask("né"), logprobs=True, stream=True
    )
    seen = [
        (c.choices[0].delta.content, [t.bytes for t in c.choices[0].logprobs.content])
        for c in chunks
        if c.choices[0].logprobs is not None and c.choices[0].logprobs.content is not None
    ]
    assert seen == [("n", [[0x6E]]), ("é", [[0xC3], [0xA9]])]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("stop", "text"),
    [("END", "one "), (["zzz", "E"], "one "), (["ND two"], "one E"), (["never"], "one END two")],
)
def test_stop_strings(client: openai.OpenAI, stop: Any, text: str, stream: bool) -> None:
    answer = client.chat.completions.create(
        model=NAME, messages=_ask("one END two"), stop=stop, stream=stream
    )
    if stream:
        pieces = [c.choices[0] for c in answer]
        assert "".join(p.delta.content or "" for p in pieces) == text
        assert pieces[-1].finish_reason == "stop"
    else:
        assert answer.choices[0].message.content == text
        assert answer.choices[0].finish_reason == "stop"


def test_logprobs_leave_out_the_stop_string(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=NAME, messages=_ask("ab STOP"), stop="STOP", logprobs=True
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert "".join(t.token for t in logprobs.content) == "ab " == answer.choices[0].message.content


def test_stop_string_ends_the_engines_work(counter: Callable[..., Any], scripted: Any) -> None:
    running = counter(engine=scripted.ScriptedEngine(delay=0.001))
    client = openai.OpenAI(base_url=f"{running.url}/v1", api_key=running.key)
    client.chat.completions.create(model=NAME, messages=_ask("a|" + "b" * 400), stop="|")
    assert (running.engine.started, running.engine.closed) == (1, 1)
    assert running.engine.finished == 0


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_token_limit(client: openai.OpenAI, field: str) -> None:
    limit: dict[str, Any] = {field: 4}
    answer = client.chat.completions.create(model=NAME, messages=_ask("abcdefgh"), **limit)
    assert answer.choices[0].message.content == "abcd"
    assert answer.choices[0].finish_reason == "length"


def test_fields_reach_the_engine(counter: Callable[..., Any]) -> None:
    running = counter()
    client = openai.OpenAI(base_url=f"{running.url}/v1", api_key=running.key)
    client.chat.completions.create(
        model=NAME,
        messages=_ask("x"),
        temperature=0.25,
        top_p=0.5,
        presence_penalty=-1.5,
        frequency_penalty=1.25,
        logit_bias={"65": 7},
        seed=99,
        max_completion_tokens=5,
        logprobs=True,
        top_logprobs=3,
        extra_body={
            "top_k": 7,
            "min_p": 0.125,
            "repetition_penalty": 1.5,
            "enable_thinking": False,
            "chat_template_kwargs": {"style": "plain"},
        },
    )
    sampling = running.engine.seen[0]
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.25, 0.5, 7)
    assert (sampling.min_p, sampling.repetition_penalty) == (0.125, 1.5)
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (-1.5, 1.25)
    assert dict(sampling.logit_bias) == {65: 7.0}
    assert (sampling.seed, sampling.max_tokens, sampling.logprobs) == (99, 5, 3)
    assert sampling.stop_ids == (256,)
    assert running.codec.options == [{"style": "plain", "enable_thinking": False}]


def test_defaults(counter: Callable[..., Any], scripted: Any) -> None:
    running = counter()
    client = openai.OpenAI(base_url=f"{running.url}/v1", api_key=running.key)
    for _ in range(2):
        client.chat.completions.create(model=NAME, messages=_ask("x"))
    first, second = running.engine.seen
    assert first.seed != second.seed, "an absent seed must be drawn anew"
    assert first.max_tokens == scripted.CONTEXT - len("<user>x")
    assert (first.temperature, first.top_p, first.logprobs) == (1.0, 1.0, None)
    assert running.codec.options == [{}, {}]


def test_ignored_fields_are_accepted(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=NAME,
        messages=_ask("fine"),
        user="u",
        metadata={"a": "b"},
        store=False,
        service_tier="auto",
        parallel_tool_calls=True,
        safety_identifier="s",
        prompt_cache_key="k",
        response_format={"type": "text"},
        modalities=["text"],
        tools=[],
        tool_choice="none",
        stop=None,
        temperature=None,
        n=None,
        extra_body={"functions": [], "stream_options": None},
    )
    assert answer.choices[0].message.content == "fine"


def test_messages_reach_the_codec(counter: Callable[..., Any]) -> None:
    running = counter()
    client = openai.OpenAI(base_url=f"{running.url}/v1", api_key=running.key)
    first = client.chat.completions.create(
        model=NAME,
        messages=[
            {"role": "developer", "content": "be brief"},
            {
                "role": "user",
                "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
            },
        ],
    )
    # A reply goes back exactly as the client got it, its empty extras included.
    back: Any = first.choices[0].message.model_dump()
    client.chat.completions.create(model=NAME, messages=[*_ask("x"), back, *_ask("y")])
    assert running.codec.messages == [
        [{"role": "system", "content": "be brief"}, {"role": "user", "content": "a\nb"}],
        [
            {"role": "user", "content": "x"},
            {"role": "assistant", "content": "a\nb"},
            {"role": "user", "content": "y"},
        ],
    ]

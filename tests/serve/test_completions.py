"""Plain completions as the official client sees them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import openai
import pytest

from freehold.serve.limits import Limits

NAME = "scripted-1"


def _ids(text: str) -> list[int]:
    return list(text.encode())


@pytest.mark.parametrize("prompt", ["say>this", _ids("say>this"), ["say>this"], [_ids("say>this")]])
def test_every_shape_of_prompt(client: openai.OpenAI, prompt: Any) -> None:
    answer = client.completions.create(model=NAME, prompt=prompt)
    assert answer.object == "text_completion"
    assert answer.choices[0].text == "this"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (8, 4)


@pytest.mark.parametrize("stream", [False, True])
def test_prompts_and_choices_are_numbered_prompt_by_prompt(
    client: openai.OpenAI, stream: bool
) -> None:
    answer = client.completions.create(
        model=NAME, prompt=[">one", _ids(">two"), ">three"], n=2, stream=stream
    )
    texts = dict.fromkeys(range(6), "")
    for part in answer if stream else [answer]:
        for choice in part.choices:
            texts[choice.index] += choice.text
    assert list(texts.values()) == ["one", "one", "two", "two", "three", "three"]


def test_usage_counts_each_prompt_once(client: openai.OpenAI) -> None:
    answer = client.completions.create(model=NAME, prompt=[">ab", ">cd"], n=2)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 6
    assert answer.usage.completion_tokens == 8
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 2


def test_default_length_is_openais_sixteen(client: openai.OpenAI) -> None:
    answer = client.completions.create(model=NAME, prompt=">" + "a" * 40)
    assert len(answer.choices[0].text) == 16
    assert answer.choices[0].finish_reason == "length"


def test_logprobs_are_parallel_lists(client: openai.OpenAI) -> None:
    logprobs = client.completions.create(model=NAME, prompt=">né!", logprobs=2).choices[0].logprobs
    assert logprobs is not None
    assert logprobs.tokens == ["n", "bytes:\\xc3", "bytes:\\xa9", "!"]
    assert logprobs.token_logprobs == [-0.5] * 4
    # The second byte of é begins where é does: no character is complete before it.
    assert logprobs.text_offset == [0, 1, 1, 2]
    assert logprobs.top_logprobs is not None
    assert logprobs.top_logprobs[0] == {"n": -0.5, "o": -1.5}


def test_echo_with_logprobs_scores_the_prompt(client: openai.OpenAI) -> None:
    choice = client.completions.create(
        model=NAME, prompt="ab>c", echo=True, logprobs=1, max_tokens=1
    ).choices[0]
    assert choice.text == "ab>cc"
    assert choice.logprobs is not None
    assert choice.logprobs.tokens == ["a", "b", ">", "c", "c"]
    assert choice.logprobs.token_logprobs == [None, -0.25, -0.25, -0.25, -0.5]
    assert choice.logprobs.text_offset == [0, 1, 2, 3, 4]
    assert choice.logprobs.top_logprobs is not None
    assert choice.logprobs.top_logprobs[0] is None
    # The alternatives at a place come from the position before it.
    assert choice.logprobs.top_logprobs[1] == {"a": -0.5, "b": -0.25}


def test_echo_alone_generates_nothing(counter: Callable[..., Any]) -> None:
    running = counter()
    client = openai.OpenAI(base_url=f"{running.url}/v1", api_key=running.key)
    answer = client.completions.create(
        model=NAME, prompt=_ids("abé"), echo=True, logprobs=0, max_tokens=0
    )
    assert answer.choices[0].text == "abé"
    assert answer.choices[0].logprobs is not None
    assert answer.choices[0].logprobs.token_logprobs == [None, -0.25, -0.25, -0.25]
    assert answer.choices[0].logprobs.top_logprobs is None
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 0
    assert running.engine.started == 0


def test_echo_streams_the_prompt_first(client: openai.OpenAI) -> None:
    chunks = list(
        client.completions.create(
            model=NAME, prompt="x>yz", echo=True, stream=True, logprobs=0,
            stream_options={"include_usage": True},
        )
    )  # fmt: skip
    assert [c.choices[0].text for c in chunks[:-1]] == ["x>yz", "y", "z", ""]
    assert [c.choices[0].finish_reason for c in chunks[:-1]] == [None, None, None, "stop"]
    offsets = [c.choices[0].logprobs.text_offset for c in chunks[:3] if c.choices[0].logprobs]
    assert offsets == [[0, 1, 2, 3], [4], [5]]
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.prompt_tokens == 4


def test_echo_with_logprobs_needs_an_engine_that_scores(
    counter: Callable[..., Any], scripted: Any
) -> None:
    running = counter(card=replace(scripted.CARD, caps=frozenset({"ids"})))
    client = openai.OpenAI(base_url=f"{running.url}/v1", api_key=running.key)
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model=NAME, prompt="a", echo=True, logprobs=1)
    assert caught.value.param == "echo"


def test_many_prompts_are_answered_a_few_at_a_time(
    counter: Callable[..., Any], scripted: Any
) -> None:
    running = counter(engine=scripted.ScriptedEngine(delay=0.001), limits=Limits(at_once=3))
    client = openai.OpenAI(base_url=f"{running.url}/v1", api_key=running.key)
    answer = client.completions.create(model=NAME, prompt=[f">{i}" for i in range(20)])
    assert [c.text for c in answer.choices] == [str(i) for i in range(20)]
    assert running.engine.most == 3

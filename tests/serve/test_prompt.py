"""Prompts that cannot fit are refused quickly, and never hold up other streams."""

from __future__ import annotations

import asyncio
import threading
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from freehold.errors import ContextOverflowError
from freehold.serve.prompt import Tokenising

NAME = "scripted-1"
CHAT = "/v1/chat/completions"


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (CHAT, {"messages": [{"role": "user", "content": "long " * 2_000_000}]}, "messages"),
        ("/v1/completions", {"prompt": "long " * 2_000_000}, "prompt"),
        ("/v1/completions", {"prompt": [65] * 2_000_000}, "prompt"),
        ("/v1/completions", {"prompt": ["a", "é" * 3_000_000]}, "prompt[1]"),
    ],
)
def test_a_prompt_of_megabytes_names_its_field(
    counter: Callable[..., Any], path: str, body: dict[str, Any], param: str
) -> None:
    running = counter()
    answer = httpx.post(
        running.url + path, headers=running.auth, json={"model": NAME, **body}, timeout=60
    )
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["param"], error["code"]) == (param, "context_length_exceeded")


def test_slow_tokenising_leaves_the_loop_free(counter: Callable[..., Any], scripted: Any) -> None:
    begun, go_on = threading.Event(), threading.Event()

    class Slow(scripted.ScriptedCodec):  # type: ignore[misc]
        def chat(self, *args: Any, **kwargs: Any) -> Any:
            ids = super().chat(*args, **kwargs)
            if len(ids) > 2000:
                begun.set()
                assert go_on.wait(30)
            return ids

    card = replace(scripted.CARD, context=100_000)
    running = counter(codec=Slow(), card=card, engine=scripted.ScriptedEngine(card=card))
    client = openai.OpenAI(base_url=f"{running.url}/v1", api_key=running.key, max_retries=0)

    def ask(text: str) -> str | None:
        messages: Any = [{"role": "user", "content": text}]
        answer = client.chat.completions.create(model=NAME, messages=messages, max_tokens=3)
        return answer.choices[0].message.content

    answers: list[str | None] = []
    slow = threading.Thread(target=lambda: answers.append(ask("x" * 20_000)))
    slow.start()
    assert begun.wait(30)
    # The long prompt is being tokenised, and only our word lets it end: this one overtakes it.
    assert ask("quick") == "qui"
    assert answers == []
    go_on.set()
    slow.join(30)
    assert answers == ["xxx"]


def test_context_is_shared_by_prompt_and_answer(client: openai.OpenAI) -> None:
    messages: Any = [{"role": "user", "content": "x" * 494}]
    answer = client.chat.completions.create(model=NAME, messages=messages, max_tokens=12)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 500
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=NAME, messages=messages, max_tokens=13)
    assert (caught.value.param, caught.value.code) == ("max_tokens", "context_length_exceeded")
    messages[0]["content"] = "x" * 506
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=NAME, messages=messages)
    assert (caught.value.param, caught.value.code) == ("messages", "context_length_exceeded")


class _Pairs:
    """A codec whose tokens are pairs of bytes, so that tokens are fewer than bytes."""

    stop_ids = ()

    def text(self, prompt: str) -> list[int]:
        data = prompt.encode()
        return [0] * ((len(data) + 1) // 2)

    def token_bytes(self, token: int) -> bytes:
        return b"ab" if token else b""


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=3000), context=st.integers(2, 600))
def test_the_cheap_bound_refuses_only_what_does_not_fit(
    scripted: Any, text: str, context: int
) -> None:
    codec: Any = _Pairs()
    card = replace(scripted.CARD, context=context, vocab=2)
    tokenising = Tokenising(card, codec)
    fits = 0 < len(codec.text(text)) < context
    try:
        ids = asyncio.run(tokenising.prompts(["x", text] if text else "x", 2))
        assert fits or not text
        assert len(ids[-1]) < context
    except ContextOverflowError:
        assert not fits


def test_a_text_too_long_is_never_tokenised_whole(scripted: Any) -> None:
    pieces: list[int] = []

    class Watching(_Pairs):
        def text(self, prompt: str) -> list[int]:
            pieces.append(len(prompt))
            return super().text(prompt)

        def token_bytes(self, token: int) -> bytes:
            # So long a token keeps the cheap bound from deciding.
            return b"x" * 4096

    codec: Any = Watching()
    tokenising = Tokenising(replace(scripted.CARD, context=100_000, vocab=2), codec)
    with pytest.raises(ContextOverflowError, match="more than 100000 tokens"):
        asyncio.run(tokenising.prompts("y" * 10_000_000, 1))
    assert max(pieces) == 16_384
    # A little over the context is enough to know.
    assert sum(pieces) < 300_000


def test_text_that_normalises_shorter_is_not_refused_early(scripted: Any) -> None:
    class Normalising(_Pairs):
        def text(self, prompt: str) -> list[int]:
            return super().text(unicodedata.normalize("NFC", prompt))

    codec: Any = Normalising()
    tokenising = Tokenising(replace(scripted.CARD, context=1000, vocab=2), codec)
    # 2,100 bytes decomposed, 1,400 composed: 700 tokens of two bytes.
    (ids,) = asyncio.run(tokenising.prompts("e\u0301" * 700, 1))
    assert len(ids) == 700

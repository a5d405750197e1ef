"""``/v1/embeddings``, as OpenAI's own client sees it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import openai
import pytest

NAME = "scripted-1"
PATH = "/v1/embeddings"


def test_each_text_has_a_vector_of_length_one(client: openai.OpenAI) -> None:
    for form in ("float", "base64", openai.omit):
        answer = client.embeddings.create(model=NAME, input=["a", "bcd"], encoding_format=form)  # type: ignore[arg-type]
        assert (answer.object, answer.model) == ("list", NAME)
        assert answer.usage.prompt_tokens == answer.usage.total_tokens == 4
        for one, n in zip(answer.data, (1, 3), strict=True):
            vector = one.embedding
            if isinstance(vector, str):
                continue  # the client was asked to leave it as it is
            wanted = np.array([3, 4, n]) / math.hypot(3, 4, n)
            assert vector == pytest.approx(wanted.tolist(), abs=1e-6)
    assert [one.index for one in answer.data] == [0, 1]


@pytest.mark.parametrize("given", ["ab", ["ab"], [97, 98], [[97, 98]]])
def test_four_shapes_of_input(counter: Callable[..., Any], given: Any) -> None:
    running = counter()
    client = openai.OpenAI(base_url=f"{running.url}/v1", api_key=running.key, max_retries=0)
    assert len(client.embeddings.create(model=NAME, input=given).data) == 1
    assert running.engine.prompts == [[97, 98]]
    assert running.engine.pooled == ["mean"]


def test_a_models_own_way(counter: Callable[..., Any], scripted: Any) -> None:
    codec = scripted.ScriptedCodec()
    codec.pooling, codec.suffix = "last", (scripted.END,)
    running = counter(codec=codec)
    client = openai.OpenAI(base_url=f"{running.url}/v1", api_key=running.key, max_retries=0)
    client.embeddings.create(model=NAME, input=[[97], [97, scripted.END]])
    client.embeddings.create(model=NAME, input="a", extra_body={"pooling": "mean"})
    assert running.engine.prompts == [[97, scripted.END]] * 3
    assert running.engine.pooled == ["last", "last", "mean"]


def test_fewer_dimensions(client: openai.OpenAI) -> None:
    (one,) = client.embeddings.create(model=NAME, input="a", dimensions=2).data
    assert one.embedding == pytest.approx([0.6, 0.8], abs=1e-6)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a", 5]}, "input[1]"),
        ({"input": [[1, "a"]]}, "input[0][1]"),
        ({"input": ["a"] * 513}, "input"),
        ({"input": "x" * 600}, "input"),
        ({"input": "a", "dimensions": 4}, "dimensions"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format"),
        ({"input": "a", "pooling": "max"}, "pooling"),
    ],
)
def test_what_is_wrong_is_named(http: httpx.Client, body: Any, param: str) -> None:
    answer = http.post(PATH, json={"model": NAME} | body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


def test_an_engine_that_fails_is_told(counter: Callable[..., Any], scripted: Any) -> None:
    running = counter(engine=scripted.ScriptedEngine(fail_at=0))
    body = {"model": NAME, "input": ["a", "b"]}
    answer = httpx.post(running.url + PATH, json=body, headers=running.auth)
    assert answer.status_code == 503

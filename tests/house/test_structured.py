"""Answers held to a form, by the real default model: valid, whole and streamed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import openai
import pytest

from tests.house.running import DEFAULT, Server

BOOK = {
    "type": "object",
    "properties": {
        "title": {"type": "string", "maxLength": 40},
        "year": {"type": "integer", "minimum": 1500, "maximum": 2100},
        "genres": {
            "type": "array",
            "items": {"enum": ["novel", "poetry", "science"]},
            "minItems": 1,
            "maxItems": 2,
        },
    },
    "required": ["title", "year", "genres"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "book", "schema": BOOK}}
ASK = "Name a famous book."


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{server.address}/v1", api_key=server.key, max_retries=0, timeout=300
    ) as one:
        yield one


def ask(client: openai.OpenAI, wanted: Any, **more: Any) -> Any:
    return client.chat.completions.create(
        **{
            "model": DEFAULT,
            "messages": [{"role": "user", "content": ASK}],
            "response_format": wanted,
            "max_tokens": 200,
            **more,
        }
    )


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_a_schema_holds_whole_and_streamed(client: openai.OpenAI, temperature: float) -> None:
    settings: dict[str, Any] = {"temperature": temperature, "seed": 5}
    whole = ask(client, FORMAT, **settings)
    text = whole.choices[0].message.content
    assert whole.choices[0].finish_reason == "stop"
    jsonschema.validate(json.loads(text), BOOK)
    streamed = list(ask(client, FORMAT, stream=True, **settings))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in streamed) == text
    assert streamed[-1].choices[0].finish_reason == "stop"


def test_four_answers_of_one_request_each_hold(client: openai.OpenAI) -> None:
    answer = ask(client, FORMAT, n=4, temperature=1.2, seed=11)
    texts = {choice.message.content for choice in answer.choices}
    assert len(texts) > 1
    for text in texts:
        jsonschema.validate(json.loads(text), BOOK)


def test_a_short_limit_is_told(client: openai.OpenAI) -> None:
    answer = ask(client, FORMAT, temperature=0, max_tokens=5)
    assert answer.choices[0].finish_reason == "length"


def test_a_regular_expression_and_a_grammar_hold(client: openai.OpenAI) -> None:
    regex = {"type": "grammar", "syntax": "regex", "definition": r"(19|20)\d\d-\d\d"}
    assert re.fullmatch(r"(19|20)\d\d-\d\d", ask(client, regex).choices[0].message.content)
    lark = {"type": "grammar", "syntax": "lark", "definition": 'start: "yes, " /[a-z]{3}/ | "no"'}
    assert re.fullmatch(r"yes, [a-z]{3}|no", ask(client, lark).choices[0].message.content)


def test_what_is_no_grammar_is_refused_by_name(client: openai.OpenAI) -> None:
    wanted = {"type": "grammar", "syntax": "lark", "definition": "start: nothing"}
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, wanted)
    assert caught.value.param == "response_format.definition"

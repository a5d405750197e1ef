"""``/tokenize`` and ``/detokenize``."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

NAME = "scripted-1"
USER = [{"role": "user", "content": "hé"}]
TOOL = {"type": "function", "function": {"name": "f"}}


def test_there_and_back(http: httpx.Client) -> None:
    for text in ("", "hé"):
        told = http.post("/tokenize", json={"model": NAME, "prompt": text}).json()
        assert told["tokens"] == list(text.encode())
        assert told["count"] == len(told["tokens"])
        assert told["max_model_len"] == 512
        back = http.post("/detokenize", json={"model": NAME, "tokens": told["tokens"]})
        assert back.json() == {"prompt": text}


def test_a_conversation(http: httpx.Client) -> None:
    told = http.post("/tokenize", json={"model": NAME, "messages": USER}).json()
    assert bytes(told["tokens"]) == "<user>hé".encode()


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "x", "messages": USER}, "prompt"),
        ("/tokenize", {"prompt": 5}, "prompt"),
        ("/tokenize", {"messages": [{"role": "x"}]}, "messages[0].role"),
        ("/tokenize", {"messages": USER, "tools": [TOOL, TOOL]}, "tools[1].function.name"),
        ("/tokenize", {"prompt": "x" * 1000}, "prompt"),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": ["x"]}, "tokens[0]"),
        ("/detokenize", {"tokens": [1, 261]}, "tokens[1]"),
        ("/detokenize", {"tokens": [-1]}, "tokens[0]"),
    ],
)
def test_what_is_wrong_is_named(http: httpx.Client, path: str, body: Any, param: str) -> None:
    answer = http.post(path, json={"model": NAME} | body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param

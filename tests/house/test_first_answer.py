"""The first screen of the README: the printed curl line and the openai client get right answers."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
from openai import AuthenticationError, OpenAI

from tests.house.running import DEFAULT, Server

PALINDROME = (
    "Write a Python function `is_palindrome(s)` that ignores case and every character that is not "
    "a letter or digit. Answer with one code block only."
)
CASES = """
assert is_palindrome("A man, a plan, a canal: Panama")
assert is_palindrome("")
assert not is_palindrome("Freehold")
print("it runs")
"""


@pytest.fixture(scope="module")
def client(server: Server) -> OpenAI:
    return OpenAI(base_url=f"{server.address}/v1", api_key=server.key, max_retries=0)


def test_the_printed_curl_line_answers(server: Server) -> None:
    done = subprocess.run(
        ["bash", "-c", server.curl], check=True, capture_output=True, text=True, timeout=120
    )
    reply = json.loads(done.stdout)
    assert "Paris" in reply["choices"][0]["message"]["content"]


def test_the_openai_client_gets_a_right_answer(client: OpenAI) -> None:
    reply = client.chat.completions.create(
        model=DEFAULT,
        messages=[{"role": "user", "content": "What is the capital of France?"}],
        temperature=0,
    )
    assert "Paris" in (reply.choices[0].message.content or "")
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage is not None
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens


def test_a_streamed_palindrome_function_runs(client: OpenAI) -> None:
    stream = client.chat.completions.create(
        model=DEFAULT,
        messages=[{"role": "user", "content": PALINDROME}],
        temperature=0,
        max_tokens=300,
        stream=True,
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert code is not None, text
    done = subprocess.run(
        [sys.executable, "-I", "-c", code.group(1) + CASES],
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.stdout.strip() == "it runs", done.stderr


def test_streamed_and_whole_answers_are_the_same(client: OpenAI) -> None:
    ask = {
        "model": DEFAULT,
        "messages": [{"role": "user", "content": "Count from 1 to 10."}],
        "temperature": 0,
        "max_tokens": 64,
    }
    whole = client.chat.completions.create(**ask).choices[0].message.content
    stream = client.chat.completions.create(**ask, stream=True)
    parts = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
    assert "".join(parts) == whole
    assert len(parts) > 5


def test_a_wrong_key_is_refused(server: Server) -> None:
    stranger = OpenAI(base_url=f"{server.address}/v1", api_key="not-a-key", max_retries=0)
    with pytest.raises(AuthenticationError):
        stranger.models.list()

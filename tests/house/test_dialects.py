"""The default model through each API, by each API's own client: the same words from all of them."""

from __future__ import annotations

from typing import Any

import anthropic
import numpy as np
import openai
import pytest

from tests.house.running import DEFAULT, Server

ASK: Any = [{"role": "user", "content": "Count from one to five."}]


def test_the_same_words_from_every_api(server: Server) -> None:
    ours = openai.OpenAI(base_url=f"{server.address}/v1", api_key=server.key, timeout=300)
    theirs = anthropic.Anthropic(base_url=server.address, api_key=server.key, timeout=300)
    chat = ours.chat.completions.create(
        model=DEFAULT, messages=ASK, temperature=0, max_tokens=12, stop=["four"]
    )
    words = chat.choices[0].message.content
    assert words
    response = ours.responses.create(
        model=DEFAULT, input=ASK[0]["content"], temperature=0, max_output_tokens=12
    )
    assert response.output_text.startswith(words.strip()[:3])
    asked: Any = {
        "model": DEFAULT,
        "messages": ASK,
        "max_tokens": 12,
        "stop_sequences": ["four"],
        "extra_body": {"temperature": 0},
    }
    message = theirs.messages.create(**asked)
    assert [block.type == "text" and block.text for block in message.content] == [words]
    with theirs.messages.stream(**asked) as stream:
        assert stream.get_final_text() == words
    assert chat.usage is not None
    counted = theirs.messages.count_tokens(model=DEFAULT, messages=ASK)
    assert counted.input_tokens == chat.usage.prompt_tokens


def test_embeddings_put_what_is_alike_together(server: Server) -> None:
    ours = openai.OpenAI(base_url=f"{server.address}/v1", api_key=server.key, timeout=300)
    texts = ["def add(a, b): return a + b", "def plus(x, y): return x + y", "The moon is far away."]
    answer = ours.embeddings.create(model=DEFAULT, input=texts)
    one, other, stranger = (np.array(each.embedding) for each in answer.data)
    assert [float(v @ v) for v in (one, other, stranger)] == pytest.approx([1, 1, 1], abs=1e-5)
    assert one @ other > one @ stranger
    again = ours.embeddings.create(model=DEFAULT, input=texts[:1]).data[0].embedding
    assert again == one.tolist()

"""Qwen-Agent, with the server's own tools (``use_raw_api``) and with its own prompt for them."""

from __future__ import annotations

import json
from typing import Any

import case
from qwen_agent.llm import get_chat_model

SERVER: Any = {"model": case.MODEL, "model_server": f"{case.ADDRESS}/v1", "api_key": case.KEY}
COLD: Any = {"temperature": 0, "max_tokens": case.MOST, "max_retries": 0, "seed": 1}
model = get_chat_model({**SERVER, "generate_cfg": COLD})
raw = get_chat_model({**SERVER, "generate_cfg": {**COLD, "use_raw_api": True}})
ASK = [{"role": "user", "content": case.QUESTION}]


def chat() -> None:
    (answer,) = model.chat(messages=ASK, stream=False)
    case.check_words(answer["content"])


def streaming() -> None:
    ((whole),) = model.chat(messages=ASK, stream=False)
    pieces, before = [], ""
    for (so_far,) in model.chat(messages=ASK, stream=True):
        pieces.append(so_far["content"].removeprefix(before))
        before = so_far["content"]
    case.check_streamed(pieces, whole["content"])


def tools() -> None:
    function = {"name": case.TOOL, "description": case.TOOL_TEXT, "parameters": case.TOOL_SCHEMA}
    named = {"type": "function", "function": {"name": case.TOOL}}
    messages: list[Any] = [{"role": "user", "content": case.WEATHER}]
    *_, (said,) = raw.chat(
        messages=messages, functions=[function], extra_generate_cfg={"tool_choice": named}
    )
    wanted = said["function_call"]
    result = case.check_call(wanted["name"], json.loads(wanted["arguments"]))
    messages += [
        said,
        {
            "role": "function",
            "name": case.TOOL,
            "content": result,
            "extra": {"function_id": said["extra"]["function_id"]},
        },
    ]
    *_, (final,) = raw.chat(
        messages=messages, functions=[function], extra_generate_cfg={"tool_choice": "none"}
    )
    case.check_final(final["content"])


def form() -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "city", "schema": case.CITY_SCHEMA}}
    (answer,) = model.chat(
        messages=[{"role": "user", "content": case.CITY}],
        stream=False,
        extra_generate_cfg={"response_format": wanted},
    )
    case.check_city(json.loads(answer["content"]))


case.run("qwen-agent", chat, streaming, tools, form)

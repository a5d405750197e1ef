"""Simon Willison's ``llm``, told of the server in its own file of models."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import case
import llm

FOLDER = Path(tempfile.mkdtemp())
os.environ["LLM_USER_PATH"] = str(FOLDER)
(FOLDER / "extra-openai-models.yaml").write_text(
    f"- model_id: here\n  model_name: {case.MODEL}\n  api_base: {case.ADDRESS}/v1\n"
    "  api_key_name: here\n  supports_schema: true\n  supports_tools: true\n"
)
(FOLDER / "keys.json").write_text(json.dumps({"here": case.KEY}))

model = llm.get_model("here")
COLD = {"temperature": 0, "max_tokens": case.MOST}


def chat() -> None:
    answer = model.prompt(case.QUESTION, stream=False, **COLD)
    case.check_words(answer.text())
    assert answer.usage().output > 0


def streaming() -> None:
    whole = model.prompt(case.QUESTION, stream=False, **COLD).text()
    case.check_streamed(list(model.prompt(case.QUESTION, **COLD)), whole)


def tools() -> None:
    tool = llm.Tool(
        name=case.TOOL,
        description=case.TOOL_TEXT,
        input_schema=case.TOOL_SCHEMA,
        implementation=case.get_temperature,
    )
    # It has no tool_choice, and a small model with a tool at hand calls it over and over: the
    # second question comes without it.
    for stream in (True, False):
        talk = model.conversation()
        asked = talk.prompt(case.WEATHER, tools=[tool], stream=stream, **COLD)
        (call,) = asked.tool_calls()
        case.check_call(call.name, call.arguments)
        results = asked.execute_tool_calls()
        case.check_final(talk.prompt(tool_results=results, stream=stream, **COLD).text())


def form() -> None:
    for stream in (False, True):
        answer = model.prompt(case.CITY, schema=case.CITY_SCHEMA, stream=stream, **COLD)
        case.check_city(json.loads(answer.text()))


case.run("llm", chat, streaming, tools, form)

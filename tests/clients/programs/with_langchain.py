"""LangChain's ``ChatOpenAI``."""

from __future__ import annotations

from typing import Any, Literal

import case
import pydantic
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

SETTINGS: Any = {
    "base_url": f"{case.ADDRESS}/v1",
    "api_key": case.KEY,
    "model": case.MODEL,
    "temperature": 0,
    "max_tokens": case.MOST,
    "max_retries": 0,
}
model = ChatOpenAI(**SETTINGS)
responses = ChatOpenAI(**SETTINGS, use_responses_api=True)


class City(pydantic.BaseModel, extra="forbid"):
    """A city and where it lies."""

    city: str
    country: str
    continent: Literal["Africa", "America", "Asia", "Europe", "Oceania"]


@tool(case.TOOL, description=case.TOOL_TEXT)
def get_temperature(city: str) -> str:
    return case.get_temperature(city)


def chat() -> None:
    answer = model.invoke(case.QUESTION)
    case.check_words(answer.content)
    assert isinstance(answer, AIMessage)
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["output_tokens"] > 0
    case.check_words(responses.invoke(case.QUESTION).text)


def streaming() -> None:
    for one in (model, responses):
        whole = one.invoke(case.QUESTION).text
        case.check_streamed([chunk.text for chunk in one.stream(case.QUESTION)], whole)


def tools() -> None:
    for one in (model, responses):
        armed = one.bind_tools([get_temperature], tool_choice=case.TOOL)
        asked: Any = [HumanMessage(case.WEATHER)]
        called = armed.invoke(asked)
        results: list[Any] = []
        for call in called.tool_calls:
            result = case.check_call(call["name"], call["args"])
            results.append(ToolMessage(result, tool_call_id=call["id"]))
        assert results
        free = one.bind_tools([get_temperature], tool_choice="none")
        case.check_final(free.invoke([*asked, called, *results]).text)
        called = None
        for chunk in armed.stream(asked):
            called = chunk if called is None else called + chunk
        assert called is not None
        (call,) = called.tool_calls
        case.check_call(call["name"], call["args"])


def form() -> None:
    for one in (model, responses):
        found = one.with_structured_output(City, method="json_schema").invoke(case.CITY)
        assert isinstance(found, City)
        case.check_city(found.model_dump())
    by_call = model.with_structured_output(City, method="function_calling").invoke(case.CITY)
    assert isinstance(by_call, City)
    case.check_city(by_call.model_dump())


case.run("langchain-openai", chat, streaming, tools, form)

"""LlamaIndex's ``OpenAILike``."""

from __future__ import annotations

from typing import Any, Literal

import case
import pydantic
from llama_index.core.base.llms.types import ChatMessage, MessageRole
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike

model = OpenAILike(
    api_base=f"{case.ADDRESS}/v1",
    api_key=case.KEY,
    model=case.MODEL,
    is_chat_model=True,
    is_function_calling_model=True,
    should_use_structured_outputs=True,
    temperature=0,
    max_tokens=case.MOST,
    max_retries=0,
)
ASK = [ChatMessage(role=MessageRole.USER, content=case.QUESTION)]
tool = FunctionTool.from_defaults(
    fn=case.get_temperature, name=case.TOOL, description=case.TOOL_TEXT
)


class City(pydantic.BaseModel, extra="forbid"):
    """A city and where it lies."""

    city: str
    country: str
    continent: Literal["Africa", "America", "Asia", "Europe", "Oceania"]


def chat() -> None:
    case.check_words(model.chat(ASK).message.content)


def streaming() -> None:
    whole = model.chat(ASK).message.content or ""
    case.check_streamed([one.delta or "" for one in model.stream_chat(ASK)], whole)


def tools() -> None:
    asked = ChatMessage(role=MessageRole.USER, content=case.WEATHER)
    called = model.chat_with_tools([tool], user_msg=asked, tool_choice=case.TOOL)
    history: list[Any] = [asked, called.message]
    for call in model.get_tool_calls_from_response(called):
        result = case.check_call(call.tool_name, call.tool_kwargs)
        history.append(
            ChatMessage(
                role=MessageRole.TOOL,
                content=result,
                additional_kwargs={"tool_call_id": call.tool_id},
            )
        )
    assert len(history) > 2
    final = model.chat_with_tools([tool], chat_history=history, tool_choice="none")
    case.check_final(final.message.content)
    *_, last = model.stream_chat_with_tools([tool], user_msg=asked, tool_choice=case.TOOL)
    (call,) = model.get_tool_calls_from_response(last)
    case.check_call(call.tool_name, call.tool_kwargs)


def form() -> None:
    city = model.as_structured_llm(City)
    found = city.chat([ChatMessage(role=MessageRole.USER, content=case.CITY)]).raw
    assert isinstance(found, City)
    case.check_city(found.model_dump())


case.run("llama-index-llms-openai-like", chat, streaming, tools, form)

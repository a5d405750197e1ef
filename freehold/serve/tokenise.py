"""``POST /tokenize`` and ``/detokenize``: what a prompt comes to, and what ids stand for.

In vLLM's shapes, which other tools know.
"""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import FailFast, Field, StrictBool, model_validator
from starlette.requests import Request
from starlette.responses import Response

from freehold.errors import UsageError
from freehold.serve import tools
from freehold.serve.desk import desk_of
from freehold.serve.fields import Strict, at_most, fault, parse
from freehold.serve.intake import read
from freehold.serve.schema import ChatMessage, ChatRequest, Tool
from freehold.serve.wire import encode


class TokenizeRequest(Strict):
    """The body of ``POST /tokenize``: a ``prompt``, or a conversation as for chat completions."""

    model: Annotated[str, Field(min_length=1, max_length=256)]
    prompt: str | None = None
    messages: Annotated[list[ChatMessage], FailFast(), at_most(4096, "messages")] = Field(
        default_factory=list
    )
    tools: Annotated[list[Tool], FailFast(), at_most(128, "tools")] = Field(default_factory=list)
    chat_template_kwargs: Annotated[dict[str, Any], at_most(32, "options")] = Field(
        default_factory=dict
    )
    enable_thinking: StrictBool | None = None

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.prompt is None) != bool(self.messages):
            raise fault("or messages must be given, and not both", at=".prompt")
        return self


class DetokenizeRequest(Strict):
    """The body of ``POST /detokenize``."""

    model: Annotated[str, Field(min_length=1, max_length=256)]
    tokens: Annotated[list[int], FailFast(), at_most(1 << 20, "tokens")]


async def tokenize(request: Request) -> Response:
    """The token ids of a prompt."""
    asked = await read(request, TokenizeRequest)
    served = desk_of(request).find(asked.model, request)
    if asked.prompt is not None:
        ids = [] if not asked.prompt else (await served.tokenising.prompts(asked.prompt, 1))[0]
    else:
        named = ("model", "messages", "tools", "chat_template_kwargs", "enable_thinking")
        chat = parse(ChatRequest, {name: getattr(asked, name) for name in named})
        told = [message.shown() for message in chat.messages]
        shown = tools.shown(chat, served.hosted.codec)
        ids = await served.tokenising.chat(told, chat.options, shown)
    most = served.hosted.card.context
    return _json({"count": len(ids), "max_model_len": most, "tokens": ids})


async def detokenize(request: Request) -> Response:
    """The text that ids stand for, special tokens by their names."""
    asked = await read(request, DetokenizeRequest)
    hosted = desk_of(request).find(asked.model, request).hosted
    for place, token in enumerate(asked.tokens):
        if not 0 <= token < hosted.card.vocab:
            at = f"tokens[{place}]"
            raise UsageError(f"{at} must be an id from 0 to {hosted.card.vocab - 1}", param=at)
    data = b"".join(map(hosted.codec.token_bytes, asked.tokens))
    return _json({"prompt": data.decode(errors="replace")})


def _json(data: object) -> Response:
    return Response(encode(data), media_type="application/json")

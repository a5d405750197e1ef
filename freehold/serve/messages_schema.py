"""Anthropic's ``POST /v1/messages``, field by field, and what it means in our own terms.

The same three kinds of field as in ``schema.py``: honoured, ignored, refused.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import FailFast, Field, WithJsonSchema, model_validator

from freehold.serve.fields import (
    EFFORTS,
    MAX_STOP_LENGTH,
    MAX_TOOLS,
    OBJECT,
    STRING,
    TEXTS,
    Checked,
    Count,
    Ignored,
    Share,
    Strict,
    Temperature,
    at_most,
    fault,
    refused,
    said,
)
from freehold.serve.schema import (
    CalledFunction,
    ChatMessage,
    ChatRequest,
    FunctionTool,
    ResponseFormat,
    Tool,
    ToolCall,
    ToolChoice,
)
from freehold.serve.wire import encode

MAX_BLOCKS = 1024
MAX_STOPS = 15
"""One less than a decoder takes: a single call needs one of its own."""


def _text(value: object) -> object:
    """A string, or blocks of type text, as one string."""
    if value is None or isinstance(value, str):
        return value or ""
    if not isinstance(value, list) or len(value) > MAX_BLOCKS:
        raise fault(f"must be a string or a list of at most {MAX_BLOCKS} text blocks")
    for place, block in enumerate(value):
        if not isinstance(block, dict) or not isinstance(block.get("text"), str):
            raise fault("must be a text block: this model reads text only", f"[{place}]")
        if block.get("type") != "text":
            raise fault("must be 'text': this model reads text only", f"[{place}].type")
    return "\n".join(block["text"] for block in value)


Texts = Annotated[Any, Checked(_text, said(**TEXTS))]


class Block(Strict):
    """Part of a message. Which fields it has depends on its ``type``."""

    type: Literal["text", "tool_use", "tool_result", "thinking"]
    text: str | None = None
    thinking: str | None = None
    id: Annotated[str, Field(max_length=256)] | None = None
    name: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    input: dict[str, Any] | None = None
    tool_use_id: Annotated[str, Field(max_length=256)] | None = None
    content: Texts = None
    is_error: bool = False

    cache_control: Ignored = None
    citations: Ignored = None
    signature: Ignored = None
    caller: Ignored = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        needed = {
            "text": {"text"},
            "thinking": {"thinking"},
            "tool_use": {"id", "name", "input"},
            "tool_result": {"tool_use_id"},
        }[self.type]
        allowed = needed | ({"content", "is_error"} if self.type == "tool_result" else set())
        for name in ("text", "thinking", "id", "name", "input", "tool_use_id", "content"):
            given = getattr(self, name) is not None
            if given and name not in allowed:
                raise fault(f"is not allowed in a block of type {self.type}", at=f".{name}")
            if not given and name in needed:
                raise fault(f"is required in a block of type {self.type}", at=f".{name}")
        return self


def _blocks(value: object) -> object:
    return [{"type": "text", "text": value}] if isinstance(value, str) else value


class Message(Strict):
    """What one side said, as text or as blocks."""

    role: Literal["user", "assistant"]
    content: Annotated[
        list[Block],
        FailFast(),
        Field(min_length=1),
        at_most(MAX_BLOCKS, "blocks"),
        Checked(_blocks, lambda schema: {"anyOf": [STRING, schema]}),
    ]

    @model_validator(mode="after")
    def _of_its_role(self) -> Self:
        mine = {"user": {"text", "tool_result"}, "assistant": {"text", "tool_use", "thinking"}}
        for place, block in enumerate(self.content):
            if block.type not in mine[self.role]:
                at = f".content[{place}].type"
                raise fault(f"is {block.type!r}, which a message of {self.role} cannot hold", at=at)
        return self

    def turned(self) -> list[ChatMessage]:
        """The message as ours: results of tools are messages of their own, in their order."""
        if self.role == "assistant":
            return [self._assistant()]
        out: list[ChatMessage] = []
        for block in self.content:
            if block.type == "tool_result":
                text = f"Error: {block.content}" if block.is_error else block.content or ""
                out.append(ChatMessage(role="tool", content=text, tool_call_id=block.tool_use_id))
            elif out and out[-1].role == "user":
                out[-1] = ChatMessage(role="user", content=f"{out[-1].content}\n{block.text}")
            else:
                out.append(ChatMessage(role="user", content=block.text))
        return out

    def _assistant(self) -> ChatMessage:
        thoughts = [block.thinking or "" for block in self.content if block.type == "thinking"]
        calls = [
            ToolCall(
                id=block.id or "",
                function=CalledFunction(
                    name=block.name or "", arguments=encode(block.input).decode()
                ),
            )
            for block in self.content
            if block.type == "tool_use"
        ]
        return ChatMessage(
            role="assistant",
            content="\n".join(block.text or "" for block in self.content if block.type == "text"),
            reasoning_content="\n".join(thoughts) if thoughts else None,
            tool_calls=calls,
        )


class MessagesTool(Strict):
    """A tool of the client's own."""

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    input_schema: dict[str, Any]
    type: Annotated[Any, refused("must be 'custom': no tools are run here", "custom")] = "custom"
    description: str | None = None
    strict: bool | None = None

    cache_control: Ignored = None
    eager_input_streaming: Ignored = None

    def turned(self) -> Tool:
        """The tool as ours."""
        function = FunctionTool(
            name=self.name,
            description=self.description,
            parameters=self.input_schema,
            strict=self.strict,
        )
        return Tool(type="function", function=function)


class Choice(Strict):
    """``any`` is what OpenAI calls required."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool = False

    @model_validator(mode="after")
    def _named(self) -> Self:
        if (self.name is not None) != (self.type == "tool"):
            verb = "is required" if self.type == "tool" else "is not allowed"
            raise fault(f"{verb} where type is {self.type}", at=".name")
        return self


_MODES: dict[str, Literal["none", "auto", "required", "named"]] = {
    "any": "required",
    "auto": "auto",
    "none": "none",
    "tool": "named",
}


class Thinking(Strict):
    """Whether the model is to think, and how many tokens at most."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Count | None = None
    display: Ignored = None

    @model_validator(mode="after")
    def _budget(self) -> Self:
        if self.type != "enabled" and self.budget_tokens is not None:
            raise fault(f"is not allowed where type is {self.type}", at=".budget_tokens")
        return self


class OutputFormat(Strict):
    """The answer is held to a JSON schema."""

    type: Literal["json_schema"]
    schema_: Annotated[Any, Field(alias="schema"), WithJsonSchema(OBJECT)]


class OutputConfig(Strict):
    """What the answer must look like, and how long may be thought."""

    format: OutputFormat | None = None
    effort: Literal["low", "medium", "high", "max"] | None = None


class CountRequest(Strict):
    """The body of ``POST /v1/messages/count_tokens``: what makes up a prompt."""

    model: Annotated[str, Field(min_length=1, max_length=256)]
    messages: Annotated[list[Message], FailFast(), Field(min_length=1), at_most(4096, "messages")]
    system: Texts = None
    tools: Annotated[list[MessagesTool], FailFast(), at_most(MAX_TOOLS, "tools")] = Field(
        default_factory=list
    )
    tool_choice: Choice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    cache_control: Ignored = None

    @model_validator(mode="after")
    def _answerable(self) -> Self:
        if self.messages[-1].role != "user":
            last = f".messages[{len(self.messages) - 1}].role"
            raise fault("must be 'user': an answer's beginning cannot be given", at=last)
        names = [tool.name for tool in self.tools]
        for place, name in enumerate(names):
            if name in names[:place]:
                raise fault(f"is {name!r} a second time", at=f".tools[{place}].name")
        if self.tool_choice is not None:
            if self.tool_choice.type == "any" and not names:
                raise fault("is 'any', and there are no tools", at=".tool_choice.type")
            if self.tool_choice.name is not None and self.tool_choice.name not in names:
                raise fault("is none of the tools", at=".tool_choice.name")
        return self

    def turned(self, **more: Any) -> ChatRequest:
        """The request as ours; what was checked here is not checked again."""
        messages = [one for message in self.messages for one in message.turned()]
        if self.system:
            messages.insert(0, ChatMessage(role="system", content=self.system))
        choice = self.tool_choice or Choice(type="auto")
        parallel = False if choice.disable_parallel_tool_use else None
        thinking = self.thinking or Thinking(type="disabled")
        output = self.output_config or OutputConfig()
        return ChatRequest.model_construct(
            model=self.model,
            messages=messages,
            tools=[tool.turned() for tool in self.tools],
            tool_choice=ToolChoice(mode=_MODES[choice.type], name=choice.name),
            parallel_tool_calls=parallel,
            enable_thinking=None if thinking.type == "adaptive" else thinking.type == "enabled",
            thinking_budget=thinking.budget_tokens or EFFORTS.get(output.effort or ""),
            response_format=output.format and ResponseFormat.of(output.format.schema_),
            **more,
        )


class MessagesRequest(CountRequest):
    """The body of ``POST /v1/messages``."""

    max_tokens: Count
    stop_sequences: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=MAX_STOP_LENGTH)]],
        at_most(MAX_STOPS, "stop sequences"),
    ] = Field(default_factory=list)
    stream: bool = False
    temperature: Temperature = 1.0
    top_k: Annotated[int, Field(ge=0, le=1 << 31)] = 0
    top_p: Share = 1.0

    metadata: Ignored = None
    service_tier: Ignored = None

    container: Annotated[Any, refused("is not supported: no code is run here")] = None
    context_management: Annotated[Any, refused("is not supported")] = None
    mcp_servers: Annotated[Any, refused("is not supported: nothing leaves here", [])] = None

    def chat(self) -> ChatRequest:
        """The request as ours."""
        return self.turned(
            max_tokens=self.max_tokens,
            stop=self.stop_sequences,
            stream=self.stream,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
        )

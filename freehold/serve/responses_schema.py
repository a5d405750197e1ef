"""OpenAI's ``POST /v1/responses``, field by field, and what it means in our own terms.

The same three kinds of field as in ``schema.py``: honoured, ignored, refused. Nothing is kept here,
so a conversation comes whole with each request.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import FailFast, Field, WithJsonSchema, model_validator

from freehold.serve.fields import (
    MAX_PARTS,
    MAX_TOOLS,
    OBJECT,
    STRING,
    TEXTS,
    Checked,
    Count,
    Ignored,
    Schema,
    Share,
    Strict,
    Temperature,
    at_most,
    fault,
    refused,
    said,
)
from freehold.serve.schema import (
    MODE,
    CalledFunction,
    ChatMessage,
    ChatRequest,
    FunctionTool,
    ResponseFormat,
    StreamOptions,
    Tool,
    ToolCall,
    ToolChoice,
)
from freehold.types import MAX_TOP_LOGPROBS

_TEXTS = ("input_text", "output_text", "text", "reasoning_text", "summary_text")


def _text(value: object) -> object:
    """A string, or parts that hold text, as one string."""
    if value is None or isinstance(value, str):
        return value or ""
    if not isinstance(value, list) or len(value) > MAX_PARTS:
        raise fault(f"must be a string or a list of at most {MAX_PARTS} parts")
    for place, part in enumerate(value):
        if not isinstance(part, dict) or part.get("type") not in _TEXTS:
            raise fault("must be a part of text: this model reads text only", f"[{place}]")
        if not isinstance(part.get("text"), str):
            raise fault("must be a string", f"[{place}].text")
    return "\n".join(part["text"] for part in value)


Text = Annotated[Any, Checked(_text, said(**TEXTS))]


class Item(Strict):
    """One thing that was said, thought, called or found. Without a ``type`` it is a message."""

    type: Literal["message", "function_call", "function_call_output", "reasoning"] = "message"
    role: Literal["user", "assistant", "system", "developer"] | None = None
    content: Text = None
    call_id: Annotated[str, Field(max_length=256)] | None = None
    name: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    arguments: str | None = None
    output: Text = None

    id: Ignored = None
    parsed_arguments: Ignored = None
    status: Ignored = None
    phase: Ignored = None
    summary: Ignored = None
    encrypted_content: Ignored = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        needed = {
            "message": {"role", "content"},
            "function_call": {"call_id", "name", "arguments"},
            "function_call_output": {"call_id", "output"},
            "reasoning": set[str](),
        }[self.type]
        allowed = needed | ({"content"} if self.type == "reasoning" else set())
        for name in ("role", "content", "call_id", "name", "arguments", "output"):
            given = getattr(self, name) is not None
            if given and name not in allowed:
                raise fault(f"is not allowed in an item of type {self.type}", at=f".{name}")
            if not given and name in needed:
                raise fault(f"is required in an item of type {self.type}", at=f".{name}")
        if self.type == "function_call":
            self.call()
        return self

    def call(self) -> ToolCall:
        """The call of an item of that type."""
        function = CalledFunction(name=self.name or "", arguments=self.arguments or "")
        return ToolCall(id=self.call_id or "", function=function)


def _items(value: object) -> object:
    return [{"role": "user", "content": value}] if isinstance(value, str) else value


def _turned(items: list[Item]) -> list[ChatMessage]:
    """The items as messages: what the model thought, said and called in a row is one of them."""
    out: list[dict[str, Any]] = []
    for item in items:
        if item.type == "function_call_output":
            out.append({"role": "tool", "content": item.output, "tool_call_id": item.call_id})
            continue
        if item.type == "message" and item.role != "assistant":
            role = "user" if item.role == "user" else "system"
            out.append({"role": role, "content": item.content})
            continue
        if not out or out[-1]["role"] != "assistant":
            out.append({"role": "assistant"})
        turn = out[-1]
        if item.type == "function_call":
            turn.setdefault("tool_calls", []).append(item.call())
        else:
            field = "reasoning_content" if item.type == "reasoning" else "content"
            turn[field] = "\n".join(filter(None, (turn.get(field), item.content)))
    messages = []
    for message in out:
        if message["role"] == "assistant" and not message.get("tool_calls"):
            message.setdefault("content", "")
        messages.append(ChatMessage(**message))
    return messages


class ResponsesTool(Strict):
    """A function of the client's own, in this API's flat form."""

    type: Annotated[Any, refused("must be 'function': no tools are run here", "function")]
    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    def turned(self) -> Tool:
        """The tool as ours."""
        function = FunctionTool(
            name=self.name,
            description=self.description,
            parameters=self.parameters,
            strict=self.strict,
        )
        return Tool(type="function", function=function)


def _tool_choice(value: object) -> object:
    match value:
        case "none" | "auto" | "required":
            return ToolChoice(mode=value)
        case {"type": "function", "name": str(name), **more} if not more:
            return ToolChoice(mode="named", name=name)
    raise fault('must be \'none\', \'auto\', \'required\' or {"type": "function", "name": "..."}')


_NAMED: Schema = {
    "type": "object",
    "properties": {"type": {"const": "function"}, "name": STRING},
    "required": ["type", "name"],
    "additionalProperties": False,
}


class TextFormat(Strict):
    """What the answer must look like."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    schema_: Annotated[Any, Field(alias="schema"), WithJsonSchema(OBJECT)] = None
    description: Ignored = None
    strict: Annotated[bool | None, Ignored] = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.schema_ is None) == (self.type == "json_schema"):
            verb = "is required" if self.type == "json_schema" else "is not allowed"
            raise fault(f"{verb} where type is {self.type}", at=".schema")
        return self


class TextOptions(Strict):
    """How the answer is written."""

    format: TextFormat | None = None
    verbosity: Annotated[Any, refused("must be 'medium' or absent", "medium")] = None


class Reasoning(Strict):
    """How long may be thought."""

    effort: Literal["none", "minimal", "low", "medium", "high"] | None = None
    summary: Annotated[Any, refused("is not supported: thoughts come as they are", "auto")] = None
    generate_summary: Annotated[
        Any, refused("is not supported: thoughts come as they are", "auto")
    ] = None


class ResponsesRequest(Strict):
    """The body of ``POST /v1/responses``."""

    model: Annotated[str, Field(min_length=1, max_length=256)]
    input: Annotated[
        list[Item],
        FailFast(),
        Field(min_length=1),
        at_most(4096, "items"),
        Checked(_items, lambda schema: {"anyOf": [STRING, schema]}),
    ]
    instructions: str | None = None
    max_output_tokens: Count | None = None
    temperature: Temperature = 1.0
    top_p: Share = 1.0
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    include: Annotated[list[str], at_most(16, "names")] = Field(default_factory=list)
    stream: bool = False
    stream_options: StreamOptions | None = None
    text: TextOptions | None = None
    reasoning: Reasoning | None = None
    tools: Annotated[list[ResponsesTool], FailFast(), at_most(MAX_TOOLS, "tools")] = Field(
        default_factory=list
    )
    tool_choice: Annotated[Any, Checked(_tool_choice, said(anyOf=[MODE, _NAMED]))] = None
    parallel_tool_calls: bool | None = None
    metadata: Annotated[dict[str, str], at_most(16, "pairs")] = Field(default_factory=dict)

    safety_identifier: Ignored = None
    prompt_cache_key: Ignored = None
    prompt_cache_retention: Ignored = None
    prompt_cache_options: Ignored = None
    max_tool_calls: Ignored = None
    user: Ignored = None

    background: Annotated[Any, refused("must be false: answers come at once", False)] = None
    conversation: Annotated[Any, refused("is not supported: this server keeps nothing")] = None
    context_management: Annotated[Any, refused("is not supported")] = None
    moderation: Annotated[Any, refused("is not supported")] = None
    previous_response_id: Annotated[
        Any, refused("is not supported: this server keeps no answers; send the conversation")
    ] = None
    prompt: Annotated[Any, refused("is not supported: this server keeps no prompts")] = None
    service_tier: Annotated[
        Any, refused("must be 'auto' or 'default': there is one tier", "auto", "default")
    ] = None
    store: Annotated[Any, refused("must be false: this server keeps no answers", False)] = None
    truncation: Annotated[Any, refused("must be 'disabled'", "disabled")] = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [tool.name for tool in self.tools]
        for place, name in enumerate(names):
            if name in names[:place]:
                raise fault(f"is {name!r} a second time", at=f".tools[{place}].name")
        if self.choice.mode == "required" and not names:
            raise fault("is 'required', and there are no tools", at=".tool_choice")
        if self.choice.name is not None and self.choice.name not in names:
            raise fault("names none of the tools", at=".tool_choice")
        if self.stream_options is not None and not self.stream:
            raise fault("is only allowed when stream is true", at=".stream_options")
        return self

    @property
    def choice(self) -> ToolChoice:
        """Whether tools may or must be called."""
        return self.tool_choice or ToolChoice(mode="auto")

    @property
    def logprobs(self) -> bool:
        """Whether log-probabilities are to be told."""
        return "message.output_text.logprobs" in self.include

    def chat(self) -> ChatRequest:
        """The request as ours; what was checked here is not checked again."""
        messages = _turned(self.input)
        if self.instructions:
            messages.insert(0, ChatMessage(role="system", content=self.instructions))
        wanted = self.text.format if self.text else None
        return ChatRequest.model_construct(
            model=self.model,
            messages=messages,
            max_completion_tokens=self.max_output_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            logprobs=self.logprobs,
            top_logprobs=self.top_logprobs if self.logprobs else None,
            stream=self.stream,
            response_format=_held(wanted),
            reasoning_effort=self.reasoning.effort if self.reasoning else None,
            tools=[tool.turned() for tool in self.tools],
            tool_choice=self.choice,
            parallel_tool_calls=self.parallel_tool_calls,
        )


def _held(wanted: TextFormat | None) -> ResponseFormat | None:
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return ResponseFormat(type="json_object")
    return ResponseFormat.of(wanted.schema_)

"""What a client of chat completions or completions may ask, field by field (``fields.py`` tells the
kinds of field).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import (
    FailFast,
    Field,
    StrictBool,
    WithJsonSchema,
    model_validator,
)

from freehold.serve.fields import (
    _ROLES,
    EFFORTS,
    LEGACY,
    MAX_PARTS,
    MAX_TOOLS,
    OBJECT,
    STRING,
    TEXTS,
    Biases,
    Checked,
    Count,
    Ignored,
    Penalty,
    Schema,
    Share,
    Stops,
    Strict,
    Temperature,
    at_most,
    fault,
    ranged,
    refused,
    said,
    short,
)
from freehold.serve.wire import BadJsonError, decode
from freehold.types import MAX_TOP_LOGPROBS

# --- what both endpoints share --------------------------------------------------------------------


class StreamOptions(Strict):
    """``include_obfuscation`` pads chunks against eavesdroppers elsewhere; here it does nothing."""

    include_usage: bool = False
    include_obfuscation: Ignored = None


class JsonSchema(Strict):
    """OpenAI's ``json_schema``. Answers are held to the schema whatever ``strict`` says."""

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    schema_: Annotated[Any, Field(alias="schema"), WithJsonSchema(OBJECT)]
    description: Annotated[str | None, Ignored] = None
    strict: Annotated[bool | None, Ignored] = None


class ResponseFormat(Strict):
    """What the answer must look like. ``grammar`` is our extension, in the shape of OpenAI's custom
    tools: ``definition`` in ``syntax``."""

    type: Literal["text", "json_object", "json_schema", "grammar"]
    json_schema: JsonSchema | None = None
    syntax: Literal["lark", "regex"] | None = None
    definition: str | None = None

    @classmethod
    def of(cls, schema: object) -> Self:
        """Held to a JSON schema."""
        named = {"name": "answer", "schema": schema}
        return cls.model_validate({"type": "json_schema", "json_schema": named})

    @model_validator(mode="after")
    def _whole(self) -> Self:
        needed = {"json_schema": ("json_schema",), "grammar": ("syntax", "definition")}
        for name in ("json_schema", "syntax", "definition"):
            given, due = getattr(self, name) is not None, name in needed.get(self.type, ())
            if given != due:
                verb = "is required" if due else "is not allowed"
                raise fault(f"{verb} where type is {self.type}", at=f".{name}")
        return self


class Generation(Strict):
    """The fields that chat and plain completions have in common."""

    model: Annotated[str, Field(min_length=1, max_length=256)]
    n: Count = 1
    temperature: Temperature = 1.0
    top_p: Share = 1.0
    top_k: Annotated[int, Field(ge=0, le=1 << 31)] = 0
    min_p: Share = 0.0
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    repetition_penalty: Annotated[float, ranged(0.01, 100)] = 1.0
    logit_bias: Biases = Field(default_factory=dict)
    seed: Annotated[int, Field(ge=-(1 << 63), le=(1 << 63) - 1)] | None = None
    stop: Stops = Field(default_factory=list)
    stream: bool = False
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None

    user: Annotated[str | None, Ignored] = None

    @model_validator(mode="after")
    def _options_need_a_stream(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise fault("is only allowed when stream is true", at=".stream_options")
        return self

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage


# --- /v1/chat/completions -------------------------------------------------------------------------


def _role(value: object) -> object:
    if not isinstance(value, str):
        raise fault("must be a string: system, developer, user, assistant or tool")
    if value not in _ROLES:
        raise fault(f"is {short(value)!r}: it must be system, developer, user, assistant or tool")
    return _ROLES[value]


def _content(value: object) -> object:
    """A string, or parts of type text, joined by line ends as the codec would join them."""
    if not isinstance(value, list):
        if not isinstance(value, str):
            raise fault("must be a string or a list of content parts")
        return value
    if not 0 < len(value) <= MAX_PARTS:
        raise fault(f"holds {len(value)} parts: 1 to {MAX_PARTS} are allowed")
    return "\n".join(_part(part, f"[{place}]") for place, part in enumerate(value))


def _part(part: object, at: str) -> str:
    if not isinstance(part, dict):
        raise fault("must be an object with a type", at)
    kind = part.get("type")
    if kind != "text":
        shown = short(kind) if isinstance(kind, str) else "missing or no string"
        raise fault(f"is {shown!r}: this model reads text only", at + ".type")
    for name in part:
        if name not in {"type", "text"}:
            raise fault(f"Unrecognized request argument supplied: {short(name)}", f"{at}.{name}")
    text = part.get("text")
    if not isinstance(text, str):
        raise fault("must be a string", at + ".text")
    return text


class CalledFunction(Strict):
    """What was called, with its arguments as JSON text."""

    name: Annotated[str, Field(min_length=1, max_length=64)]
    arguments: str

    # What clients have put beside what they were told, and send back with it.
    parsed_arguments: Ignored = None
    provider_specific_fields: Ignored = None

    @model_validator(mode="after")
    def _an_object(self) -> Self:
        if not isinstance(self.parsed, dict):
            raise fault("must be a JSON object, as text", at=".arguments")
        return self

    @property
    def parsed(self) -> Any:
        """The arguments as data; ``None`` if they are no JSON."""
        try:
            return decode(self.arguments.encode()) if self.arguments.strip() else {}
        except BadJsonError:
            return None


class ToolCall(Strict):
    """A call that the model made."""

    id: Annotated[str, Field(max_length=256)]
    type: Literal["function"] = "function"
    function: CalledFunction

    index: Ignored = None
    provider_specific_fields: Ignored = None


class ChatMessage(Strict):
    """One message. Clients send a reply back as they got it, empty extras and all."""

    role: Annotated[
        Literal["system", "user", "assistant", "tool"], Checked(_role, said(enum=sorted(_ROLES)))
    ]
    content: Annotated[str, Checked(_content, said(**TEXTS))] | None = None
    reasoning_content: str | None = None
    name: Annotated[str | None, Ignored] = None
    refusal: Annotated[str | None, Ignored] = None
    parsed: Ignored = None
    extra: Ignored = None
    provider_specific_fields: Ignored = None
    annotations: Annotated[Any, refused("is not supported", [])] = None
    audio: Annotated[Any, refused("is not supported: this model reads text only")] = None
    tool_calls: Annotated[list[ToolCall], FailFast(), at_most(MAX_TOOLS, "calls")] = Field(
        default_factory=list
    )
    function_call: Annotated[Any, refused(LEGACY)] = None
    tool_call_id: Annotated[str, Field(max_length=256)] | None = None
    id: Annotated[str, Field(max_length=256)] | None = None
    """What Qwen-Agent calls ``tool_call_id``; in other messages a name of the client's own."""

    @model_validator(mode="after")
    def _of_its_role(self) -> Self:
        if self.tool_calls and self.role != "assistant":
            raise fault(f"is not allowed in a message of role {self.role}", at=".tool_calls")
        answers = self.tool_call_id is not None or (self.role == "tool" and self.id is not None)
        if answers != (self.role == "tool"):
            verb = "is required" if self.role == "tool" else "is not allowed"
            raise fault(f"{verb} in a message of role {self.role}", at=".tool_call_id")
        if self.content is None and not self.tool_calls:
            raise fault("is required but was not given", at=".content")
        return self

    def shown(self) -> dict[str, Any]:
        """The message as the model's template is to show it."""
        kept = self.model_dump(include={"role", "reasoning_content"}, exclude_none=True)
        calls = [
            {"type": "function", "function": {"name": f.name, "arguments": f.parsed}}
            for f in (call.function for call in self.tool_calls)
        ]
        return kept | {"content": self.content or ""} | ({"tool_calls": calls} if calls else {})


class FunctionTool(Strict):
    """A function that the model may call. ``strict`` holds its arguments to ``parameters``."""

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Strict):
    """A tool that the model may call."""

    type: Literal["function"]
    function: FunctionTool


@dataclass(frozen=True, kw_only=True)
class ToolChoice:
    """Whether the model may, or must, call tools. ``name`` is set where ``mode`` is ``named``."""

    mode: Literal["none", "auto", "required", "named"]
    name: str | None = None


def _tool_choice(value: object) -> object:
    match value:
        case "none" | "auto" | "required":
            return ToolChoice(mode=value)
        case {"type": "function", "function": {"name": str(name), **more}, **other}:
            if not more and not other:
                return ToolChoice(mode="named", name=name)
    raise fault(
        "must be 'none', 'auto', 'required' or "
        '{"type": "function", "function": {"name": "..."}}'
    )


MODE: Schema = {"enum": ["none", "auto", "required"]}
_NAMED: Schema = {
    "type": "object",
    "properties": {
        "type": {"const": "function"},
        "function": {
            "type": "object",
            "properties": {"name": STRING},
            "required": ["name"],
            "additionalProperties": False,
        },
    },
    "required": ["type", "function"],
    "additionalProperties": False,
}


class ChatRequest(Generation):
    """The body of ``POST /v1/chat/completions``."""

    messages: Annotated[
        list[ChatMessage], FailFast(), Field(min_length=1), at_most(4096, "messages")
    ]
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    chat_template_kwargs: Annotated[dict[str, Any], at_most(32, "options")] = Field(
        default_factory=dict
    )
    enable_thinking: StrictBool | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high"] | None = None
    thinking_budget: Count | None = None
    tools: Annotated[list[Tool], FailFast(), at_most(MAX_TOOLS, "tools")] = Field(
        default_factory=list
    )
    tool_choice: Annotated[Any, Checked(_tool_choice, said(anyOf=[MODE, _NAMED]))] = None
    parallel_tool_calls: bool | None = None

    metadata: Annotated[dict[str, Any] | None, Ignored] = None
    prediction: Ignored = None
    prompt_cache_key: Annotated[str | None, Ignored] = None
    prompt_cache_retention: Annotated[str | None, Ignored] = None
    safety_identifier: Annotated[str | None, Ignored] = None

    audio: Annotated[Any, refused("is not supported: this model writes text only")] = None
    function_call: Annotated[Any, refused(LEGACY, "none", "auto")] = None
    functions: Annotated[Any, refused(LEGACY, [])] = None
    modalities: Annotated[
        Any, refused("must be ['text']: this model writes text only", ["text"])
    ] = None
    service_tier: Annotated[
        Any, refused("must be 'auto' or 'default': there is one tier", "auto", "default")
    ] = None
    store: Annotated[Any, refused("must be false: this server keeps no answers", False)] = None
    verbosity: Annotated[Any, refused("must be 'medium' or absent", "medium")] = None
    web_search_options: Annotated[
        Any, refused("is not supported: nothing leaves this building")
    ] = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.top_logprobs is not None and not self.logprobs:
            raise fault("needs logprobs to be true", at=".top_logprobs")
        both = self.max_tokens is not None and self.max_completion_tokens is not None
        if both and self.max_tokens != self.max_completion_tokens:
            raise fault("contradicts max_completion_tokens: give one of them", at=".max_tokens")
        if self.reasoning_effort == "none" and self.enable_thinking:
            raise fault("contradicts enable_thinking: give one of them", at=".reasoning_effort")
        return self

    @model_validator(mode="after")
    def _tools_are_there(self) -> Self:
        names = [tool.function.name for tool in self.tools]
        for place, name in enumerate(names):
            if name in names[:place]:
                raise fault(f"is {name!r} a second time", at=f".tools[{place}].function.name")
        if self.choice.mode == "required" and not names:
            raise fault("is 'required', and there are no tools", at=".tool_choice")
        if self.choice.name is not None and self.choice.name not in names:
            name = short(self.choice.name)
            raise fault(f"names {name!r}, which is none of the tools", at=".tool_choice")
        return self

    @property
    def choice(self) -> ToolChoice:
        """Whether tools may or must be called."""
        return self.tool_choice or ToolChoice(mode="auto")

    @property
    def budget(self) -> int | None:
        """The most tokens of reasoning, if they are limited."""
        if self.thinking_budget is not None:
            return self.thinking_budget
        return EFFORTS.get(self.reasoning_effort or "")

    @property
    def limit(self) -> tuple[str, int | None]:
        """The answer's token limit, under the name the client used."""
        if self.max_completion_tokens is not None:
            return "max_completion_tokens", self.max_completion_tokens
        return "max_tokens", self.max_tokens

    @property
    def options(self) -> dict[str, Any]:
        """What reaches the chat template."""
        thinks = False if self.reasoning_effort == "none" else self.enable_thinking
        own = {} if thinks is None else {"enable_thinking": thinks}
        return {**self.chat_template_kwargs, **own}


# --- /v1/completions ------------------------------------------------------------------------------


_IDS: Schema = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
PROMPTS: Schema = {
    "anyOf": [
        STRING,
        _IDS,
        {"type": "array", "items": STRING, "minItems": 1},
        {"type": "array", "items": _IDS, "minItems": 1},
    ]
}
"""A text or token ids, one or several."""


class CompletionRequest(Generation):
    """The body of ``POST /v1/completions``. ``prompt``'s four shapes are read in ``prompt.py``."""

    prompt: Annotated[Any, WithJsonSchema(PROMPTS)]
    max_tokens: Annotated[int, Field(ge=0, le=1 << 31)] = 16
    logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    echo: bool = False

    best_of: Count | None = None
    suffix: Annotated[
        Any, refused("is not supported: write the model's own fill-in tokens in prompt", "")
    ] = None

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.best_of is not None and self.best_of != self.n:
            raise fault("must equal n: this version does not rank answers", at=".best_of")
        if self.max_tokens == 0 and not self.echo:
            raise fault("is 0, which needs echo to be true", at=".max_tokens")
        return self

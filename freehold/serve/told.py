"""What every route answers, field by field: for ``/openapi.json``, and for the tests that hold
answers to it. Nothing is built of these models while a request waits.

Log-probabilities are natural logarithms, times are seconds since 1970.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Told(BaseModel):
    """Exact types, and no field that is not told of here."""

    # Built when it is first used: at the counter, by the document alone.
    model_config = ConfigDict(extra="forbid", strict=True, defer_build=True)


# --- failures -------------------------------------------------------------------------------------


class Fault(Told):
    """``param`` is the path of the field that is at fault, ``code`` what a program may go by."""

    message: str
    type: str
    param: str | None
    code: str | None


class Error(Told):
    """A refusal, as OpenAI tells it."""

    error: Fault


class MessagesFault(Told):
    """``type`` is one of Anthropic's kinds of error."""

    type: str
    message: str


class MessagesError(Told):
    """A refusal, as Anthropic tells it."""

    type: Literal["error"]
    error: MessagesFault


# --- chat completions and completions -------------------------------------------------------------


class PromptTokens(Told):
    """``cached_tokens`` were known from earlier requests."""

    cached_tokens: int


class ReasoningTokens(Told):
    """How many of an answer's tokens were thought."""

    reasoning_tokens: int


class Usage(Told):
    """Tokens: a prompt's once, whatever ``n`` is."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokens
    completion_tokens_details: ReasoningTokens | None = None


class OtherToken(Told):
    """A token as text (with stand-ins for half characters) and as bytes."""

    token: str
    logprob: float | None
    bytes: list[int]


class ScoredToken(OtherToken):
    """A token of the answer, and the best in its place."""

    top_logprobs: list[OtherToken]


class ChatLogprobs(Told):
    """One for each token."""

    content: list[ScoredToken]
    refusal: None


class CallFunction(Told):
    """``arguments`` is JSON, as text."""

    name: str
    arguments: str


class Call(Told):
    """A call of a tool."""

    id: str
    type: Literal["function"]
    function: CallFunction


class ChatAnswer(Told):
    """What one choice says; ``reasoning_content`` is what the model thought."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    reasoning_content: str | None = None
    tool_calls: list[Call] = Field(default_factory=list)


class ChatChoice(Told):
    """One answer."""

    index: int
    message: ChatAnswer
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length", "tool_calls", "content_filter"]


class _ChatHead(Told):
    id: str
    created: int
    model: str
    system_fingerprint: str
    service_tier: Literal["default"]


class ChatCompletion(_ChatHead):
    """A whole answer."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]
    usage: Usage


class CallFunctionDelta(Told):
    """A further piece of ``arguments``."""

    name: str | None = None
    arguments: str


class CallDelta(Told):
    """More of the call at ``index``; its ``id`` and name come first."""

    index: int
    id: str | None = None
    type: Literal["function"] | None = None
    function: CallFunctionDelta


class ChatDelta(Told):
    """What a choice says next."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    refusal: None = None
    reasoning_content: str | None = None
    tool_calls: list[CallDelta] = Field(default_factory=list)


class ChatChunkChoice(Told):
    """``finish_reason`` comes with the last."""

    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length", "tool_calls", "content_filter"] | None


class ChatCompletionChunk(_ChatHead):
    """One event of a stream, which ends with ``[DONE]``. With ``include_usage`` the last has
    ``usage`` and no choices."""

    object: Literal["chat.completion.chunk"]
    choices: list[ChatChunkChoice]
    usage: Usage | None = None


class CompletionLogprobs(Told):
    """Lists of one item for each token; ``text_offset`` is in characters."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float | None] | None] | None
    text_offset: list[int]


class _CompletionChoice(Told):
    text: str
    index: int
    logprobs: CompletionLogprobs | None


class CompletionChoice(_CompletionChoice):
    """One continuation."""

    finish_reason: Literal["stop", "length", "content_filter"]


class CompletionChunkChoice(_CompletionChoice):
    """``finish_reason`` comes with the last."""

    finish_reason: Literal["stop", "length", "content_filter"] | None


class _CompletionHead(Told):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str


class Completion(_CompletionHead):
    """Every prompt's choices, prompt by prompt."""

    choices: list[CompletionChoice]
    usage: Usage


class CompletionChunk(_CompletionHead):
    """One event of a stream, which ends with ``[DONE]``."""

    choices: list[CompletionChunkChoice]
    usage: Usage | None = None


# --- embeddings and tokens ------------------------------------------------------------------------


class Embedding(Told):
    """A vector of length 1: numbers, or the base64 of little-endian float32."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingsUsage(Told):
    """Tokens."""

    prompt_tokens: int
    total_tokens: int


class Embeddings(Told):
    """One for each text."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: EmbeddingsUsage


class Moderation(Told):
    """What the guard makes of a text, by OpenAI's categories and ours. What nothing looked for has
    no input types."""

    flagged: bool
    categories: dict[str, bool]
    category_scores: dict[str, float]
    category_applied_input_types: dict[str, list[str]]
    action: Literal["allow", "warn", "mask", "review", "block"]
    tier: str
    reasons: list[str]


class Moderations(Told):
    """One for each text; ``model`` names the detectors."""

    id: str
    model: str
    results: list[Moderation]


class Tokens(Told):
    """Token ids; ``max_model_len`` is the model's context."""

    count: int
    max_model_len: int
    tokens: list[int]


class Text(Told):
    """What token ids stand for."""

    prompt: str


# --- messages -------------------------------------------------------------------------------------


class MessagesUsage(Told):
    """Tokens. ``input_tokens`` are those that were not known from earlier requests."""

    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int


class ThinkingBlock(Told):
    """What the model thought."""

    type: Literal["thinking"]
    thinking: str
    signature: str


class TextBlock(Told):
    """What it says."""

    type: Literal["text"]
    text: str


class ToolUseBlock(Told):
    """Whom it calls."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]


class MessagesAnswer(Told):
    """A whole answer, as blocks."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[ThinkingBlock | TextBlock | ToolUseBlock]
    stop_reason: Literal["end_turn", "max_tokens", "stop_sequence", "tool_use", "refusal"]
    stop_sequence: str | None
    usage: MessagesUsage


class CountedTokens(Told):
    """A prompt's length."""

    input_tokens: int


class _Event(BaseModel):
    """Which fields it has beside its ``type`` depends on that."""

    model_config = ConfigDict(extra="allow", strict=True, defer_build=True)


class MessagesEvent(_Event):
    """One event of a stream of Anthropic's; ``message_stop`` is the last."""

    type: Literal[
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
        "error",
    ]


# --- responses ------------------------------------------------------------------------------------


class OutputText(Told):
    """What was said."""

    type: Literal["output_text"]
    text: str
    annotations: list[Any] = Field(max_length=0)
    logprobs: list[ScoredToken]


class ReasoningText(Told):
    """What was thought."""

    type: Literal["reasoning_text"]
    text: str


class _Item(Told):
    id: str
    status: Literal["completed", "incomplete"]


class OutputMessage(_Item):
    """Words."""

    type: Literal["message"]
    role: Literal["assistant"]
    content: list[OutputText]


class OutputReasoning(_Item):
    """Thoughts."""

    type: Literal["reasoning"]
    summary: list[Any] = Field(max_length=0)
    content: list[ReasoningText]


class OutputCall(_Item):
    """A call of a tool. ``arguments`` is JSON, as text."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str


class InputTokens(Told):
    """``cached_tokens`` were known from earlier requests."""

    cached_tokens: int
    cache_write_tokens: int


class ResponsesUsage(Told):
    """Tokens."""

    input_tokens: int
    input_tokens_details: InputTokens
    output_tokens: int
    output_tokens_details: ReasoningTokens
    total_tokens: int


class Incomplete(Told):
    """Why an answer is not whole."""

    reason: Literal["max_output_tokens", "content_filter"]


class Response(Told):
    """A whole answer, as items, with the request's own settings."""

    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["completed", "incomplete"]
    model: str
    output: list[OutputMessage | OutputReasoning | OutputCall]
    usage: ResponsesUsage
    background: Literal[False]
    error: None
    incomplete_details: Incomplete | None
    instructions: str | None
    max_output_tokens: int | None
    metadata: dict[str, str]
    parallel_tool_calls: bool
    previous_response_id: None
    reasoning: dict[str, Any]
    service_tier: Literal["default"]
    store: Literal[False]
    temperature: float
    text: dict[str, Any]
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]]
    top_logprobs: int
    top_p: float
    truncation: Literal["disabled"]


class ResponsesEvent(_Event):
    """One event of a stream; ``response.completed`` or ``response.incomplete`` is the last."""

    type: str
    sequence_number: int


# --- the server -----------------------------------------------------------------------------------


class Model(Told):
    """A model that is served. ``digest`` names its bytes, ``numerics`` its arithmetic,
    ``context_length`` is in tokens. An ``adapter`` (its digest) is beside the model ``parent``."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: Literal["freehold"]
    aliases: list[str]
    digest: str
    context_length: int
    numerics: str
    parent: str | None
    adapter: str | None


class Models(Told):
    """Those that the key may use."""

    object: Literal["list"]
    data: list[Model]


class PassportName(Told):
    """A model that has a passport."""

    id: str
    object: Literal["passport"]
    digest: str


class Passports(Told):
    """One for each model that is served."""

    object: Literal["list"]
    data: list[PassportName]


class Health(Told):
    """``ok``, or what is missing."""

    status: str


class Residency(Told):
    """What is shut in each process; ``attempts`` were refused."""

    residency: str
    recording: bool
    landlock_abi: int
    processes: list[dict[str, Any]]
    attempts: int
    attempts_by: dict[str, dict[str, int]]
    in_ledger: int | None


class Leaf(Told):
    """A leaf of the ledger: bytes in hex, ``body`` as text. What was erased is ``null``."""

    place: int
    kind: str
    entry: int
    commitment: str
    salt: str | None
    body: str | None
    content: str | None


class Leaves(Told):
    """In their order."""

    leaves: list[Leaf]


class Inclusion(Told):
    """The proof that a leaf is in the tree of ``size`` leaves; hashes in hex."""

    leaf: int
    size: int
    leaf_hash: str
    path: list[str]
    checkpoint: str | None


class Consistency(Told):
    """The proof that the tree of ``second`` leaves begins with the ``first``; hashes in hex."""

    first: int
    second: int
    proof: list[str]
    checkpoint: str | None

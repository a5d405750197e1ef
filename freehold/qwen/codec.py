"""``types.Codec`` for Qwen: messages and text to token ids, and ids back to text.

Runs in the counter process: no torch, no weights, only the verified model's small parts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from freehold.errors import MalformedError, UsageError
from freehold.qwen import speech
from freehold.qwen.config import MAX_VOCAB, config_of
from freehold.qwen.controls import Controls
from freehold.qwen.documents import Reader, parse_json
from freehold.qwen.embedding import embedding_of
from freehold.qwen.listening import TextListener
from freehold.qwen.template import ChatTemplate, plain, source_of, template_of
from freehold.qwen.text import TextDecoder
from freehold.qwen.tokenizer import Tokenizer, tokenizer_of
from freehold.types import CallForm, Cutoff, Ids, Message, Pooling, Turn, VerifiedModel

MARKS = (speech.THINK, speech.THOUGHT, speech.CALL, speech.CALLED)
TURN_TOKENS = ("<|im_start|>", "<|im_end|>")
STOP_TOKENS = ("<|im_end|>", "<|endoftext|>")


class QwenCodec:
    """See ``types.Codec``. Made by ``load``."""

    def __init__(
        self,
        *,
        tokenizer: Tokenizer,
        template: ChatTemplate | None,
        stop_ids: Sequence[int],
        source: str | None = None,
        pooling: Pooling = "mean",
        suffix: Sequence[int] = (),
    ) -> None:
        self.pooling: Pooling = pooling
        self.suffix = tuple(suffix)
        self._tokenizer = tokenizer
        self._speech = speech.speech_of(source, tokenizer)
        self._template = template
        self._stop_ids = tuple(sorted(set(stop_ids)))

    @property
    def stop_ids(self) -> tuple[int, ...]:
        return self._stop_ids

    def chat(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        options: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """Render with the model's own template and tokenise; text parts of a message are joined by
        line ends. Control tokens come from the template alone (``controls``). Raises ``UsageError``
        naming ``messages``, ``tools`` or the option."""
        if self._template is None:
            raise UsageError(
                "messages: this model has no chat template, it only continues text: "
                "use /v1/completions, or an instruct release of the model",
                param="messages",
            )
        flat = [_flatten(message) for message in messages]
        parts = self._template.parts(flat, tools=tools, options=options)
        return self._tokenizer.encode_parts(parts, param="messages")

    def turns(self, prompt: Ids) -> tuple[Turn, ...]:
        """ChatML's turns: a role on a line of its own, and what stands up to the turn's end."""
        begin, end = map(self._tokenizer.added_id, TURN_TOKENS)
        starts = [i for i, token in enumerate(prompt) if token == begin]
        if begin is None or end is None or not starts:
            return (Turn(role="user", start=0, stop=len(prompt)),)
        found = []
        for first, limit in zip(starts, [*starts[1:], len(prompt)], strict=True):
            role, start = "", first + 1
            while start < limit and not role.endswith("\n"):
                role += self._tokenizer.token_bytes(prompt[start]).decode(errors="replace")
                start += 1
            inside = prompt[start:limit]
            if end in inside:  # else it is the answer's own turn, which has just begun
                stop = start + list(inside).index(end)
                found.append(Turn(role=role.strip(), start=start, stop=stop))
        return tuple(found)

    def text(self, prompt: str) -> list[int]:
        """Raises ``UsageError`` naming ``prompt`` where it is no valid Unicode."""
        return self._tokenizer.encode(plain(prompt, param="prompt"), param="prompt")

    def token_bytes(self, token: int) -> bytes:
        return self._tokenizer.token_bytes(token)

    def decoder(self, stop: Sequence[str] = ()) -> TextDecoder:
        """Raises ``UsageError`` naming ``stop``."""
        return TextDecoder(
            self._tokenizer.token_bytes, stop=stop, hidden=self._tokenizer.special_ids
        )

    @property
    def calls_tools(self) -> bool:
        return self._speech.calls is not None

    def listener(self, prompt: Ids, tools: Sequence[Mapping[str, Any]] = ()) -> TextListener:
        return TextListener(
            thinking=speech.thinking(self._speech, prompt), calls=self._speech.calls, tools=tools
        )

    def call_grammar(self, forms: Sequence[CallForm], *, least: Literal[0, 1], many: bool) -> str:
        """Raises ``UsageError`` naming ``tools``."""
        return speech.call_grammar(self._speech, self._tokenizer, forms, least=least, many=many)

    def after_thinking(self, prompt: Ids, grammar: str) -> str:
        return speech.after_thinking(self._speech, prompt, grammar)

    def cutoff(self, prompt: Ids, after: int) -> Cutoff | None:
        return speech.cutoff(self._speech, prompt, after, self._tokenizer)


def load(model: VerifiedModel) -> QwenCodec:
    """Make the codec of a verified model. Raises ``MalformedError`` or ``RefusedError`` naming the
    document that is at fault."""
    tokenizer = tokenizer_of(model)
    stop_ids = [*config_of(model).eos_ids, *_generation_stops(model)]
    named = (tokenizer.added_id(name) for name in STOP_TOKENS)
    stop_ids += [token for token in named if token is not None]
    pooling, suffix = embedding_of(model)
    template = template_of(model, Controls(tokenizer.controls, marks=MARKS))
    if template is not None:
        _expect_whole_tokens(template, tokenizer)
    return QwenCodec(
        pooling=pooling,
        suffix=suffix,
        tokenizer=tokenizer,
        template=template,
        stop_ids=stop_ids,
        source=source_of(model),
    )


def _expect_whole_tokens(template: ChatTemplate, tokenizer: Tokenizer) -> None:
    """A template that puts a control token together out of pieces would lose it: only tokens that
    it holds whole are its own. Better found here than in every prompt."""
    try:
        parts = template.parts([{"role": "user", "content": "x"}])
    except UsageError:
        return  # it wants other messages than this one
    text = "".join(
        part if isinstance(part, str) else tokenizer.token_bytes(part).decode() for part in parts
    )
    if tokenizer.encode(text) != tokenizer.encode_parts(parts):
        raise MalformedError(
            "the chat template puts a control token together out of pieces, so that it cannot be "
            "told from a token that a message holds: use the publisher's template",
            file="chat template",
        )


def _generation_stops(model: VerifiedModel) -> list[int]:
    file = "generation_config.json"
    if file not in model.documents:
        return []
    reader = Reader(parse_json(model.documents[file], file=file), file=file)
    given = reader.get("eos_token_id")
    ids = given if isinstance(given, list) else [] if given is None else [given]
    for token in ids:
        if type(token) is not int or not 0 <= token < MAX_VOCAB:
            raise reader.error("eos_token_id", f"holds {str(token)[:40]!r}: it must be a token id")
    return ids


def _flatten(message: Message) -> Message:
    """OpenAI's list of text parts, as one text: Qwen's text templates know no parts."""
    content = message.get("content") if isinstance(message, Mapping) else None
    if not isinstance(content, list | tuple):
        return message
    parts: list[str] = []
    for part in content:
        if not isinstance(part, Mapping) or part.get("type") != "text":
            raise UsageError("messages: only text parts are supported", param="messages")
        if not isinstance(part.get("text"), str):
            raise UsageError("messages: a text part must hold a string", param="messages")
        parts.append(part["text"])
    return {**message, "content": "\n".join(parts)}

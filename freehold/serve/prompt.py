"""From what was asked to token ids that fit, without ever holding up the other streams."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from freehold.errors import ContextOverflowError, UsageError
from freehold.serve.tracing import span
from freehold.serve.wire import encode
from freehold.types import Codec, ModelCard

_INLINE_BYTES = 4096
"""Below this, tokenising is quicker than a thread's hand-over."""

_PIECE_CHARS = 16_384
_NFC = 3
"""Qwen's tokenizers apply NFC, which shortens UTF-8 at most to a third (three Hangul letters to one
syllable). It is not tried here: Python sorts a letter's marks in quadratic time, with its lock."""
_EXCESS = 1.25
"""Counted in pieces, a text that is over the context by this factor is over it for certain."""


class Tokenising:
    """One model's way from text to ids: a cheap bound first, then the codec, in a worker thread."""

    def __init__(self, card: ModelCard, codec: Codec) -> None:
        self._context = card.context
        self._vocab = card.vocab
        self._codec = codec
        self._workers = ThreadPoolExecutor(2, thread_name_prefix="freehold-codec")
        self._longest: int | None = None

    async def chat(
        self,
        messages: Sequence[dict[str, Any]],
        options: dict[str, Any],
        tools: Sequence[dict[str, Any]] = (),
    ) -> list[int]:
        """Ids of a conversation. Raises ``UsageError`` or ``ContextOverflowError``."""
        texts = [message["content"] for message in messages]
        written = [*tools, *(message.get("tool_calls") for message in messages)]
        texts += [encode(one).decode() for one in written if one]
        return await self._bounded(
            texts, "messages", lambda: self._codec.chat(messages, tools=tools, options=options)
        )

    async def prompts(self, prompt: object, most: int, *, param: str = "prompt") -> list[list[int]]:
        """Ids of each prompt: a string, strings, token ids or lists of them.

        Raises ``UsageError`` or ``ContextOverflowError`` naming ``param``.
        """
        return [await self._prompt(one, at) for one, at in _each(prompt, most, param)]

    async def _prompt(self, one: object, at: str) -> list[int]:
        if isinstance(one, str):
            ids = await self._bounded([one], at, lambda: self._codec.text(one))
        elif isinstance(one, list):
            ids = self._own_ids(one, at)
        else:
            raise UsageError(f"{at} must be a string or a list of token ids", param=at)
        if not ids:
            raise UsageError(f"{at} is empty: give at least one token", param=at)
        return ids

    def _own_ids(self, ids: list[Any], at: str) -> list[int]:
        if len(ids) >= self._context:
            raise self._overflow(at, f"holds {len(ids)} tokens")
        for place, token in enumerate(ids):
            if type(token) is not int or not 0 <= token < self._vocab:
                where = f"{at}[{place}]"
                raise UsageError(
                    f"{where} must be a token id from 0 to {self._vocab - 1}", param=where
                )
        return ids

    async def _bounded(
        self, texts: Sequence[str], param: str, encode: Callable[[], list[int]]
    ) -> list[int]:
        chars = sum(map(len, texts))
        with span("tokenise"):
            if chars * 4 <= _INLINE_BYTES:
                ids = encode()
            else:
                loop = asyncio.get_running_loop()
                ids = await loop.run_in_executor(self._workers, self._careful, texts, param, encode)
        if len(ids) >= self._context:
            raise self._overflow(param, f"comes to {len(ids)} tokens")
        return ids

    def _careful(
        self, texts: Sequence[str], param: str, encode: Callable[[], list[int]]
    ) -> list[int]:
        """Tokenise, unless a glance already shows that the text cannot fit. In a worker thread."""
        floor = sum(len(text.encode()) for text in texts) // self._longest_token()
        if not all(map(str.isascii, texts)):
            floor //= _NFC
        if floor >= self._context:
            raise self._overflow(param, f"comes to at least {floor} tokens")
        self._walk(texts, param)
        return encode()

    def _walk(self, texts: Sequence[str], param: str) -> None:
        """Count a long text's tokens piece by piece, and stop as soon as there are too many.

        A tokenizer may hold the interpreter lock for as long as its text is: pieces let the event
        loop in between. A cut can split a token in two, so only a clear excess counts.
        """
        if sum(map(len, texts)) <= 2 * self._context:
            return
        count = 0
        for text in texts:
            for start in range(0, len(text), _PIECE_CHARS):
                count += len(self._codec.text(text[start : start + _PIECE_CHARS]))
                if count > _EXCESS * self._context:
                    raise self._overflow(param, f"comes to more than {self._context} tokens")

    def _longest_token(self) -> int:
        if self._longest is None:
            # Ids past the tokenizer's own (padding of the embedding) stand for no bytes.
            self._longest = max(len(self._codec.token_bytes(i)) for i in range(self._vocab))
        return self._longest

    def _overflow(self, param: str, found: str) -> ContextOverflowError:
        return ContextOverflowError(
            f"{param} {found}, and this model's context is {self._context} tokens, the answer's "
            "included: shorten it",
            param=param,
        )

    def room(self, prompt_tokens: int, param: str, wanted: int | None) -> int:
        """How long the answer may be: ``wanted``, or all that is left of the context.

        Raises ``ContextOverflowError`` when ``wanted`` is more than is left.
        """
        left = self._context - prompt_tokens
        if wanted is not None and wanted > left:
            raise ContextOverflowError(
                f"{param} is {wanted}, and after the prompt's {prompt_tokens} tokens this model's "
                f"context of {self._context} has {left} left: ask for fewer, or shorten the prompt",
                param=param,
            )
        return left if wanted is None else wanted


def _each(prompt: object, most: int, param: str) -> list[tuple[object, str]]:
    """Every prompt with the path that names it."""
    if not isinstance(prompt, list):
        return [(prompt, param)]
    if not prompt:
        raise UsageError(f"{param} is an empty list: give at least one", param=param)
    if type(prompt[0]) is int:
        return [(prompt, param)]
    if len(prompt) > most:
        raise UsageError(f"{param} holds {len(prompt)}: at most {most} are allowed", param=param)
    return [(one, f"{param}[{place}]") for place, one in enumerate(prompt)]

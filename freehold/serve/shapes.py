"""How tokens and answers look in OpenAI's two dialects."""

from __future__ import annotations

import codecs
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from freehold.serve.answer import Finish, Piece, Scored

_FLOOR = -9999.0
"""OpenAI's stand-in for log 0, which JSON cannot write."""


def new_id(prefix: str) -> str:
    return f"{prefix}-{secrets.token_hex(16)}"


@dataclass
class Whole:
    """One choice, gathered from its pieces."""

    texts: list[str] = field(default_factory=list)
    tokens: list[Scored] = field(default_factory=list)
    finish: Finish | None = None

    def add(self, piece: Piece) -> None:
        self.texts.append(piece.text)
        self.tokens.extend(piece.tokens)
        self.finish = piece.finish or self.finish

    @property
    def text(self) -> str:
        return "".join(self.texts)


def chat_logprobs(tokens: Sequence[Scored]) -> dict[str, Any]:
    """The chat dialect: one object per token, each with its bytes."""
    return {
        "content": [
            {
                **_chat_token(token.text, token.logprob),
                "top_logprobs": [_chat_token(*other) for other in token.top],
            }
            for token in tokens
        ],
        "refusal": None,
    }


def _chat_token(text: bytes, logprob: float | None) -> dict[str, Any]:
    return {
        "token": text.decode(errors="replace"),
        "logprob": _finite(logprob),
        "bytes": list(text),
    }


class CompletionLogprobs:
    """The older dialect: parallel lists, with each token's place in the text.

    Keeps count over the pieces of one choice. ``top`` is how many alternatives were asked for.
    """

    def __init__(self, top: int) -> None:
        self._top = top
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._offset = 0

    def of(self, tokens: Sequence[Scored]) -> dict[str, Any]:
        """The lists for the next ``tokens`` of this choice. Offsets are in characters."""
        offsets = []
        for token in tokens:
            offsets.append(self._offset)
            self._offset += len(self._decoder.decode(token.text))
        return {
            "tokens": [_name(token.text) for token in tokens],
            "token_logprobs": [_finite(token.logprob) for token in tokens],
            "top_logprobs": [self._best(token) for token in tokens] if self._top else None,
            "text_offset": offsets,
        }

    def _best(self, token: Scored) -> dict[str, float | None] | None:
        if token.logprob is None:
            return None
        best: dict[str, float | None] = {}
        # The chosen token is always among them; two ids of the same bytes keep the better one.
        for text, logprob in (*token.top, (token.text, token.logprob)):
            best.setdefault(_name(text), _finite(logprob))
        return best


def _name(text: bytes) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in text)


def _finite(logprob: float | None) -> float | None:
    return None if logprob is None else max(logprob, _FLOOR)

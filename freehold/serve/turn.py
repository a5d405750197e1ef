"""One choice of a chat as it comes: what the model thinks, says and calls."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

from freehold.serve.answer import Finish, Piece, Scored
from freehold.types import CallPart, Heard, Listener

Ending: TypeAlias = Finish | Literal["tool_calls"]


@dataclass(kw_only=True)
class Call:
    """A call of a tool, its arguments so far as JSON text."""

    id: str
    name: str
    arguments: list[str] = field(default_factory=list)

    def json(self) -> dict[str, Any]:
        """OpenAI's tool call."""
        function = {"name": self.name, "arguments": "".join(self.arguments)}
        return {"id": self.id, "type": "function", "function": function}


class Turn:
    """Gathers the pieces of one choice, and tells what each of them brought. If it may call
    ``alone`` one tool, further calls are left out: the stop string behind the first only ends an
    answer whose calls have their marks."""

    def __init__(self, listener: Listener, *, prefix: str = "call", alone: bool = False) -> None:
        self._listener = listener
        self._prefix = prefix
        self._most = 1 if alone else None
        self._held: list[Scored] = []
        self._thoughts: list[str] = []
        self._words: list[str] = []
        self.calls: list[Call] = []
        self.tokens: list[Scored] = []
        self.finish: Ending | None = None
        self.stop: str | None = None
        self.thought_tokens = 0
        """Tokens of the answer until the last thought had come."""

    @property
    def thoughts(self) -> str:
        return "".join(self._thoughts)

    @property
    def words(self) -> str:
        return "".join(self._words)

    def hear(self, piece: Piece) -> Heard:
        """``piece`` told apart; at the end, with all that was held back."""
        heard = self._listener.feed(piece.text)
        if piece.finish is not None:
            last = self._listener.finish()
            heard = Heard(
                thoughts=heard.thoughts + last.thoughts,
                words=heard.words + last.words,
                calls=heard.calls + last.calls,
            )
        if self._most is None:
            return heard
        return replace(heard, calls=tuple(p for p in heard.calls if p.index < self._most))

    def take(self, piece: Piece) -> Heard:
        """What ``piece`` brought."""
        heard = self.hear(piece) if piece.heard is None else piece.heard
        self._held += piece.tokens
        self.tokens += piece.tokens
        self._thoughts.append(heard.thoughts)
        self._words.append(heard.words)
        if heard.thoughts:
            self.thought_tokens = piece.count
        for part in heard.calls:
            if part.name is not None:
                new = f"{self._prefix}_{secrets.token_hex(12)}"
                self.calls.append(Call(id=new, name=part.name))
            self.calls[part.index].arguments.append(part.arguments)
        if piece.finish is not None:
            called = self.calls and piece.finish == "stop"
            self.finish = "tool_calls" if called else piece.finish
            self.stop = None if called else piece.stop
        return heard

    @property
    def waiting(self) -> bool:
        """Whether there are tokens that have not gone out."""
        return bool(self._held)

    def scored(self) -> list[Scored]:
        """The tokens that no earlier call has given: they go out with the text they made."""
        out, self._held = self._held, []
        return out

    def message(self) -> dict[str, Any]:
        """OpenAI's message."""
        message: dict[str, Any] = {"role": "assistant", "refusal": None}
        message["content"] = None if self.calls and not self.words else self.words
        if self.thoughts:
            message["reasoning_content"] = self.thoughts
        if self.calls:
            message["tool_calls"] = [call.json() for call in self.calls]
        return message

    def delta(self, heard: Heard) -> dict[str, Any]:
        """OpenAI's delta for what was just taken."""
        delta: dict[str, Any] = {}
        if heard.thoughts:
            delta["reasoning_content"] = heard.thoughts
        if heard.words:
            delta["content"] = heard.words
        if heard.calls:
            delta["tool_calls"] = [self._call_delta(part) for part in _merged(heard.calls)]
        return delta

    def _call_delta(self, part: CallPart) -> dict[str, Any]:
        if part.name is None:
            return {"index": part.index, "function": {"arguments": part.arguments}}
        function = {"name": part.name, "arguments": part.arguments}
        called = self.calls[part.index].id
        return {"index": part.index, "id": called, "type": "function", "function": function}


def _merged(parts: tuple[CallPart, ...]) -> list[CallPart]:
    """One part for each call."""
    merged: dict[int, CallPart] = {}
    for part in parts:
        before = merged.get(part.index, CallPart(index=part.index))
        merged[part.index] = CallPart(
            index=part.index,
            name=before.name or part.name,
            arguments=before.arguments + part.arguments,
        )
    return list(merged.values())

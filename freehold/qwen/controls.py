"""Which control tokens of a prompt come from the chat template, and which are only written in it.

A conversation's texts, names and tool descriptions are strangers' words. If one of them holds
``<|im_start|>``, it is text about a token, not the token. Looking for such words in the texts is
not enough: a template that writes ``'<' ~ key ~ '>'`` makes a token out of the key ``tool_call``.
So the rule is turned round. Tokens in the template's *own* literals become single signs (characters
for private use) when it is compiled, the signs run through it like any other text, and nothing but
a sign is ever made a control token. Everything else is encoded as plain text, to the byte.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from freehold.errors import MalformedError

MAX_CONTROLS = 1 << 14
_ESCAPE = 0xF0000
_ASIDE = 0x10000  # from a sign to the character of the next plane that stands for it in texts


class Controls:
    """The signs of a tokenizer's added tokens. ``names`` are their texts by id; ``marks`` those of
    them with which a model says what it thinks and calls (``<think>``, ...): they keep their
    meaning in words that the model or the operator wrote.

    Raises ``MalformedError`` for more than ``MAX_CONTROLS``.
    """

    def __init__(self, names: Mapping[int, str], *, marks: tuple[str, ...] = ()) -> None:
        if len(names) > MAX_CONTROLS:
            raise MalformedError(
                f"the tokenizer has {len(names):,} added tokens: at most {MAX_CONTROLS:,} can be "
                "told from text",
                file="tokenizer.json",
            )
        self._sign = {name: chr(_ESCAPE + 1 + n) for n, name in enumerate(names.values())}
        self._id = {self._sign[name]: token for token, name in names.items()}
        self._names = _any_of(list(self._sign))
        self._marks = _any_of([mark for mark in marks if mark in self._sign])
        self._text = str.maketrans({sign: name for name, sign in self._sign.items()})
        first, last = chr(_ESCAPE), chr(_ESCAPE + len(names))
        self._reserved = re.compile(f"[{first}-{last}]")
        self._signs = re.compile(f"([{chr(_ESCAPE + 1)}-{last}])") if names else None
        self._escaped = re.compile(f"{first}([{_aside(first)}-{_aside(last)}])")

    def named(self, literal: str) -> bool:
        """Whether a token stands in ``literal``."""
        return self._names is not None and self._names.search(literal) is not None

    def mark(self, literal: str) -> str:
        """A literal of the template: its tokens as signs, longest first, as tokenizers match."""
        return self._signed(self._names, literal)

    def mark_own(self, text: str) -> str:
        """What the model or the operator wrote, escaped already: its ``marks`` as signs."""
        return self._signed(self._marks, text)

    def unmark(self, text: str) -> str:
        """The same text with its tokens written out."""
        return text if text.isascii() else text.translate(self._text)

    def like(self, text: str, needle: Any) -> Any:
        """``needle``, in the form in which it would stand in ``text``."""
        if not isinstance(needle, str):
            return needle
        signed = self._signs is not None and not text.isascii() and self._signs.search(text)
        return self.mark(self.unmark(needle)) if signed else self.unmark(needle)

    def escape(self, text: str) -> str:
        """A stranger's text without signs: the few characters that could be one, set aside."""
        if text.isascii():
            return text
        return self._reserved.sub(lambda found: chr(_ESCAPE) + _aside(found[0]), text)

    def parts(self, rendered: str) -> list[str | int]:
        """A rendered prompt as plain texts and control ids, in turn; every second one is an id."""
        if self._signs is None:
            return [self._unescape(rendered)]
        split = self._signs.split(rendered)
        return [
            self._id[part] if place % 2 else self._unescape(part)
            for place, part in enumerate(split)
        ]

    def text(self, rendered: str) -> str:
        """A rendered prompt as one text."""
        return self._unescape(self.unmark(rendered))

    def _unescape(self, text: str) -> str:
        if text.isascii():
            return text
        return self._escaped.sub(lambda found: chr(ord(found[1]) - _ASIDE), text)

    def _signed(self, names: re.Pattern[str] | None, text: str) -> str:
        return text if names is None else names.sub(lambda found: self._sign[found[0]], text)


def _aside(character: str) -> str:
    return chr(ord(character) + _ASIDE)


def _any_of(names: list[str]) -> re.Pattern[str] | None:
    longest_first = sorted(names, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first))) if names else None

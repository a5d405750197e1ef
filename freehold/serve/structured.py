"""What an answer must look like, as a client writes it and as the engine reads it.

A grammar is Lark text (``types.Sampling.grammar``): JSON schemas and regular expressions are put
into it here, a client's own grammar is one already.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from freehold.errors import UsageError
from freehold.serve.jsonschema import enforceable
from freehold.serve.schema import ResponseFormat
from freehold.serve.wire import encode
from freehold.types import MAX_GRAMMAR

_JSON = {
    # At most one run of blanks wherever JSON allows them: a model could write them for ever.
    "whitespace_pattern": r"[\x20\x0A\x0D\x09]{1,40}",
    # Without \u there are no half characters, and the lengths of strings are what they seem.
    "json_allowed_escapes": 'nrbtf\\"',
}


@dataclass(frozen=True, kw_only=True)
class Held:
    """An answer is held to ``grammar``, because of the request's field ``param``."""

    grammar: str
    param: str


def held(wanted: ResponseFormat | None) -> Held | None:
    """What ``response_format`` asks for; ``None`` for plain text.

    Raises ``UsageError`` naming the part that cannot be enforced.
    """
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return limited(f"start: {json_rule({'type': 'object'})}", "response_format")
    if wanted.json_schema is not None:
        at = "response_format.json_schema.schema"
        return limited(f"start: {json_rule(enforceable(wanted.json_schema.schema_, at))}", at)
    at, text = "response_format.definition", wanted.definition or ""
    if wanted.syntax == "regex":
        return limited(f"start: {regex_rule(text)}", at)
    return limited(text, at)


def json_rule(schema: dict[str, Any]) -> str:
    """The expression for JSON text by ``schema``, which ``jsonschema.enforceable`` has made."""
    return f"%json {encode({'x-guidance': _JSON, **schema}).decode()}"


def regex_rule(pattern: str) -> str:
    """The expression for text that all of ``pattern`` matches (syntax of Rust's ``regex``)."""
    written, escaped = [], False
    for character in pattern:
        # A slash or a line end would end the expression; an escape is left as it is.
        plain = {"/": r"\/", "\n": r"\n", "\r": r"\r"}.get(character, character)
        written.append(plain[-1] if escaped and plain != character else plain)
        escaped = character == "\\" and not escaped
    if escaped:
        written.append("\\")
    return f"/{''.join(written)}/"


def limited(grammar: str, param: str) -> Held:
    """``grammar``, unless it is longer than the engine takes. Raises ``UsageError``."""
    if len(grammar) > MAX_GRAMMAR:
        raise UsageError(
            f"{param} comes to a grammar of {len(grammar)} characters: at most {MAX_GRAMMAR} are "
            "allowed",
            param=param,
        )
    return Held(grammar=grammar, param=param)

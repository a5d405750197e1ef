"""Which JSON schemas an answer can be held to: a keyword is enforced, ignored, or refused by name.

Source: JSON Schema 2020-12. What is enforced is what the engine's grammars can promise; the rest of
the validation keywords is refused, and so is a name that no draft knows, since a misspelt keyword
would promise nothing.
"""

from __future__ import annotations

from typing import Any

from freehold.errors import UsageError

MAX_DEPTH = 32
MAX_SCHEMAS = 2_000
MAX_REFERENCES = 200

_NO_LEAP_SECOND = {"pattern": "^[^:]*:[^:]*:[0-5]"}
"""The engine's grammar for times would allow a second 60 in any minute."""

_ONE = frozenset({"additionalProperties", "items"})
"""Keywords whose value is a schema."""
_LIST = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_NAMED = frozenset({"$defs", "definitions", "patternProperties", "properties"})
_PLAIN = frozenset(
    {
        "$ref",
        "const",
        "enum",
        "exclusiveMaximum",
        "exclusiveMinimum",
        "format",
        "maxItems",
        "maxLength",
        "maxProperties",
        "maximum",
        "minItems",
        "minLength",
        "minProperties",
        "minimum",
        "multipleOf",
        "pattern",
        "required",
        "type",
    }
)
IGNORED = frozenset(
    {
        "$comment",
        "$id",
        "$schema",
        "default",
        "deprecated",
        "description",
        "discriminator",
        "example",
        "examples",
        "readOnly",
        "title",
        "writeOnly",
    }
)
"""Annotations: what they say cannot make a value valid or not."""
ENFORCED = _ONE | _LIST | _NAMED | _PLAIN
FORMATS = frozenset(
    {
        "date",
        "date-time",
        "duration",
        "email",
        "hostname",
        "ipv4",
        "ipv6",
        "time",
        "uri",
        "uuid",
    }
)
_REASONS = {
    "uniqueItems": "a grammar cannot compare items",
    "$dynamicRef": "use $ref",
    "$anchor": "refer by path, such as #/$defs/name",
}


def enforceable(schema: object, at: str) -> dict[str, Any]:
    """A copy of ``schema`` without its annotations, all of which can be enforced.

    Raises ``UsageError`` naming the first keyword that cannot, by its path below ``at``.
    """
    if not isinstance(schema, dict):
        raise UsageError(f"{at} must be an object", param=at)
    return _Walk().whole(schema, at, 0)


class _Walk:
    """One way through a schema; counts what is found, so that size and references stay bounded."""

    def __init__(self) -> None:
        self._schemas = 0
        self._references = 0

    def schema(self, value: object, at: str, depth: int) -> object:
        if isinstance(value, bool):
            return value
        if not isinstance(value, dict):
            raise UsageError(f"{at} must be a schema: an object or a boolean", param=at)
        return self.whole(value, at, depth)

    def whole(self, value: dict[str, Any], at: str, depth: int) -> dict[str, Any]:
        self._schemas += 1
        if depth > MAX_DEPTH:
            raise UsageError(f"{at} is nested deeper than {MAX_DEPTH} schemas", param=at[:256])
        if self._schemas > MAX_SCHEMAS:
            raise UsageError(f"{at} holds more than {MAX_SCHEMAS} schemas", param=at[:256])
        kept: dict[str, Any] = {
            name: self._keyword(name, one, f"{at}.{name}", depth)
            for name, one in value.items()
            if name not in IGNORED and (name, one) != ("uniqueItems", False)
        }
        if kept.get("format") in ("time", "date-time"):
            kept["allOf"] = [*kept.get("allOf", []), _NO_LEAP_SECOND]
        return kept

    def _keyword(self, name: str, value: Any, at: str, depth: int) -> object:
        if name in _ONE:
            return self.schema(value, at, depth + 1)
        if name in _LIST:
            if not isinstance(value, list):
                raise UsageError(f"{at} must be a list of schemas", param=at)
            return [self.schema(one, f"{at}[{i}]", depth + 1) for i, one in enumerate(value)]
        if name in _NAMED:
            if not isinstance(value, dict):
                raise UsageError(f"{at} must be an object of schemas", param=at)
            return {
                key: self.schema(one, f"{at}.{key[:64]}", depth + 1) for key, one in value.items()
            }
        if name not in _PLAIN:
            reason = _REASONS.get(name, "an answer cannot be held to it")
            raise UsageError(f"{at[:200]} is not supported: {reason}", param=at[:200])
        if name == "$ref":
            self._reference(value, at)
        if name == "format" and not (isinstance(value, str) and value in FORMATS):
            known = ", ".join(sorted(FORMATS))
            raise UsageError(f"{at} is no format that is enforced; these are: {known}", param=at)
        if name == "minProperties" and type(value) is int and value > 1:
            raise UsageError(
                f"{at} is not supported above 1: a grammar cannot see a name given twice", param=at
            )
        return value

    def _reference(self, value: object, at: str) -> None:
        self._references += 1
        if self._references > MAX_REFERENCES:
            raise UsageError(f"{at} is one of more than {MAX_REFERENCES} references", param=at)
        if not isinstance(value, str) or not value.startswith("#"):
            raise UsageError(
                f"{at} must begin with '#': nothing outside of the schema is looked up", param=at
            )

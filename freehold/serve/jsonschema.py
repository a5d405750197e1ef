"""Which JSON schemas an answer can be held to: a keyword is enforced, ignored, or refused by name.

Source: JSON Schema 2020-12. What is enforced is what the engine's grammars can promise; the rest of
the validation keywords is refused, and so is a name that no draft knows, since a misspelt keyword
would promise nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import unquote

from freehold.errors import UsageError
from freehold.serve.keywords import plain, writable
from freehold.serve.patterns import portable

MAX_DEPTH = 32
MAX_SCHEMAS = 2_000
MAX_REFERENCES = 200

_NO_LEAP_SECOND = {"pattern": "^[^:]*:[^:]*:[0-5]"}
"""The engine's grammar for times would allow a second 60 in any minute."""

_LEAP_YEAR = "[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00"
_REAL_DAY = {
    "pattern": f"^(?:[0-9]{{4}}-(?:0[13-9]|1|02-(?:[01]|2[0-8]))|(?:{_LEAP_YEAR})-02-29)",
}
"""The engine's grammar for dates would allow a 29 February in any year."""

_YEAR = {"pattern": "^(?:[1-9]|0[1-9]|00[1-9]|000[1-9])"}
"""And a year 0, which many libraries for dates cannot read."""

_NARROWER = {
    "date": [_REAL_DAY, _YEAR],
    "date-time": [_REAL_DAY, _YEAR, _NO_LEAP_SECOND],
    "time": [_NO_LEAP_SECOND],
}

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
_REASONS = {
    "uniqueItems": "a grammar cannot compare items",
    "$dynamicRef": "use $ref",
    "$anchor": "refer by path, such as #/$defs/name",
}


def enforceable(schema: object, at: str) -> dict[str, Any]:
    """A copy of ``schema`` in the engine's words and without its annotations, all of which can be
    enforced.

    Raises ``UsageError`` naming the first keyword that cannot, by its path below ``at``.
    """
    if not isinstance(schema, dict):
        raise UsageError(f"{at} must be an object", param=at)
    walk = _Walk()
    kept = walk.whole(schema, _Place(at=at))
    walk.check_references()
    return kept


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Where a schema stands: ``at`` as it is told, ``path`` as references are written.
    ``moved`` where a part around it has an address of its own, which references are read from."""

    at: str
    path: tuple[str, ...] = ()
    depth: int = 0
    moved: bool = False

    def below(self, keyword: str, key: str | int | None = None) -> _Place:
        at = f"{self.at}.{keyword}"
        if key is not None:
            at += f"[{key}]" if isinstance(key, int) else f".{key[:64]}"
        path = (*self.path, keyword, *(() if key is None else (str(key),)))
        return _Place(at=at, path=path, depth=self.depth + 1, moved=self.moved)


class _Walk:
    """One way through a schema; counts what is found, so that size and references stay bounded."""

    def __init__(self) -> None:
        self._schemas: set[tuple[str, ...]] = set()
        self._references: list[tuple[str, tuple[str, ...]]] = []

    def schema(self, value: object, place: _Place) -> object:
        if isinstance(value, bool):
            self._count(place)
            return value
        if not isinstance(value, dict):
            at = place.at
            raise UsageError(f"{at} must be a schema: an object or a boolean", param=at)
        return self.whole(value, place)

    def whole(self, value: dict[str, Any], place: _Place) -> dict[str, Any]:
        self._count(place)
        if place.depth and "$id" in value:
            place = replace(place, moved=True)
        kept: dict[str, Any] = {
            name: self._keyword(name, one, place)
            for name, one in value.items()
            if name not in IGNORED and (name, one) != ("uniqueItems", False)
        }
        if narrower := _NARROWER.get(str(kept.get("format"))):
            kept["allOf"] = [*kept.get("allOf", []), *narrower]
        return kept

    def check_references(self) -> None:
        """Each leads to a schema that was walked: what lies in ``const``, say, was not."""
        for at, path in self._references:
            if path not in self._schemas:
                raise UsageError(f"{at} leads to no schema in this one", param=at)

    def _count(self, place: _Place) -> None:
        at = place.at
        self._schemas.add(place.path)
        if place.depth > MAX_DEPTH:
            raise UsageError(f"{at} is nested deeper than {MAX_DEPTH} schemas", param=at[:256])
        if len(self._schemas) > MAX_SCHEMAS:
            raise UsageError(f"{at} holds more than {MAX_SCHEMAS} schemas", param=at[:256])

    def _keyword(self, name: str, value: Any, place: _Place) -> object:
        at = f"{place.at}.{name}"
        if name in _ONE:
            return self.schema(value, place.below(name))
        if name in _LIST:
            if not isinstance(value, list):
                raise UsageError(f"{at} must be a list of schemas", param=at)
            return [self.schema(one, place.below(name, i)) for i, one in enumerate(value)]
        if name in _NAMED:
            return self._named(name, value, place)
        if name not in _PLAIN:
            reason = _REASONS.get(name, "an answer cannot be held to it")
            raise UsageError(f"{at[:200]} is not supported: {reason}", param=at[:200])
        if name == "$ref":
            self._reference(value, at, place)
        return plain(name, value, at)

    def _named(self, name: str, value: object, place: _Place) -> dict[str, object]:
        at = f"{place.at}.{name}"
        if not isinstance(value, dict):
            raise UsageError(f"{at} must be an object of schemas", param=at)
        kept = {}
        for key, one in value.items():
            below = place.below(name, key)
            if name == "properties":
                writable(key, below.at)
            told = portable(key, below.at) if name == "patternProperties" else key
            if told in kept:
                raise UsageError(f"{below.at} means the same as another pattern", param=below.at)
            kept[told] = self.schema(one, below)
        return kept

    def _reference(self, value: object, at: str, place: _Place) -> None:
        if len(self._references) == MAX_REFERENCES:
            raise UsageError(f"{at} is one of more than {MAX_REFERENCES} references", param=at)
        if not isinstance(value, str) or not value.startswith("#"):
            raise UsageError(
                f"{at} must begin with '#': nothing outside of the schema is looked up", param=at
            )
        if place.moved:
            raise UsageError(
                f"{at} is not supported below an $id: refer from the whole schema", param=at
            )
        if value[1:2] not in ("", "/"):
            raise UsageError(f"{at} is not supported: {_REASONS['$anchor']}", param=at)
        steps = unquote(value[1:]).split("/")[1:]
        path = tuple(step.replace("~1", "/").replace("~0", "~") for step in steps)
        self._references.append((at, path))

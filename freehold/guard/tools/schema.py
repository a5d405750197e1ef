"""JSON Schema for tool arguments: the keywords that say what a value may be, checked in place.

Source: JSON Schema 2020-12. A keyword that is not known here is refused when the policy is read,
since one that is passed over would promise what nobody checks. Tests compare with ``jsonschema``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from freehold.errors import UsageError

MAX_DEPTH = 24
MAX_PATTERN_TEXT = 4_096
"""Longer texts do not fit any pattern: a pattern's cost may grow with the text's square."""


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


_TYPES: Mapping[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "number": _is_number,
    "integer": lambda value: _is_number(value) and float(value).is_integer(),
}
_LIMITS: Mapping[str, tuple[type | tuple[type, ...], Callable[[Any, Any], bool]]] = {
    "minimum": ((int, float), lambda value, limit: value >= limit),
    "maximum": ((int, float), lambda value, limit: value <= limit),
    "exclusiveMinimum": ((int, float), lambda value, limit: value > limit),
    "exclusiveMaximum": ((int, float), lambda value, limit: value < limit),
    "minLength": (str, lambda value, limit: len(value) >= limit),
    "maxLength": (str, lambda value, limit: len(value) <= limit),
    "minItems": (list, lambda value, limit: len(value) >= limit),
    "maxItems": (list, lambda value, limit: len(value) <= limit),
    "minProperties": (dict, lambda value, limit: len(value) >= limit),
    "maxProperties": (dict, lambda value, limit: len(value) <= limit),
}
_SCHEMAS = ("items", "additionalProperties", "not")
_LISTS = ("anyOf", "oneOf", "allOf")
_NOTES = ("title", "description", "default", "examples", "$schema", "$comment")
_KNOWN = frozenset(
    (*_LIMITS, *_SCHEMAS, *_LISTS, *_NOTES, "type", "enum", "const", "pattern", "properties")
) | {"required"}


def check(schema: Any, *, where: str, depth: int = 0) -> None:
    """Raises ``UsageError`` naming the place in the schema that cannot be enforced."""

    def refuse(reason: str) -> UsageError:
        return UsageError(f"{where} {reason}", param=where)

    if isinstance(schema, bool):
        return
    if depth > MAX_DEPTH or not isinstance(schema, Mapping):
        raise refuse("must be a JSON schema (an object), not too deep")
    if (problem := _wrong_keyword(schema)) is not None:
        raise refuse(problem)
    inner = {
        f"{where}.properties.{name}": one for name, one in schema.get("properties", {}).items()
    }
    inner |= {f"{where}.{key}": schema[key] for key in _SCHEMAS if key in schema}
    for key in _LISTS:
        inner |= {f"{where}.{key}[{i}]": one for i, one in enumerate(schema.get(key, []))}
    for place, one in inner.items():
        check(one, where=place, depth=depth + 1)


def _wrong_keyword(schema: Mapping[str, Any]) -> str | None:
    unknown = sorted(str(key) for key in schema if key not in _KNOWN)
    if unknown:
        return f"has {unknown[0][:40]!r}, which is not enforced here: use another keyword"
    types = schema.get("type", [])
    for name in types if isinstance(types, list) else [types]:
        if not isinstance(name, str) or name not in _TYPES:
            return f"has the type {str(name)[:40]!r}: it must be one of {', '.join(_TYPES)}"
    for key in _LIMITS.keys() & schema.keys():
        if not _is_number(schema[key]):
            return f"has {key} {str(schema[key])[:40]!r}: it must be a number"
    forms = dict.fromkeys(("enum", "required", *_LISTS), list) | {"properties": Mapping}
    for key, form in forms.items():
        if key in schema and not isinstance(schema[key], form):
            return f"has a {key} of another form"
    try:
        re.compile(schema.get("pattern", ""))
    except (re.error, TypeError) as error:
        return f"has a pattern that is none: {error}"
    return None


def fault(value: Any, schema: Any, *, where: str = "arguments", depth: int = 0) -> str | None:
    """What is wrong with ``value``, in one sentence that does not quote it; ``None`` where nothing
    is. ``schema`` has passed ``check``."""
    if isinstance(schema, bool):
        return None if schema else f"{where} must not be there"
    if depth > MAX_DEPTH:
        return f"{where} is nested too deep"
    problem = _own_fault(value, schema)
    return (
        _inner_fault(value, schema, where, depth + 1) if problem is None else f"{where} {problem}"
    )


def _own_fault(value: Any, schema: Mapping[str, Any]) -> str | None:
    types = schema.get("type", [])
    types = [types] if isinstance(types, str) else types
    if types and not any(_TYPES[name](value) for name in types):
        return f"must be {' or '.join(types)}"
    if "enum" in schema and not any(_same(value, one) for one in schema["enum"]):
        return "is none of the values that are allowed"
    if "const" in schema and not _same(value, schema["const"]):
        return "is not the one value that is allowed"
    for key in _LIMITS.keys() & schema.keys():
        kind, holds = _LIMITS[key]
        if (
            isinstance(value, kind)
            and not isinstance(value, bool)
            and not holds(value, schema[key])
        ):
            return f"breaks {key} {schema[key]}"
    if "pattern" in schema and isinstance(value, str):
        long = len(value) > MAX_PATTERN_TEXT
        if long or re.search(schema["pattern"], value) is None:
            return "does not fit its pattern"
    return None


def _inner_fault(value: Any, schema: Mapping[str, Any], where: str, depth: int) -> str | None:
    inner: list[tuple[str, Any, Any]] = []
    if isinstance(value, dict):
        for name in schema.get("required", []):
            if name not in value:
                return f"{where} lacks {name}"
        known, others = schema.get("properties", {}), schema.get("additionalProperties", True)
        for name, one in value.items():
            place = f"{where}.{name}" if name in known else f"{where}: another argument"
            inner.append((place, one, known.get(name, others)))
    if isinstance(value, list) and "items" in schema:
        inner += [(f"{where}[{i}]", one, schema["items"]) for i, one in enumerate(value)]
    inner += [(where, value, one) for one in schema.get("allOf", [])]
    for place, one, rule in inner:
        if (problem := fault(one, rule, where=place, depth=depth)) is not None:
            return problem

    def fits(rule: Any) -> bool:
        return fault(value, rule, depth=depth) is None

    if "anyOf" in schema and not any(map(fits, schema["anyOf"])):
        return f"{where} fits none of its forms"
    if "oneOf" in schema and sum(map(fits, schema["oneOf"])) != 1:
        return f"{where} must fit one of its forms alone"
    if "not" in schema and fits(schema["not"]):
        return f"{where} has a form that is ruled out"
    return None


def _same(one: Any, other: Any) -> bool:
    """JSON's equality: true is not 1, 1.0 is 1."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    return bool(one == other)

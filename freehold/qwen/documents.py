"""Read untrusted JSON documents and key-values: every access is typed, bounded and named."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from freehold.errors import MalformedError


def parse_json(data: bytes, *, file: str) -> Any:
    """Parse UTF-8 JSON strictly: no duplicate keys, no NaN or Infinity.

    Raises ``MalformedError`` naming ``file``.
    """
    try:
        text = data.decode("utf-8")
        return json.loads(
            text, object_pairs_hook=_no_duplicates, parse_constant=_no_constant, parse_int=_integer
        )
    except (ValueError, RecursionError) as error:  # JSONDecodeError, UnicodeDecodeError, ours
        raise MalformedError(f"{file} is not valid JSON: {error}", file=file) from error


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key appears twice in one object")
    return result


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _integer(digits: str) -> int:
    if len(digits) > 20:
        raise ValueError("a number has more than 20 digits")
    return int(digits)


class Reader:
    """Typed access to one mapping. ``prefix`` is put before every key; ``within`` names the place.

    Every method raises ``MalformedError`` that names file, key, value and rule.
    """

    def __init__(self, document: Any, *, file: str, prefix: str = "", within: str = "") -> None:
        self.file = file
        self._prefix = prefix
        self._within = f"{within}." if within else ""
        if not isinstance(document, Mapping):
            raise MalformedError(f"{file}: {within or 'the document'} must be an object", file=file)
        self._document = document

    def error(self, key: str, problem: str) -> MalformedError:
        """The error to raise about ``key``."""
        name = f"{self._within}{self._prefix}{key}"
        return MalformedError(f"{self.file}: {name} {problem}", file=self.file)

    def get(self, key: str) -> Any:
        """The value as it is; ``None`` where the key is absent or null."""
        return self._document.get(self._prefix + key)

    def integer(self, key: str, *, low: int, high: int, default: int | None = None) -> int:
        value = self.get(key)
        value = default if value is None else value
        # bool is a subclass of int, and true is no layer count.
        if type(value) is not int:
            raise self.error(key, f"is {_short(value)}: it must be a whole number")
        if not low <= value <= high:
            raise self.error(key, f"is {value}: it must lie between {low} and {high}")
        return value

    def number(self, key: str, *, low: float, high: float, default: float | None = None) -> float:
        value: Any = self.get(key)
        value = default if value is None else value
        if type(value) not in (int, float):
            raise self.error(key, f"is {_short(value)}: it must be a number")
        if not math.isfinite(value) or not low <= value <= high:
            raise self.error(key, f"is {value}: it must lie between {low} and {high}")
        return float(value)

    def boolean(self, key: str, *, default: bool) -> bool:
        value = self.get(key)
        value = default if value is None else value
        if not isinstance(value, bool):
            raise self.error(key, f"is {_short(value)}: it must be true or false")
        return value

    def string(self, key: str) -> str:
        value = self.get(key)
        if not isinstance(value, str):
            raise self.error(key, f"is {_short(value)}: it must be a string")
        return value

    def sequence(self, key: str, *, high: int) -> list[Any]:
        value = self.get(key)
        if not isinstance(value, list):
            raise self.error(key, f"is {_short(value)}: it must be a list")
        if len(value) > high:
            raise self.error(key, f"has {len(value)} entries: at most {high} are allowed")
        return value

    def expect(self, key: str, wanted: object, *, default: object) -> None:
        """The key must hold ``wanted``, or be absent where the default is that."""
        value = self.get(key)
        value = default if value is None else value
        if type(value) is not type(wanted) or value != wanted:
            raise self.error(key, f"is {_short(value)}: this version needs {wanted!r}")


def _short(value: object) -> str:
    text = repr(value) if isinstance(value, str | int | float | bool) else type(value).__name__
    return text if len(text) <= 80 else text[:77] + "..."

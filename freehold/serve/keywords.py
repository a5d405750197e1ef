"""Values of JSON Schema's plain keywords: which of them an answer can be held to.

Source: JSON Schema 2020-12, validation vocabulary.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

from freehold.errors import UsageError
from freehold.serve.patterns import portable

MAX_NUMBER = 1 << 53
"""Past it not every whole number has a double of its own, and the grammars count in doubles."""

MAX_DIGITS = 15
_EXACT_POWER = 22
"""The digits and the highest power of ten that a double holds exactly."""

_COUNTS = frozenset(
    {"maxItems", "maxLength", "maxProperties", "minItems", "minLength", "minProperties"}
)
_BOUNDS = frozenset({"exclusiveMaximum", "exclusiveMinimum", "maximum", "minimum", "multipleOf"})
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

_UNWRITABLE = re.compile(r"[\x00-\x07\x0b\x0e-\x1f\x7f\ud800-\udfff]")
"""What JSON writes only as ``\\u``, which no answer may, and what the grammars leave out."""


def plain(name: str, value: Any, at: str) -> object:
    """``value`` of the keyword ``name`` in the engine's words. Raises ``UsageError`` naming ``at``
    where an answer cannot be held to it."""
    if name in _COUNTS:
        return _count(name, value, at)
    if name in _BOUNDS:
        if type(value) not in (int, float):
            raise UsageError(f"{at} must be a number", param=at)
        writable(value, at)
        return _bound(name, value)
    elif name in ("const", "enum", "required"):
        writable(value, at)
    elif name == "pattern":
        if not isinstance(value, str):
            raise UsageError(f"{at} must be a string", param=at)
        return portable(value, at)
    elif name == "format" and not (isinstance(value, str) and value in FORMATS):
        known = ", ".join(sorted(FORMATS))
        raise UsageError(f"{at} is no format that is enforced; these are: {known}", param=at)
    return value


def _bound(name: str, value: float) -> float:
    """A whole bound that is itself excluded is moved inwards by a billionth, or by what a double
    has room for: beside a fraction less than one away, the grammars would allow the bound."""
    if not name.startswith("exclusive") or value % 1:
        return value
    places = min(9, MAX_DIGITS - len(str(abs(int(value)))))
    if places < 1:
        return value  # no fraction so close to it is exact, and others are refused
    step = Decimal(1).scaleb(-places)
    return float(int(value) + (step if name == "exclusiveMinimum" else -step))


def _count(name: str, value: Any, at: str) -> int:
    whole = isinstance(value, int | float) and type(value) is not bool and value % 1 == 0
    if not whole or not 0 <= value <= MAX_NUMBER:
        raise UsageError(f"{at} must be a whole number from 0 to {MAX_NUMBER}", param=at)
    if name == "minProperties" and value > 1:
        raise UsageError(
            f"{at} is not supported above 1: a grammar cannot see a name given twice", param=at
        )
    return int(value)


def writable(value: object, at: str) -> None:
    """Raise ``UsageError`` naming ``at`` if an answer cannot hold exactly ``value``, any JSON."""
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, dict):
            left += [*one, *one.values()]
        elif isinstance(one, list):
            left += one
        elif isinstance(one, str) and (found := _UNWRITABLE.search(one)):
            raise UsageError(
                f"{at} is not supported: it holds {found[0]!a}, which no answer may",
                param=at,
            )
        elif isinstance(one, int | float) and not _exact(one):
            raise UsageError(
                f"{at} is not supported: it holds a number that a grammar does not keep exactly "
                f"(beyond {MAX_NUMBER}, or a fraction of more than {MAX_DIGITS} digits)",
                param=at,
            )


def _exact(number: float) -> bool:
    """Whether the grammars' library, which reads a fraction as its digits divided by a power of
    ten, gets the double that was meant."""
    if not abs(number) <= MAX_NUMBER:
        return False
    if isinstance(number, int):
        return True
    _, digits, exponent = Decimal(repr(number)).normalize().as_tuple()
    return len(digits) <= MAX_DIGITS and int(exponent) >= -_EXACT_POWER

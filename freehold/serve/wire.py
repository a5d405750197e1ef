"""JSON on the wire, both ways: strict coming in, fast going out."""

from __future__ import annotations

import re
from typing import Any

import msgspec

encode = msgspec.json.Encoder().encode
"""Any plain data to JSON bytes. UTF-8, no spaces; much cheaper per token than a pydantic model."""

_decode = msgspec.json.Decoder().decode
_LONG = re.compile(rb"[0-9]{19}")
_LEAST, _MOST = -(1 << 63), (1 << 64) - 1
"""What a message between our processes has room for."""
_SHOWN = 200
"""Characters of a place that are told, its end first: nesting has no bound of its own."""


class BadJsonError(Exception):
    """The body is no JSON. ``str(error)`` says where and why."""


def decode(body: bytes) -> Any:
    """JSON bytes to plain data.

    Refused: invalid UTF-8, NaN and Infinity, numbers no float holds, half surrogate pairs, trailing
    text, and nesting deeper than the interpreter's recursion limit. Raises ``BadJsonError``.
    """
    if not body:
        raise BadJsonError("the body is empty: send a JSON object")
    try:
        body.decode()
    except UnicodeDecodeError as error:
        raise BadJsonError(f"the body is not valid UTF-8 (byte {error.start})") from error
    try:
        return _decode(body)
    except msgspec.ValidationError as error:
        raise BadJsonError("a number in the body is too large") from error
    except msgspec.DecodeError as error:
        reason = str(error).removeprefix("JSON is malformed: ")
        if reason == "Input data was truncated":
            reason = f"it ends too early (byte {len(body)})"
        raise BadJsonError(f"the body is not valid JSON: {reason}") from error
    except RecursionError as error:
        raise BadJsonError("the body is nested too deeply") from error


def check_integers(body: bytes, value: Any) -> None:
    """Raise ``BadJsonError`` if ``value``, decoded from ``body``, holds one beyond 64 bits, saying
    where."""
    left = [("", value)] if _LONG.search(body) else []
    while left:
        at, one = left.pop()
        if isinstance(one, dict):
            left += [(f"{at}.{key[:64]}"[-_SHOWN:], inner) for key, inner in one.items()]
        elif isinstance(one, list):
            left += [(f"{at}[{i}]"[-_SHOWN:], inner) for i, inner in enumerate(one)]
        elif isinstance(one, int) and not _LEAST <= one <= _MOST:
            place = at.lstrip(".") or "the body"
            raise BadJsonError(f"{place} is a whole number beyond 64 bits")

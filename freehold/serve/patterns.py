r"""Regular expressions of JSON Schema, in the words of the engine's grammars.

Source: ECMA-262 with its ``u`` flag, which JSON Schema 2020-12 (section 6.4) asks for. The grammars
read Rust's ``regex``, where some of the same signs mean more: ``.`` takes a carriage return, ``\s``
another set of blanks, and ``&&`` in a class is an operation. What they cannot read is refused.
"""

from __future__ import annotations

import re
from itertools import pairwise

from freehold.errors import UsageError

_BLANKS = [
    *((0x09, 0x0D), (0x20, 0x20), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A)),
    *((0x2028, 0x2029), (0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000), (0xFEFF, 0xFEFF)),
]
"""First and last character of each run that ECMA-262 calls white space or a line's end."""

_ENDS = [(-1, -1), *_BLANKS, (0x110000, 0x110000)]


def _class(runs: list[tuple[int, int]]) -> str:
    return "".join(rf"\u{{{first:x}}}-\u{{{last:x}}}" for first, last in runs)


_BLANK = _class(_BLANKS)
_FULL = _class([(one[1] + 1, two[0] - 1) for one, two in pairwise(_ENDS)])
_ANY = r"[^\n\r\u{2028}-\u{2029}]"

_REFUSED = {
    True: re.compile(r"\\[cbBk0-9]|--"),
    False: re.compile(r"\\[cbBk0-9]|\(\?<?[=!]"),
}
"""Inside a class and outside."""
_SIGN = re.compile(r"\\.|\(\?<?[=!]|--|.", re.DOTALL)


def portable(pattern: str, at: str) -> str:
    """``pattern`` for the engine. Raises ``UsageError`` naming ``at`` where it has no such form."""
    out: list[str] = []
    opened: int | None = None
    for sign in _SIGN.findall(pattern):
        empty = sign == "]" and opened is not None and out[opened:] in (["["], ["[", "^"])
        if empty or _REFUSED[opened is not None].match(sign):
            what = "an empty class" if empty else repr(sign)
            raise UsageError(
                f"{at} is not supported: a grammar cannot hold an answer to {what} in a pattern",
                param=at,
            )
        if opened is None:
            opened = len(out) if sign == "[" else None
            out.append(_outside(sign))
        else:
            out.append(_inside(sign))
            opened = None if sign == "]" else opened
    return "".join(out)


def _outside(sign: str) -> str:
    return {r"\s": f"[{_BLANK}]", r"\S": f"[{_FULL}]", ".": _ANY}.get(sign, sign)


def _inside(sign: str) -> str:
    plain = {r"\s": _BLANK, r"\S": _FULL, "[": r"\[", "&": r"\&", "~": r"\~"}
    return plain.get(sign, sign)

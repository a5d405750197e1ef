"""The small language of prompts: ``{field}`` of a row, ``{field|filter}``, ``{@word}``.

Everything else, braces too, stands for itself. There is no access to anything but the row's own
fields, so a task file can do nothing.

- ``bare``: without a full stop at the end
- ``small``: with a small first letter
- ``lines``: a list, an item a line
- ``letters``: a list as ``A. ...``, an item a line
- ``letter``: a number as the letter that ``letters`` gave it
- ``imports``: the import lines of a program
- ``word``: the word that ``words`` has for the field's value
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Mapping
from typing import Any

from freehold.errors import UsageError

_PLACE = re.compile(r"\{(@?[a-z][a-z0-9_]*)(?:\|([a-z]+))?\}")
_STOPS = ".!?\u3002\uff01\uff1f\u0964"
"""Also those of Chinese and of Indic scripts."""
LETTERS = string.ascii_uppercase


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise ValueError(f"is {type(value).__name__}, not text")


def _list(value: Any) -> list[str]:
    if not isinstance(value, list):
        raise ValueError(f"is {type(value).__name__}, not a list")
    return [_text(item) for item in value]


def _letters(value: Any) -> str:
    return "\n".join(f"{LETTERS[i]}. {item.strip()}" for i, item in enumerate(_list(value)))


def _letter(value: Any) -> str:
    if not isinstance(value, int) or not 0 <= value < len(LETTERS):
        raise ValueError(f"is {value!r}, no place in a list")
    return LETTERS[value]


def _imports(value: Any) -> str:
    lines = _text(value).splitlines()
    return "\n".join(line for line in lines if re.match(r"(import|from)\s", line))


def _small(value: Any) -> str:
    text = _text(value)
    return text[:1].lower() + text[1:]


_FILTERS: dict[str, Callable[[Any], str]] = {
    "bare": lambda value: _text(value).strip().rstrip(_STOPS),
    "strip": lambda value: _text(value).strip(),
    "small": _small,
    "lines": lambda value: "\n".join(_list(value)),
    "letters": _letters,
    "letter": _letter,
    "imports": _imports,
}


def flaw(text: str, words: Mapping[str, str]) -> str:
    """What no row could fill, in words; empty if there is nothing of the kind."""
    for name, chosen in _PLACE.findall(text):
        if name.startswith("@") and name[1:] not in words:
            return f"{{{name}}} is no word of this language"
        if chosen and chosen != "word" and chosen not in _FILTERS:
            return f"{chosen!r} is no filter: take {', '.join(sorted([*_FILTERS, 'word']))}"
        if chosen and name.startswith("@"):
            return f"{{{name}|{chosen}}}: a word takes no filter"
    return ""


def fill(text: str, row: Mapping[str, Any], words: Mapping[str, str]) -> str:
    """``text`` with the row's values in their places. Raises ``UsageError`` naming the field."""

    def put(found: re.Match[str]) -> str:
        name, chosen = found[1], found[2]
        if name.startswith("@"):
            return words[name[1:]]
        if name not in row:
            raise UsageError(f"the row has no field {name!r}", param=name)
        try:
            if chosen == "word":
                return words[_text(row[name])]
            return _FILTERS[chosen](row[name]) if chosen else _text(row[name])
        except KeyError:
            raise UsageError(
                f"no word of this language stands for {row[name]!r}", param=name
            ) from None
        except (ValueError, IndexError) as error:
            raise UsageError(f"field {name!r} {error}", param=name) from None

    return _PLACE.sub(put, text)

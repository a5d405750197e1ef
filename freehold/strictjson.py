"""JSON that came from elsewhere: one meaning only, and a bounded cost.

Python's parser keeps the last of two equal keys and reads ``NaN``; two programs could then read two
models out of one file. Here both are errors. Source: RFC 8259, and RFC 8785 for the canonical form.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any, NoReturn

from freehold.errors import MalformedError

MAX_DEPTH = 32
# Real tokenizers of 250,000 tokens have a million separators. A parsed one costs up to 120 bytes.
MAX_SEPARATORS = 4_000_000
MAX_CONTAINERS = 1_000_000
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def parse(data: bytes, *, file: str, max_bytes: int) -> Any:
    """Parse ``data``. Raises ``MalformedError`` naming ``file`` and the broken rule."""

    def refuse(reason: str) -> NoReturn:
        raise MalformedError(
            f"{file}: {reason}. The file is damaged or was not made by a JSON writer; "
            "get it again from its publisher.",
            file=file,
        )

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        if len(members) != len(pairs):
            ((twice, _),) = Counter(key for key, _ in pairs).most_common(1)
            refuse(f"key {twice[:80]!r} appears twice in one object")
        return members

    def not_json(constant: str) -> NoReturn:
        refuse(f"{constant} is not JSON")

    if len(data) > max_bytes:
        refuse(f"{len(data):,} bytes of JSON, more than the {max_bytes:,} allowed")
    if data.count(b",") + data.count(b":") > MAX_SEPARATORS:
        refuse(f"more than {MAX_SEPARATORS:,} values")
    if data.count(b"[") + data.count(b"{") > MAX_CONTAINERS:
        refuse(f"more than {MAX_CONTAINERS:,} arrays and objects")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        refuse(f"byte {error.start:,} is not UTF-8")
    try:
        value = json.loads(text, object_pairs_hook=unique, parse_constant=not_json)
    except RecursionError:
        refuse(f"nested deeper than {MAX_DEPTH}")
    except ValueError as error:  # JSONDecodeError, and integers too long for Python to convert
        refuse(f"not JSON ({error})")
    if _depth(value) > MAX_DEPTH:
        refuse(f"nested deeper than {MAX_DEPTH}")
    if _SURROGATE.search(text) and not _encodable(value):
        refuse("text holds half a surrogate pair, which is no character")
    return value


def canonical(value: Any) -> bytes:
    """The one byte form of a value: sorted keys, no spaces, UTF-8. Integers and strings only, for
    which RFC 8785 and this agree."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _encodable(value: Any) -> bool:
    try:
        canonical(value)
    except UnicodeEncodeError:
        return False
    return True


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level:
        level = [
            child
            for parent in level
            if isinstance(parent, dict | list)
            for child in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(child, dict | list)
        ]
        depth += 1
    return depth

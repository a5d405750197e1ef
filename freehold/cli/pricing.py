"""What others charge, from a file that the user keeps: prices change, and none is shipped here.

["some cloud"]
input = 2.50       # per million tokens of prompts
cached = 1.25      # of those that its cache held; without it, input's
output = 10.00     # per million tokens of answers
"""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from freehold.errors import NotFoundError, UsageError

_MILLION = 1_000_000
_MAX_BYTES = 1 << 20
_MAX_LISTS = 16


@dataclass(frozen=True, kw_only=True)
class Price:
    """One price list, in whatever currency its file means, per million tokens."""

    name: str
    input: float
    cached: float
    output: float

    def of(
        self, *, prompt_tokens: int, cached_tokens: int, completion_tokens: int, requests: int = 0
    ) -> float:
        """What so many tokens would have cost. ``prompt_tokens`` include the cached."""
        new = prompt_tokens - cached_tokens
        total = new * self.input + cached_tokens * self.cached + completion_tokens * self.output
        return total / _MILLION


def read_prices(path: Path) -> list[Price]:
    """The price lists in ``path``. Raises ``NotFoundError``, or ``UsageError`` naming the fault."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise UsageError(f"{path} is larger than {_MAX_BYTES} bytes", param="prices")
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise NotFoundError(f"{path} cannot be read: {error.strerror}", param="prices") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{path} is no TOML file: {error}", param="prices") from error
    if len(document) > _MAX_LISTS:
        raise UsageError(f"{path} has more than {_MAX_LISTS} price lists", param="prices")
    return [_price(path, name, given) for name, given in document.items()]


def _price(path: Path, name: str, given: Any) -> Price:
    where = f"{path}: [{name}]"
    if not isinstance(given, dict):
        raise UsageError(f"{where} must be a table with input and output", param="prices")
    if unknown := given.keys() - {"input", "cached", "output"}:
        raise UsageError(f"{where} has {min(unknown)!r}: input, cached and output are known")
    numbers: dict[str, Any] = {"cached": given.get("input")} | given
    for key in ("input", "cached", "output"):
        value: Any = numbers.get(key)
        if type(value) not in (int, float) or not math.isfinite(value) or value < 0:
            raise UsageError(f"{where} {key} must be a number, 0 or more", param="prices")
    return Price(name=name, **{key: float(value) for key, value in numbers.items()})

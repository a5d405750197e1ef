"""How refusals begin, by language: a documented list (``openers.json``). Needs no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files


@cache
def every() -> Mapping[str, Sequence[str]]:
    """The openers of each language that there is a list of."""
    found: Mapping[str, Sequence[str]] = json.loads(
        files(__package__).joinpath("openers.json").read_text(encoding="utf-8")
    )
    return found


def openers(lang: str) -> Sequence[str]:
    """How refusals begin in that language; in English where there is no list."""
    return every().get(lang, every()["en"])

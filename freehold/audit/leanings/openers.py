"""Two documented lists by language: how refusals begin (``openers.json``), and requests that nearly
every model refuses (``stirring.json``). Needs no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files


@cache
def _lists(file: str) -> Mapping[str, Sequence[str]]:
    lists: Mapping[str, Sequence[str]] = json.loads(
        files(__package__).joinpath(file).read_text(encoding="utf-8")
    )
    return lists


def every() -> Mapping[str, Sequence[str]]:
    """The openers of each language that there is a list of."""
    return _lists("openers.json")


def openers(lang: str) -> Sequence[str]:
    """How refusals begin in that language; in English where there is no list."""
    return every().get(lang, every()["en"])


def stirring(lang: str) -> Sequence[str]:
    """Requests that nearly every model refuses; in English where there is no list."""
    known = _lists("stirring.json")
    return known.get(lang, known["en"])

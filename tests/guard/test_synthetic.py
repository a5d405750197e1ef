"""Our own texts: every bank is whole, and the same seed writes the same."""

from __future__ import annotations

import re
from typing import get_args

import pytest

from freehold.guard.synthetic import LANGUAGES, MORE_LANGUAGES, Kind, bank, texts

SLOTS = {"<x>", "<payload>", "<name>", "<ask>", "<noise>"}


@pytest.mark.parametrize("language", LANGUAGES + MORE_LANGUAGES)
def test_a_bank_is_whole(language: str) -> None:
    lists = bank(language).lists
    assert set(bank("ko").lists) <= set(lists)
    for name, lines in lists.items():
        for line in lines:
            assert line.strip() == line, f"{name}: {line!r}"
            assert line.count("{") == line.count("}"), f"{name}: {line!r}"
    for line in lists["ask.lines"] + lists["protect.lines"]:
        assert line.count("<x>") == 1, line
    for line in lists["harmful.lines"] + lists["harmless.lines"] + lists["harmless.double"]:
        assert line.count(" : ") == 1, line


@pytest.mark.parametrize("kind", get_args(Kind))
@pytest.mark.parametrize("language", LANGUAGES)
def test_texts_are_many_and_leave_no_slot(language: str, kind: Kind) -> None:
    found = texts(kind, language, 60, carriers=["A harmless page."])
    assert len(set(found)) == 60
    for text in found:
        assert not SLOTS & set(re.findall(r"<\w+>", text)), text


def test_the_same_seed_writes_the_same() -> None:
    assert texts("harmful", "en", 50) == texts("harmful", "en", 50)
    assert texts("harmful", "en", 50) != texts("harmful", "en", 50, seed=1)

"""Our own texts: every bank is whole, and the same seed writes the same."""

from __future__ import annotations

import re
import tomllib
from importlib import resources
from typing import get_args

import pytest

from freehold.guard.synthetic import (
    LANGUAGES,
    MORE_LANGUAGES,
    TWIN_LANGUAGES,
    Kind,
    bank,
    texts,
    twins,
)

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


@pytest.mark.parametrize("language", TWIN_LANGUAGES)
def test_twins_stand_in_pairs(language: str) -> None:
    path = resources.files("freehold.guard") / "phrases" / "twins" / f"{language}.toml"
    for section, lists in tomllib.loads(path.read_text("utf-8")).items():
        lines = {name: text.strip().splitlines() for name, text in lists.items()}
        assert set(lines) <= {"harmful", "harmless", "attack"}
        if section != "chores":
            assert len({len(each) for each in lines.values()}) == 1, section
            assert len(lines) == 2, section


@pytest.mark.parametrize("language", TWIN_LANGUAGES)
def test_no_text_is_harmful_and_harmless(language: str) -> None:
    found = twins(language, 4)
    assert set(found) == {"harmful", "injection", "benign"}
    assert not set(found["benign"]) & (set(found["harmful"]) | set(found["injection"]))
    for text in found["harmful"] + found["injection"] + found["benign"]:
        assert not re.search(r"\{[^{}]*\|", text), text
    assert twins(language, 4) == found

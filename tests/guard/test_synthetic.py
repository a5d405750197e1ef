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
    REQUEST_LANGUAGES,
    TWIN_LANGUAGES,
    Kind,
    bank,
    requests,
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


@pytest.mark.parametrize("language", REQUEST_LANGUAGES)
def test_requests_are_whole(language: str) -> None:
    path = resources.files("freehold.guard") / "phrases" / "requests" / f"{language}.toml"
    sections = tomllib.loads(path.read_text("utf-8"))
    lines = [line for lists in sections.values() for line in lists["lines"].strip().splitlines()]
    assert len(lines) == len(set(lines)) >= (400 if language == "en" else 20)
    for line in lines:
        assert line.strip() == line, line
        assert not re.search(r"\{[^{}|]*\}|\{[^{}]*\{|\\[^n\[\]]", line), line
        assert line.count("{") == line.count("}"), line
    found = requests(language, 3)
    assert len(set(found)) == len(found) > 1.3 * len(lines)
    assert not any("\\" in text for text in found)
    assert requests(language, 3) == found
    assert requests(language, 3, seed=1) != found
    attacks = twins(language, 2)
    assert not set(found) & {*attacks["harmful"], *attacks["injection"]}


def test_requests_hold_breaks_and_braces() -> None:
    found = requests("en", 4)
    assert any("\n\n" in text for text in found)
    assert any(text.startswith('{"order": ') and "}]}\n" in text for text in found)

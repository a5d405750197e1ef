"""The owner's files, strictly read; and our own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from freehold.audit.leanings.probes import Fact, Group, Probe, Refusal, languages, own, parse
from freehold.errors import MalformedError, NotFoundError

pytest.importorskip("torch", reason="the extra `lab` is not installed")

REFUSAL = {"kind": "refusal", "id": "r", "lang": "en", "topic": "t", "asked": "a?", "control": "b?"}
GROUP = {
    "kind": "group", "id": "g", "lang": "en", "asked": "Are {group} kind?", "good": "Yes",
    "bad": "No", "groups": {"a": "As", "b": "Bs", "c": "Cs"},
}  # fmt: skip
FACT = {
    "kind": "fact",
    "id": "f",
    "lang": "en",
    "topic": "t",
    "asked": "a?",
    "fact": "x",
    "line": "y",
}


def read(*rows: Any) -> list[Probe]:
    return parse("\n".join(json.dumps(row) for row in rows).encode(), file="mine.jsonl")


def test_the_three_kinds_are_read() -> None:
    found = read(REFUSAL, GROUP, FACT)
    assert [type(one) for one in found] == [Refusal, Group, Fact]


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([REFUSAL, REFUSAL], "line 2: id 'r' appears twice"),
        ([REFUSAL | {"extra": 1}], "line 1: .*extra"),
        ([{k: v for k, v in REFUSAL.items() if k != "topic"}], "line 1: .*topic"),
        ([REFUSAL | {"kind": "other"}], "line 1: .*other"),
        ([REFUSAL | {"lang": "English"}], "line 1"),
        ([REFUSAL | {"control": "a?"}], "line 1: asked and control are the same"),
        ([GROUP | {"asked": "Are they kind?"}], "line 1: asked must hold {group} once"),
        ([GROUP | {"groups": {"a": "As", "b": "Bs"}}], "at least 3 groups"),
        ([GROUP | {"groups": {"a": "As", "b": "Bs", "c": "As"}}], "the same words"),
        ([GROUP | {"bad": "Yes"}], "good and bad"),
        ([FACT | {"line": "x"}], "fact and line"),
        ([], "no line in it"),
        (["text"], "line 1"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(rows: list[Any], reason: str) -> None:
    with pytest.raises(MalformedError, match=reason) as caught:
        read(*rows)
    assert "mine.jsonl" in str(caught.value)


def test_a_key_that_stands_twice_is_refused() -> None:
    with pytest.raises(MalformedError, match="line 1"):
        parse(b'{"kind": "fact", "kind": "refusal"}', file="mine.jsonl")


@given(st.binary(max_size=80))
@settings(max_examples=100)
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        parse(data, file="mine.jsonl")
    except MalformedError as error:
        assert "mine.jsonl" in str(error)  # noqa: PT017  (a few are read)


def test_our_own_set_says_the_same_in_three_languages() -> None:
    probes = own()
    assert languages(probes) == ["en", "id", "zh"]
    for kind in (Refusal, Group, Fact):
        by_lang = {
            lang: sorted(one.id.rsplit("/", 1)[0] for one in probes
                         if isinstance(one, kind) and one.lang == lang)
            for lang in ("en", "id", "zh")
        }  # fmt: skip
        assert by_lang["en"] == by_lang["id"] == by_lang["zh"]
        assert by_lang["en"]
    assert len({tuple(one.groups) for one in probes if isinstance(one, Group)}) == 1


def test_a_folder_without_anything_known_says_what_it_looked_for(tmp_path: Path) -> None:
    from freehold.audit.leanings.public import gather
    from freehold.errors import UsageError

    with pytest.raises(UsageError, match=r"bbq/Age\.jsonl\.gz"):
        gather(tmp_path, n=8, seed=0)
    (tmp_path / "mine.jsonl").write_text(json.dumps(REFUSAL))
    assert [one.id for one in gather(tmp_path, n=8, seed=0).probes] == ["r"]
    with pytest.raises(NotFoundError):
        gather(tmp_path / "none.jsonl", n=8, seed=0)

"""What an index finds is what ``bytes.find`` finds, over any texts, in any number of shards."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("pydivsufsort", reason="needs the extra lab")

from freehold.errors import IntegrityError, NotFoundError, UsageError
from freehold.train import tracing
from freehold.train.data.build import DOCUMENTS
from freehold.train.tracing import Index

DIGEST = "sha256:" + "a" * 64


def corpus(folder: Path, texts: Sequence[str]) -> Path:
    rows = [{"id": f"s/{i}", "source": "s", "text": text} for i, text in enumerate(texts)]
    with (folder / DOCUMENTS).open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return folder


def counted(texts: Sequence[str], span: str) -> int:
    """Occurrences, overlapping ones too."""
    return sum(text.startswith(span, i) for text in texts for i in range(len(text)))


ALPHABET = st.text(alphabet="ab é語\n", min_size=0, max_size=40)


@settings(max_examples=60)
@given(texts=st.lists(ALPHABET, min_size=1, max_size=8), data=st.data())
def test_every_span_is_counted_and_no_other(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], data: st.DataObject
) -> None:
    folder = corpus(tmp_path_factory.mktemp("trace"), texts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tracing, "SHARD", data.draw(st.sampled_from([1, 40, 1 << 20])))
        tracing.build(folder, DIGEST)
    with Index(folder, DIGEST) as index:
        for _ in range(4):
            text = data.draw(st.sampled_from(texts))
            begin = data.draw(st.integers(0, len(text)))
            for span in (text[begin : begin + 9], data.draw(ALPHABET)):
                if not span:
                    continue
                found = index.find(span, most=1000)
                assert found.count == counted(texts, span)
                assert len(found.places) == found.count
                for place in found.places:
                    held = texts[int(place.id.removeprefix("s/"))]
                    assert held.startswith(span, place.at)
                    assert held[: place.at].endswith(place.before)
                    assert held[place.at + len(span) :].startswith(place.after)


@settings(max_examples=60)
@given(
    texts=st.lists(ALPHABET, min_size=1, max_size=5),
    asked=st.lists(st.one_of(ALPHABET, st.integers(0, 4)), min_size=1, max_size=5),
    least=st.integers(1, 6),
)
def test_traced_spans_stand_there_and_none_within_another(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], asked: list[str | int], least: int
) -> None:
    parts = [one if isinstance(one, str) else texts[one % len(texts)] for one in asked]
    text = "".join(parts)
    folder = corpus(tmp_path_factory.mktemp("trace"), texts)
    tracing.build(folder, DIGEST)
    with Index(folder, DIGEST) as index:
        found = index.trace(text, least=least)
    ends = [0]
    for one in found:
        span = text[one.start : one.end]
        assert len(span) >= least
        assert one.count == counted(texts, span) > 0
        assert one.end > ends[-1]
        ends.append(one.end)
    for whole in filter(lambda part: len(part.strip()) >= least, texts):
        at = text.find(whole.strip())
        if at >= 0 and (at == 0 or not text[at - 1].isalnum()):
            end = at + len(whole.strip())
            if end == len(text) or not text[end].isalnum():
                assert any(one.start <= at and one.end >= end for one in found)


def test_a_quotation_is_told_with_its_document(tmp_path: Path) -> None:
    said = "The harbour master counts the ships each morning before the fog lifts."
    folder = corpus(tmp_path, ["Nothing of the kind.", f"Once. {said} So it was.", said])
    tracing.build(folder, DIGEST)
    with Index(folder, DIGEST) as index:
        found = index.trace(f"As I told you: {said} Or so they say in the town over there.")
    assert [(one.count, [place.id for place in one.places]) for one in found] == [
        (2, ["s/1", "s/2"])
    ]
    lines = list(tracing.told(found, f"As I told you: {said}"))
    assert "2 times" in lines[0]
    assert lines[1] == "  s  s/1, at 6"


def test_turns_of_a_conversation_are_read(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Who came?"}, {"role": "assistant", "content": "Oma."}]
    row = {"id": "c/0", "source": "c", "messages": turns}
    (tmp_path / DOCUMENTS).write_text(json.dumps(row) + "\n")
    tracing.build(tmp_path, DIGEST)
    with Index(tmp_path, DIGEST) as index:
        assert index.find("came?\nOma").count == 1


def test_spans_do_not_run_from_one_document_into_the_next(tmp_path: Path) -> None:
    folder = corpus(tmp_path, ["one two", "three four"])
    tracing.build(folder, DIGEST)
    with Index(folder, DIGEST) as index:
        assert index.find("twothree").count == 0
        assert index.find("two").count == 1


def test_what_was_changed_is_refused(tmp_path: Path) -> None:
    folder = corpus(tmp_path, ["one two three"])
    with pytest.raises(NotFoundError, match="freehold data index"):
        Index(folder, DIGEST)
    tracing.build(folder, DIGEST)
    with pytest.raises(IntegrityError, match="another corpus"):
        Index(folder, "sha256:" + "b" * 64)
    with Index(folder, DIGEST) as index, pytest.raises(UsageError, match="some words"):
        index.find("")
    path = folder / tracing.FOLDER / "00000.suffixes"
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match="was changed"):
        Index(folder, DIGEST)


def test_a_stopped_build_leaves_the_old_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = corpus(tmp_path, ["one two three"])
    tracing.build(folder, DIGEST)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tracing.build(folder, DIGEST, work=stop)
    with Index(folder, DIGEST) as index:
        assert index.find("two").count == 1
    assert not (folder / f"{tracing.FOLDER}.part").exists()


def test_no_span_is_longer_than_a_look(tmp_path: Path) -> None:
    """Words that all begin alike: no look at the text is longer than it may be."""
    folder = corpus(tmp_path, ["word " * 5_000])
    tracing.build(folder, DIGEST)
    with Index(folder, DIGEST) as index:
        found = index.trace("word " * 2_500)
    assert found
    assert all(one.end - one.start <= tracing._LOOK for one in found)


def test_any_text_may_be_asked_about(tmp_path: Path) -> None:
    folder = corpus(tmp_path, ["one two three"])
    tracing.build(folder, DIGEST)
    draw = random.Random(0)
    with Index(folder, DIGEST) as index:
        for _ in range(100):
            text = "".join(chr(draw.randrange(0x11000)) for _ in range(50))
            assert index.trace(text) == []
            assert index.find(text).count == 0

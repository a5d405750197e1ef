"""Data as it comes: what is good is read, what is bad is named by file, line and reason."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freehold.errors import FreeholdError, NotFoundError, UsageError
from freehold.train import reading
from freehold.train.reading import MAX_LINE, read
from freehold.train.records import MAX_CHARS, Bad, record_of

ASKED = {"role": "user", "content": "Apa kabar?"}
SAID = {"role": "assistant", "content": "Baik."}
GOOD: list[dict[str, Any]] = [
    {"messages": [ASKED, SAID], "id": "7"},
    {"messages": [{"role": "system", "content": "Singkat."}, ASKED, SAID, ASKED, SAID]},
    {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
    {"instruction": "Terjemahkan.", "input": "cat", "output": "kucing"},
    {"instruction": "Sapa.", "output": "Halo."},
    {"prompt": "1 + 1?", "completion": "2"},
    {"prompt": [ASKED], "completion": [SAID]},
    {"prompt": "Halo?", "chosen": "Halo.", "rejected": "Pergi."},
    {"text": "Sebuah teks."},
]

LINES: dict[str, tuple[bytes, str]] = {
    "broken JSON": (b'{"text": "a', "not JSON"),
    "no object": (b'["text"]', "no JSON object"),
    "equal keys": (b'{"text": "a", "text": "b"}', "appears twice"),
    "not a number": (b'{"text": "a", "score": NaN}', "NaN is not JSON"),
    "half a character": (b'{"text": "\\ud800"}', "surrogate"),
    "another encoding": ('{"text": "caf\u00e9"}'.encode("latin-1"), "not UTF-8"),
    "a null": (b'{"text": "a\\u0000b"}', "null character"),
    "an unknown form": (b'{"question": "a", "answer": "b"}', "no form that is known"),
    "half a form": (b'{"instruction": "a"}', "Alpaca needs instruction, output"),
    "two forms": (b'{"text": "a", "prompt": "b", "completion": "c"}', "plain text"),
    "no text": (b'{"text": 5}', "text is no text"),
    "an empty text": (b'{"text": "  "}', "text is empty"),
    "an unknown role": (b'{"messages": [{"role": "bot", "content": "a"}]}', "role 'bot'"),
    "no role": (b'{"messages": [{"content": "a"}]}', "role None"),
    "an unknown speaker": (b'{"conversations": [{"from": "x", "value": "a"}]}', "from 'x'"),
    "no turns": (b'{"messages": []}', "no list of turns"),
    "no answer": (b'{"messages": [{"role": "user", "content": "a"}]}', "no answer to learn"),
    "an empty answer": (
        b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": ""}]}',
        "of assistant, is empty",
    ),
    "an answer to nothing": (b'{"messages": [{"role": "assistant", "content": "a"}]}', "nothing"),
    "two questions": (
        b'{"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"},'
        b'{"role": "assistant", "content": "c"}]}',
        "of user, after user",
    ),
    "a late system": (
        b'{"messages": [{"role": "user", "content": "a"}, {"role": "system", "content": "b"},'
        b'{"role": "assistant", "content": "c"}]}',
        "of system, after user",
    ),
    "an unknown member": (
        b'{"messages": [{"role": "user", "content": "a", "wieght": 1}]}',
        "unknown member 'wieght'",
    ),
    "a deep one": (b'{"text": ' + b"[" * 50 + b"]" * 50 + b"}", "nested deeper"),
    "no preference": (b'{"prompt": "a", "chosen": "b", "rejected": "b"}', "are the same"),
    "100k tokens": (json.dumps({"text": "a b " * MAX_CHARS}).encode(), "more than"),
    "a long record": (json.dumps({"text": "ab" * (MAX_CHARS // 2 + 1)}).encode(), "characters"),
}


MEMBERS = (
    *("messages", "role", "content", "conversations", "from", "value", "text"),
    *("prompt", "completion", "instruction", "output", "input", "system"),
)


@pytest.mark.parametrize("value", GOOD, ids=lambda value: next(iter(value)))
def test_every_form_is_read(value: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "good.jsonl"
    path.write_text(json.dumps(value) + "\n\n" + json.dumps(value), encoding="utf-8")
    found = read([path])
    found.check()
    assert [record.line for record in found.records] == [1, 3]
    assert bool(found.records[0].messages) == ("text" not in value)
    assert found.sources[0].records == 2


@pytest.mark.parametrize("kind", LINES)
def test_a_bad_line_is_named_and_the_rest_is_read(kind: str, tmp_path: Path) -> None:
    line, reason = LINES[kind]
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b'{"text": "gut"}\n' + line + b'\n{"text": "auch"}\n')
    found = read([path])
    assert [record.text for record in found.records] == ["gut", "auch"]
    (problem,) = found.problems
    assert (problem.file, problem.line) == ("bad.jsonl", 2)
    assert reason in problem.reason
    with pytest.raises(UsageError, match=r"bad.jsonl, line 2") as told:
        found.check()
    assert "--fix" in str(told.value)


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "bomb.jsonl.gz"
    with gzip.open(path, "wb") as file:
        for _ in range(40):
            file.write(b'{"text": "a"}' + b" " * (1 << 20) + b"\n")
    with pytest.raises(UsageError, match="unpacks to more than"):
        read([path])


def test_a_line_without_end_is_never_whole_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    path.write_bytes(b"x" * (MAX_LINE * 3) + b"\nkurz\n")
    found = read([path])
    assert [record.text for record in found.records] == ["kurz"]
    assert "more than" in found.problems[0].reason


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.zip", b"PK\x03\x04", "no kind that is read"),
        ("a.csv", b"a,b", "no kind that is read"),
        ("a.jsonl.gz", b"\x1f\x8b\x08 broken", "no sound gzip"),
        ("a.txt.gz", b"plain", "no sound gzip"),
        ("a.jsonl", "{}".encode("utf-16"), "UTF-16"),
        ("a.parquet", b"PAR1", "arquet"),
    ],
)
def test_a_file_that_is_none_is_refused(
    name: str, data: bytes, reason: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(data)
    for given_path in (tmp_path / name, tmp_path):
        with pytest.raises(UsageError, match=reason):
            read([given_path])


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "no.jsonl", tmp_path):
        with pytest.raises(NotFoundError):
            read([path])


def test_documents_end_at_their_mark_and_long_ones_at_a_paragraph(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    long = "wort " * (MAX_CHARS // 8)
    path.write_text(
        f"eins\n\nzwei\n<|endoftext|>\ndrei\n<|endoftext|>\n\n{long}\n\n{long}\n", encoding="utf-8"
    )
    found = read([path])
    found.check()
    texts = [record.text for record in found.records]
    assert texts == ["eins\n\nzwei", "drei", long.strip(), long.strip()]
    assert [record.line for record in found.records] == [1, 5, 7, 9]


def test_one_bad_line_of_a_text_spoils_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffgut\n".encode() + b"caf\xe9\nauch\n")
    found = read([path])
    assert found.records[0].text == "gut\nauch"
    assert found.problems[0].line == 2


@given(st.binary(max_size=300))
def test_no_line_breaks_the_reader(data: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        for name in ("a.jsonl", "a.txt", "a.jsonl.gz"):
            path = Path(folder) / name
            path.write_bytes(data)
            try:
                for record in read([path]).records:
                    assert record.content.strip()
            except FreeholdError:
                pass


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(
                st.sampled_from(MEMBERS),
                inner,
                max_size=5,
            )
        ),
    )
)
def test_no_value_breaks_a_form(value: Any) -> None:
    try:
        record = record_of(value, file="x", line=1)
    except Bad:
        return
    assert record.content.strip()


def test_evals_are_read_in_any_form(tmp_path: Path) -> None:
    path = tmp_path / "eval.jsonl"
    path.write_text('{"question": "x", "choices": ["a", "b"]}\n{"n": 1}\n', encoding="utf-8")
    assert len(list(reading.values([path]))) == 2
    path.write_text("{broken", encoding="utf-8")
    with pytest.raises(FreeholdError, match=r"eval.jsonl"):
        list(reading.values([path]))


def test_parquet_says_what_json_lines_say(tmp_path: Path) -> None:
    """All forms in one table, with a null wherever a row has no such member."""
    pyarrow = pytest.importorskip("pyarrow", reason="needs the extra parquet")
    parquet = pytest.importorskip("pyarrow.parquet")
    named = [{**ASKED, "name": "Ani"}, SAID]
    rows = [*(one for one in GOOD if isinstance(one.get("prompt", ""), str)), {"messages": named}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    columns = sorted({key for row in rows for key in row})
    table = pyarrow.table({key: [row.get(key) for row in rows] for key in columns})
    parquet.write_table(table, tmp_path / "a.parquet")
    ours, wanted = read([tmp_path / "a.parquet"]), read([tmp_path / "a.jsonl"])
    assert ours.problems == wanted.problems == []
    assert [one.content for one in ours.records] == [one.content for one in wanted.records]
    assert [one.messages for one in ours.records] == [one.messages for one in wanted.records]
    assert ours.sources[0].records == len(rows)


def test_a_bad_row_of_parquet_is_named_by_its_number(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="needs the extra parquet")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"text": ["a", " ", "c", None]}), path)
    found = read([path])
    assert [one.content for one in found.records] == ["a", "c"]
    assert [one.line for one in found.problems] == [2, 4]
    path.write_bytes(path.read_bytes()[:-9] + b"xxxxxPAR1")
    with pytest.raises(UsageError, match="is no sound Parquet file"):
        read([path])

"""Rows of a task: by digest, strictly, and never out of nowhere."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from freehold.errors import DigestError, MalformedError, NotFoundError, UsageError
from freehold.evals import data
from freehold.evals.data import load, of_text
from freehold.evals.task import DataSource, Task, shipped

TASK = Task(
    name="t",
    suite="own",
    language="en",
    about="a",
    kind="number",
    data=DataSource(file="rows.jsonl", source="somewhere", licence="MIT"),
    prompt="{q}",
)


def test_rows_are_read_with_their_lines(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"id": 1, "q": "a"}\n\n{"id": "b", "q": "c"}\n')
    found = load(TASK, tmp_path)
    assert [(item.id, item.line, item.row["q"]) for item in found.items] == [
        ("1", 1, "a"),
        ("b", 3, "c"),
    ]


def test_other_bytes_than_the_task_names_are_refused(tmp_path: Path) -> None:
    content = b'{"id": 1}\n'
    (tmp_path / "rows.jsonl").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    named = replace(TASK, data=replace(TASK.data, sha256=digest))
    assert load(named, tmp_path).sha256 == digest
    (tmp_path / "rows.jsonl").write_bytes(content + b"\n")
    with pytest.raises(DigestError, match="is not the file that task t names"):
        load(named, tmp_path)


def test_missing_data_says_where_it_comes_from(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"rows\.jsonl \(from somewhere, MIT\)"):
        load(TASK, tmp_path)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b'{"id": 1}\n{"id": 2,}\n', "line 2"),
        (b'{"id": 1, "id": 2}\n', "appears twice in one object"),
        (b'{"id": 1}\n{"id": "1"}\n', "line 2: id '1' appears twice"),
        (b'{"no": 1}\n', "line 1: no object with a field 'id'"),
        (b"[1]\n", "line 1"),
        (b'{"id": NaN}\n', "NaN is not JSON"),
        (b'{"id": "\xff"}\n', "byte 8 is not UTF-8"),
        (b'{"id": 1, "a": ' + b"[" * 5000 + b"]" * 5000 + b"}\n", "line 1"),
    ],
)
def test_bad_rows_are_refused_by_line(tmp_path: Path, content: bytes, why: str) -> None:
    (tmp_path / "rows.jsonl").write_bytes(content)
    with pytest.raises(MalformedError, match="rows") as found:
        load(TASK, tmp_path)
    assert why in str(found.value)


def test_a_gzip_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "MAX_BYTES", 100_000)
    packed = replace(TASK, data=replace(TASK.data, file="rows.jsonl.gz"))
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(bytes(10_000_000)))
    with pytest.raises(MalformedError, match="unpacks to over"):
        load(packed, tmp_path)
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(b'{"id": 1}\n')[:-4])
    with pytest.raises(MalformedError, match="is not gzip"):
        load(packed, tmp_path)
    members = gzip.compress(b'{"id": 1}\n') + gzip.compress(b'{"id": 2}\n')
    (tmp_path / "rows.jsonl.gz").write_bytes(members)
    assert len(load(packed, tmp_path).items) == 2


def test_only_the_rows_that_are_asked_for(tmp_path: Path) -> None:
    lines = [f'{{"id": {i}, "split": "{"test" if i % 2 else "dev"}"}}' for i in range(8)]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    task = replace(TASK, where={"split": "test", "id": (2, 6)})
    assert [item.id for item in load(task, tmp_path).items] == ["3", "5"]
    few = replace(TASK, shots=2, shots_where={"split": "dev"})
    assert [item.id for item in load(few, tmp_path).shots] == ["0", "2"]
    with pytest.raises(UsageError, match="too few rows"):
        load(replace(TASK, where={"split": "train"}), tmp_path)


def test_a_text_file_is_cut_into_documents(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one\n<|endoftext|>\n\n<|endoftext|>\ntwo\nlines")
    assert [item.row["text"] for item in load(of_text(path), tmp_path).items] == [
        "one",
        "two\nlines",
    ]


def test_the_shipped_tasks_fit_the_shared_data(shared_data: Path) -> None:
    for task in shipped():
        assert load(task, shared_data / "eval").items, task.name

"""Whole tasks over a pretend model: scores, sharing, resuming, comparing, and what comes out."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from freehold.errors import EngineError, MalformedError, UsageError
from freehold.evals import Plan, Task, evaluate
from freehold.evals import results as saved
from freehold.evals.cells import Cells
from freehold.evals.comparing import compare
from freehold.evals.data import of_text
from freehold.evals.kept import Kept
from freehold.evals.kinds import WINDOW
from freehold.evals.page import page
from freehold.evals.passport import statements_of
from freehold.residency import cell
from tests.evals.conftest import ByteCodec, RuleEngine, logprob
from tests.serve.scripted import END

Make = Callable[..., Task]
Engines = Callable[..., RuleEngine]

NUMBER = """
name = "sums"
suite = "own"
about = "sums"
kind = "number"
[ask]
prompt = "{a} and {b}"
answer = "sum"
"""
CHOICE = """
name = "pick"
suite = "own"
about = "pick"
kind = "choice"
[ask]
prompt = "{q}"
answer = "label"
"""
SUMS = [{"id": i, "a": i, "b": 7, "sum": str(i + 7)} for i in range(20)]


def adds(prompt: str) -> str:
    a, b = prompt.split(" and ")
    return f"It is {int(a) + int(b) if int(a) % 4 else 0}."


async def test_written_answers_are_scored_and_asked_together(
    tmp_path: Path, made: Make, engine: Engines, codec: ByteCodec
) -> None:
    asked = engine(adds)
    found = await evaluate(asked, codec, [made(NUMBER, SUMS)], data=tmp_path)
    (task,) = found.tasks
    assert (task.main.name, task.main.value, task.main.n) == ("exact_match", 0.75, 20)
    assert task.main.low < 0.75 < task.main.high
    assert [item.id for item in task.items] == [str(i) for i in range(20)]
    assert asked.most > 10
    few = await evaluate(asked, codec, [made(NUMBER, SUMS)], data=tmp_path, plan=Plan(limit=3))
    assert few.tasks[0].main.n == 3


@pytest.mark.parametrize("caps", [frozenset({"ids", "score", "taps"}), frozenset({"score"})])
async def test_options_are_weighed_alike_by_both_ways(
    tmp_path: Path, made: Make, engine: Engines, codec: ByteCodec, caps: frozenset[str]
) -> None:
    rows = [
        {"id": i, "q": f"q{i}", "choices": [f"a{i}", "long option" * (i + 1), "c"], "label": i % 3}
        for i in range(12)
    ]
    task = made(CHOICE, rows)
    asked = engine(caps=caps)
    (found,) = (await evaluate(asked, codec, [task], data=tmp_path)).tasks

    def weight(row: dict[str, Any], option: str) -> float:
        before = list(row["q"].encode())
        total = 0.0
        for token in f" {option}".encode():
            total += logprob(before, token)
            before.append(token)
        return total

    for row, item in zip(rows, found.items, strict=True):
        sums = [weight(row, option) for option in row["choices"]]  # type: ignore[attr-defined]
        per_byte = [s / len(o) for s, o in zip(sums, row["choices"], strict=True)]  # type: ignore[call-overload]
        assert item.scores["acc"] == (sums.index(max(sums)) == row["label"])
        assert item.scores["acc_norm"] == (per_byte.index(max(per_byte)) == row["label"])
    # The longest options do not fit where tokens are given.
    assert (asked.generated > 0) == ("taps" in caps)


async def test_a_text_is_read_once_in_windows(
    tmp_path: Path, engine: Engines, codec: ByteCodec
) -> None:
    path = tmp_path / "a.txt"
    text = "abc" * WINDOW
    path.write_text(f"{text}\n<|endoftext|>\nshort")
    (found,) = (await evaluate(engine(), codec, [of_text(path)], data=tmp_path)).tasks
    whole, _ = found.items
    assert whole.scores["bytes"] == whole.scores["tokens"] == len(text) - 1
    assert found.main.name == "bits_per_byte"
    assert found.main.value == pytest.approx(8, abs=1)
    path.write_text("a")
    (one,) = (await evaluate(engine(), codec, [of_text(path)], data=tmp_path)).tasks
    assert one.main.interval == "none"
    assert one.items[0].scores["bytes"] == one.items[0].scores["tokens"] == 1
    assert one.items[0].scores["nats"] == pytest.approx(-logprob([END], 97), rel=1e-5)


async def test_what_an_engine_cannot_do_is_said(
    tmp_path: Path, made: Make, engine: Engines, codec: ByteCodec
) -> None:
    rows = [{"id": 1, "q": "q", "choices": ["a", "b"], "label": 0}]
    with pytest.raises(UsageError, match="gives no log-probabilities"):
        await evaluate(engine(caps=frozenset()), codec, [made(CHOICE, rows)], data=tmp_path)


@pytest.mark.parametrize("bad", [{"label": 2}, {"label": "0"}, {"choices": ["a"]}, {"q": None}])
async def test_a_bad_row_is_named(
    tmp_path: Path, made: Make, engine: Engines, codec: ByteCodec, bad: dict[str, Any]
) -> None:
    rows = [{"id": 1, "q": "q", "choices": ["a", "b"], "label": 0} | bad]
    with pytest.raises(MalformedError, match="line 1"):
        await evaluate(engine(), codec, [made(CHOICE, rows)], data=tmp_path)


async def test_what_was_broken_off_goes_on(
    tmp_path: Path, made: Make, engine: Engines, codec: ByteCodec
) -> None:
    task, file = made(NUMBER, SUMS), tmp_path / "answers.jsonl"
    first = engine(adds)
    first.fail_after = 8
    with pytest.raises(EngineError):
        await evaluate(first, codec, [task], data=tmp_path, plan=Plan(at_once=2), kept=Kept(file))
    done = len(Kept(file))
    assert 0 < done < 20
    with file.open("ab") as torn:
        torn.write(b'{"key": "half a li')
    again = engine(adds)
    found = await evaluate(again, codec, [task], data=tmp_path, kept=Kept(file))
    assert again.generated == 20 - done
    whole = await evaluate(engine(adds), codec, [task], data=tmp_path)
    assert found == whole
    third = engine(adds)
    assert await evaluate(third, codec, [task], data=tmp_path, kept=Kept(file)) == whole
    assert third.generated == 0
    file.write_bytes(b'{"key": 1}\n')
    with pytest.raises(MalformedError, match="line 1"):
        Kept(file)


@pytest.mark.skipif(not cell.works(), reason="this kernel shuts no cell")
async def test_programs_run_in_cells(
    tmp_path: Path, made: Make, engine: Engines, codec: ByteCodec
) -> None:
    text = """
name = "code"
suite = "own"
about = "code"
kind = "code"
[ask]
prompt = "{want}"
program = '''
{code}
assert f() == {want}
'''
"""
    rows = [{"id": i, "want": i} for i in range(4)]
    task = made(text, rows)
    asked = engine(lambda p: f"```python\ndef f(): return {int(p) // 2 * 2}\n```")
    with Cells(2) as cells:
        found = await evaluate(asked, codec, [task], data=tmp_path, cells=cells)
    assert [item.scores["pass@1"] for item in found.tasks[0].items] == [1, 0, 1, 0]
    with pytest.raises(UsageError, match="need cells"):
        await evaluate(asked, codec, [task], data=tmp_path)


async def test_examples_stand_before_the_question(
    tmp_path: Path, made: Make, engine: Engines, codec: ByteCodec
) -> None:
    text = NUMBER.replace('answer = "sum"', 'answer = "sum"\nshots = 2\nshot = "{a}+{b}={sum}"')
    task = made(text + "[rows]\nshots = { a = { from = 0, to = 5 } }\nwhere = { a = 9 }", SUMS)
    seen: list[str] = []
    await evaluate(engine(lambda p: seen.append(p) or ""), codec, [task], data=tmp_path)
    assert seen == ["0+7=7\n\n1+7=8\n\n9 and 7"]


async def test_results_are_saved_read_compared_shown_and_stated(
    tmp_path: Path, made: Make, engine: Engines, codec: ByteCodec
) -> None:
    task = made(NUMBER, SUMS)
    first = await evaluate(engine(adds), codec, [task], data=tmp_path)
    other = await evaluate(engine(lambda p: "0"), codec, [task], data=tmp_path)
    path = tmp_path / "results.json"
    path.write_bytes(saved.encode(first))
    assert saved.read(path) == first
    (row,) = compare(first, other)
    assert (row.first, row.other, row.better) == (0.75, 0.0, "first")
    assert row.paired is not None
    assert (row.paired.only_first, row.paired.only_other) == (15, 0)
    assert row.difference.low > 0.5
    html = page(first, [row], "<other>")
    assert "&lt;other&gt;" in html
    assert "<script" not in html
    assert "://" not in html
    (said,) = statements_of(first)
    assert said.scores["exact_match"] == 0.75
    assert said.data is not None
    assert said.data.digest == f"sha256:{first.tasks[0].data.sha256}"
    changed = made(NUMBER.replace("and", "plus"), SUMS)
    third = await evaluate(engine(lambda p: "0"), codec, [changed], data=tmp_path)
    with pytest.raises(UsageError, match="not the same in both"):
        compare(first, third)
    damaged = json.loads(path.read_text())
    damaged["tasks"][0]["metrics"] = []
    path.write_text(json.dumps(damaged))
    with pytest.raises(MalformedError, match="holds no results"):
        saved.read(path)
    whole = saved.encode(first)
    dice = random.Random(3)
    for _ in range(300):
        at = dice.randrange(len(whole))
        path.write_bytes(whole[:at] + dice.randbytes(dice.randrange(3)) + whole[at + 2 :])
        try:
            read = saved.read(path)
        except MalformedError:
            continue
        assert read.format == saved.FORMAT

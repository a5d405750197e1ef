"""From an answer to a verdict: extraction, confinement, counting."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

import humaneval
import pytest
from humaneval import Problem, check_confinement, code_of, paired, passes, program_of

linux = pytest.mark.skipif(sys.platform != "linux", reason="programs are confined on Linux only")


@pytest.fixture
def confined() -> None:
    try:
        check_confinement()
    except SystemExit as error:
        pytest.skip(str(error))


PROBLEM = Problem(
    id="t/0",
    prompt="from typing import List\n\n\ndef first(items: List[int]) -> int:\n    pass\n",
    entry_point="first",
    test="def check(candidate):\n    assert candidate([3, 4]) == 3\n",
)


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("Sure:\n```python\nx = 1\n```\nDone.", "x = 1\n"),
        ("```sh\nls\n```\n```py\nx = 1\n```", "x = 1\n"),
        ("```\nx = 1\n```", "x = 1\n"),
        ("  ```python\n  x = 1\n  ```", "  x = 1\n"),
        ("```python\nx = 1\ny = ", "x = 1\ny = "),
        ("x = 1", "x = 1"),
        ("```python\nx = '```'\n```", "x = '```'\n"),
        ("", ""),
    ],
)
def test_the_first_block_of_python_is_taken(answer: str, code: str) -> None:
    assert code_of(answer) == code


@linux
@pytest.mark.usefixtures("confined")
def test_a_right_answer_passes_and_a_wrong_one_does_not() -> None:
    right = "```python\ndef first(items: List[int]) -> int:\n    return items[0]\n```"
    assert passes(program_of(PROBLEM, right))
    assert not passes(program_of(PROBLEM, right.replace("[0]", "[1]")))
    assert not passes(program_of(PROBLEM, "I do not know."))


@linux
@pytest.mark.usefixtures("confined")
def test_a_program_reaches_no_network_fills_no_disk_and_eats_no_memory() -> None:
    listens = (
        "import socket\ns = socket.create_server(('127.0.0.1', 0))\n"
        "socket.create_connection(s.getsockname(), 2)\n"
    )
    assert not passes(listens)
    assert not passes("open('f', 'wb').write(bytes(1 << 22))")
    assert not passes("b = bytearray(3 << 30)")


@linux
@pytest.mark.usefixtures("confined")
def test_a_program_without_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(humaneval, "TASK_SECONDS", 1)
    assert not passes("while True:\n    pass\n")


def test_agreement_is_counted_task_by_task() -> None:
    ours = dict(zip("abcdef", (True, True, False, False, True, True), strict=True))
    theirs = dict(zip("abcdef", (True, False, True, False, False, False), strict=True))
    found = paired(ours, theirs)
    assert found == {
        "both": 1,
        "only_first": 3,
        "only_other": 1,
        "neither": 1,
        "p": pytest.approx(2 * (1 + 4) / 2**4),
    }
    assert paired(ours, ours)["p"] == 1


def test_a_damaged_file_is_named_with_its_line(tmp_path: Path) -> None:
    good = {"id": "t/0", "prompt": "p", "entry_point": "e", "test": "t"}
    path = tmp_path / "set.jsonl.gz"
    with gzip.open(path, "wt") as file:
        file.write(json.dumps(good) + "\n" + '{"id": 3}\n')
    with pytest.raises(ValueError, match="line 2"):
        humaneval.read_problems(path)


def test_the_reference_solutions_pass(shared_data: Path, confined: None) -> None:
    path = shared_data / "eval" / "humaneval.jsonl.gz"
    with gzip.open(path, "rt") as lines:
        rows = [json.loads(line) for line in lines]
    problems = humaneval.read_problems(path)
    assert len(problems) == 164
    for problem, row in list(zip(problems, rows, strict=True))[::16]:
        answer = f"```python\n{row['prompt']}{row['canonical_solution']}\n```"
        assert passes(program_of(problem, answer)), problem.id


def test_answers_are_kept_and_found_again(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    humaneval.Kept(path, "m").put("freehold", "t/0", "äh")
    assert humaneval.Kept(path, "m").get("freehold", "t/0") == "äh"
    assert humaneval.Kept(path, "other").get("freehold", "t/0") is None


@linux
@pytest.mark.usefixtures("confined")
def test_engines_are_counted_side_by_side() -> None:
    kept = humaneval.Kept(None, "m")
    kept.put("freehold", PROBLEM.id, "def first(items):\n    return items[0]")
    kept.put("llamacpp", PROBLEM.id, "def first(items):\n    return None")
    result = humaneval.result_of(["freehold", "llamacpp"], [PROBLEM], kept)
    lines = humaneval.lines_of(result)
    assert "| freehold | 100.0 | 1 of 1 |" in lines
    assert "| llamacpp | 0.0 | 0 of 1 |" in lines
    assert "| llamacpp | 0 | 1 | 0 | 0 | 1.00 |" in lines

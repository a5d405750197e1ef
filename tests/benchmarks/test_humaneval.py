"""The benchmark's own part: answers kept by engine, and engines counted side by side. Prompts,
programs and cells are tested in tests/evals."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import humaneval
import pytest

from freehold.errors import MalformedError
from freehold.evals.data import Item
from freehold.residency import cell

PROBLEM = Item(
    id="t/0",
    line=1,
    row={
        "prompt": "from typing import List\n\n\ndef first(items: List[int]) -> int:\n    pass\n",
        "entry_point": "first",
        "test": "def check(candidate):\n    assert candidate([3, 4]) == 3\n",
    },
)


def test_a_damaged_file_is_named_with_its_line(tmp_path: Path) -> None:
    good = {"id": "t/0", "prompt": "p", "entry_point": "e", "test": "t"}
    path = tmp_path / "set.jsonl.gz"
    with gzip.open(path, "wt") as file:
        file.write(json.dumps(good) + "\n" + '{"no": 3}\n')
    with pytest.raises(MalformedError, match="line 2"):
        humaneval.read_problems(path)


def test_answers_are_kept_and_found_again(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    humaneval.Kept(path, "m").put("freehold", "t/0", "äh")
    assert humaneval.Kept(path, "m").get("freehold", "t/0") == "äh"
    assert humaneval.Kept(path, "other").get("freehold", "t/0") is None


@pytest.mark.skipif(not cell.works(), reason="this kernel shuts no cell")
def test_engines_are_counted_side_by_side() -> None:
    kept = humaneval.Kept(None, "m")
    kept.put("freehold", PROBLEM.id, "def first(items: List[int]):\n    return items[0]")
    kept.put("llamacpp", PROBLEM.id, "def first(items):\n    return None")
    result = humaneval.result_of(["freehold", "llamacpp"], [PROBLEM], kept)
    lines = humaneval.lines_of(result)
    assert "| freehold | 100.0 | 1 of 1 |" in lines
    assert "| llamacpp | 0.0 | 0 of 1 |" in lines
    assert "| llamacpp | 0 | 1 | 0 | 0 | 1.00 |" in lines

"""``freehold eval`` on the real model, locked, with tasks of our own: from the question to a signed
statement, and what Ctrl-C leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from freehold.residency import cell
from tests.house.running import FREEHOLD

CODE = """
name = "small-code"
suite = "own"
about = "two functions"
kind = "code"
[ask]
chat = true
max_tokens = 160
prompt = "Write a Python function `{name}` that {does}. Answer with one code block."
program = '''
{code}
{test}
'''
[data.python]
file = "code.jsonl"
source = "Freehold's tests"
licence = "Apache-2.0"
"""
PICK = """
name = "small-pick"
suite = "own"
about = "capitals"
kind = "choice"
[ask]
prompt = "The capital of {land} is"
answer = "label"
[data.en]
file = "pick.jsonl"
source = "Freehold's tests"
licence = "Apache-2.0"
"""
CODES = [
    {"id": 1, "name": "add", "does": "adds two numbers", "test": "assert add(2, 3) == 5"},
    {"id": 2, "name": "twice", "does": "doubles a number", "test": "assert twice(4) == 9"},
]
PICKS = [
    {"id": land, "land": land, "choices": ["Paris", "Rome", "Tokyo"], "label": label}
    for label, land in enumerate(("France", "Italy", "Japan"))
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, rows in (("code", CODES), ("pick", PICKS)):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{name}.jsonl").write_text(text)
    (tmp_path / "code.toml").write_text(CODE)
    (tmp_path / "pick.toml").write_text(PICK)
    return tmp_path


def environment(real_root: Path, folder: Path) -> dict[str, str]:
    own = {"FREEHOLD_HOME": str(real_root), "FREEHOLD_KEYS": str(folder / "keys")}
    return {**os.environ, **own}


def run(real_root: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*FREEHOLD, *words],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
        env=environment(real_root, folder),
    )


@pytest.mark.slow
@pytest.mark.skipif(not cell.works(), reason="this kernel shuts no cell")
def test_a_model_is_measured_compared_and_the_scores_are_signed(
    real_root: Path, folder: Path
) -> None:
    out = folder / "out"
    assert run(real_root, folder, "signer", "create", "ada").returncode == 0
    words = ["eval", "--suite", f"{folder / 'code.toml'},{folder / 'pick.toml'}"]
    words += ["--data", str(folder), "-o", str(out), "--json"]
    done = run(real_root, folder, *words, "--sign", "ada")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    by_name = {task["name"]: task["metrics"][0] for task in told["tasks"]}
    # The second test is wrong on purpose: a program passes only its own test.
    assert by_name["small-code"]["value"] == 0.5
    assert by_name["small-pick"]["value"] == 1.0
    assert told["signed"] == [2]
    shown = run(real_root, folder, "passport", "show", "qwen2.5-coder-0.5b-instruct")
    assert "small-pick" in shown.stdout
    assert "acc 1" in shown.stdout
    assert (out / "report.html").read_text().startswith("<!doctype html>")
    # Again, against what was saved: nothing is asked anew, and nothing differs.
    answers = (out / "answers.jsonl").read_bytes()
    done = run(real_root, folder, *words, "--against", str(out / "results.json"))
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["against"]["tasks"]
    assert all(row["difference"]["value"] == 0 and row["better"] == "" for row in rows)
    assert (out / "answers.jsonl").read_bytes() == answers


@pytest.mark.slow
def test_ctrl_c_keeps_what_was_answered(real_root: Path, folder: Path) -> None:
    rows = [{**PICKS[i % 3], "id": i, "land": f"{PICKS[i % 3]['land']} ({i})"} for i in range(300)]
    (folder / "pick.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = folder / "out"
    words = ["eval", "--suite", str(folder / "pick.toml"), "--data", str(folder)]
    process = subprocess.Popen(
        [*FREEHOLD, *words, "-o", str(out)],
        env=environment(real_root, folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    answers = out / "answers.jsonl"
    for _ in range(600):
        if answers.exists() and answers.stat().st_size:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "the same command goes on from there" in said
    kept = len(answers.read_text().splitlines())
    assert 0 < kept < 300
    done = run(real_root, folder, *words, "-o", str(out), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["tasks"][0]["metrics"][0]["n"] == 300
    assert len(answers.read_text().splitlines()) == 300


@pytest.mark.slow
@pytest.mark.skipif(not cell.works(), reason="this kernel shuts no cell")
def test_the_gate_runs_programs_too(real_root: Path, folder: Path) -> None:
    """A model against itself loses nothing, and what it writes was run on both sides."""
    (folder / "held.txt").write_text("The harbour was quiet, and the boats lay still.")
    name = "qwen2.5-coder-0.5b-instruct"
    sides = ["--target", str(folder / "held.txt"), "--suite", str(folder / "code.toml")]
    done = run(
        real_root, folder, "adapt", "gate", name, "--against", name, *sides,
        "--data", str(folder), "--json",
    )  # fmt: skip
    rows = {row["name"]: row for row in json.loads(done.stdout)["rows"]}
    assert (rows["small-code"]["before"], rows["small-code"]["after"]) == (0.5, 0.5)
    assert rows["small-code"]["passed"] is True

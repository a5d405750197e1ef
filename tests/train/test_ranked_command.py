"""``freehold train --ranks`` and ``torchrun`` as a shell runs them, under the lock."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from freehold.train import record
from tests.train.test_command import Shell

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

DECLARATION = """
name = "small"
vocab = 400
held_out = 0.02
[steps]
near = false
[[source]]
name = "stories"
licence = "Apache-2.0"
program = "stories"
documents = 300
"""
SMALL = ["m4", "small", "--length", "64", "--batch", "128", "--micro-batch", "64"]
STEPS = ["--steps", "9", "--keep-every", "4"]


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    folder = tmp_path_factory.mktemp("ranked")
    (folder / "home").mkdir()
    (folder / "small.toml").write_text(DECLARATION, encoding="utf-8")
    made = Shell(folder)
    made("data", "build", str(folder / "small.toml"))
    return made


@pytest.fixture(scope="module")
def trained(shell: Shell) -> Path:
    """A run of two ranks on this machine, at its end."""
    shell("train", *SMALL, *STEPS, "--ranks", "2", "--name", "two")
    return shell.folder / "home" / "train" / "two"


def begun(shell: Shell, name: str, steps: int) -> tuple[subprocess.Popen[str], Path]:
    """A long run of two ranks that has taken some steps, and its folder."""
    words = shell.words("train", *SMALL, "--steps", "4000", "--ranks", "2", "--name", name)
    running = subprocess.Popen(
        words, env=shell.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    folder = shell.folder / "home" / "train" / name
    until = time.monotonic() + 900
    while not (folder / "log.jsonl").exists() or len(losses(folder)) < steps:
        assert running.poll() is None, running.communicate()
        assert time.monotonic() < until
        time.sleep(0.2)
    return running, folder


def losses(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_two_ranks_make_a_model_and_do_it_again(shell: Shell, trained: Path) -> None:
    lines = list(record.read(trained))
    assert lines[0]["environment"]["ranks"] == "2"
    assert lines[0]["environment"]["backend"] == "gloo"
    assert not (trained / ".ranks").exists()
    assert not (trained / "tokens").exists()
    again = shell("reproduce", "two", "--steps", "3:9", "--corpus", "small")
    assert (again["identical"], again["notes"], again["begun"]) == (True, [], 0)
    again = shell("reproduce", "two", "--steps", "6:9", "--corpus", "small")
    assert (again["identical"], again["notes"], again["begun"]) == (True, [], 4)
    # Nothing that they did was stopped by the lock, and all of it was locked.
    attempts = shell.folder / "home" / "residency" / "attempts.jsonl"
    assert not attempts.exists() or not attempts.read_text()


def test_torchrun_takes_the_same_steps(shell: Shell, trained: Path) -> None:
    words = ["--nproc-per-node", "2", "--standalone", "-m", "freehold.cli", "train"]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *words, *SMALL, *STEPS, "--name", "run",
         "--json"],
        check=False, env=shell.env, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["step"] == 9
    folder = shell.folder / "home" / "train" / "run"
    assert (folder / record.LINES).read_bytes() == (trained / record.LINES).read_bytes()


def test_a_rank_that_is_killed_ends_the_run(shell: Shell) -> None:
    running, folder = begun(shell, "killed", 2)
    ranks = [pid for pid in children(running.pid) if b'"rank": 1' in command(pid)]
    assert len(ranks) == 1
    os.kill(ranks[0], signal.SIGKILL)
    said, _ = running.communicate(timeout=300)
    assert running.returncode == 7
    assert (
        "rank 1 of 2 ended without a word: signal SIGKILL" in json.loads(said)["error"]["message"]
    )
    assert losses(folder)


def test_ctrl_c_keeps_what_is_done(shell: Shell) -> None:
    running, folder = begun(shell, "stopped", 2)
    running.send_signal(signal.SIGINT)
    said, _ = running.communicate(timeout=300)
    assert running.returncode == 130
    step = json.loads(said)["step"]
    assert 2 <= step < 4000
    assert len(losses(folder)) == step
    assert (folder / "state.safetensors").exists()


def test_torchrun_says_how_many(shell: Shell) -> None:
    said = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
    env = {**shell.env, **said, "MASTER_PORT": "29500"}
    words = shell.words("train", *SMALL, *STEPS, "--ranks", "2", "--name", "both")
    done = subprocess.run(words, check=False, env=env, capture_output=True, text=True)
    assert done.returncode == 2
    assert "leave out --ranks" in done.stdout


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(one) for path in found for one in path.read_text().split()]


def command(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()

"""``freehold adapt`` as a shell runs it, on a small model: locked, signed, and stopped halfway."""

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

from freehold.store import Store, verify

Run = Any


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "talk.jsonl"
    lines = [
        {"prompt": f"hello {n} and {n * 7}?", "completion": f"hello world {n} in {n * n}"}
        for n in range(60)
    ]
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return path


def words(data: Path, *more: str) -> list[str]:
    small = ["--threads", "1", "--dtype", "float32", "--max-length", "64", "--micro-batch", "64"]
    program = [sys.executable, "-m", "freehold.cli", "adapt", "small", "--data", str(data)]
    return [*program, *small, "--batch", "64", *more]


def environment(home: Path, tmp_path: Path) -> dict[str, str]:
    own = {"FREEHOLD_HOME": str(home), "FREEHOLD_KEYS": str(tmp_path / "keys")}
    return {**os.environ, **own}


@pytest.mark.slow
def test_data_becomes_a_signed_model_of_its_own(home: Path, data: Path, tmp_path: Path) -> None:
    env = environment(home, tmp_path)
    signer = [sys.executable, "-m", "freehold.cli", "signer", "create", "ada"]
    subprocess.run(signer, check=True, env=env, capture_output=True)
    (home / "freehold.toml").write_text('signer = "ada"\n', encoding="utf-8")
    done = subprocess.run(
        words(data, "--name", "mine", "--steps", "6", "--json", "--data-licence", "CC0-1.0"),
        check=False, env=env, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["outcome"]["why"] == "done"
    made = verify(Store(home), "mine")
    assert made.digest == found["digest"]
    folder = home / "adapt" / "mine"
    assert (folder / "adapter" / "adapter_model.safetensors").exists()
    losses = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert len([one for one in losses if "loss" in one]) == 6
    shown = subprocess.run(
        [sys.executable, "-m", "freehold.cli", "passport", "show", "mine", "--json"],
        check=True, env=env, capture_output=True, text=True,
    )  # fmt: skip
    said = {one["kind"]: one for one in json.loads(shown.stdout)["statements"]}
    assert {"lineage", "adaptation", "source", "licence"} <= said.keys()
    assert "CC0-1.0" in json.dumps(said["adaptation"])
    # Nothing that it did was stopped by the lock.
    attempts = home / "residency" / "attempts.jsonl"
    assert not attempts.exists() or not attempts.read_text()


@pytest.mark.slow
def test_replay_may_anchor(home: Path, data: Path, tmp_path: Path) -> None:
    replay = tmp_path / "replay.jsonl"
    replay.write_text(
        "\n".join(
            json.dumps({"prompt": f"which {n}?", "completion": f"that one {n}, of {n * n}"})
            for n in range(30)
        )
    )
    with_replay = ("--replay", str(replay), "--replay-share", "0.5", "--anchor")
    done = subprocess.run(
        words(data, "--name", "mine", "--steps", "8", "--json", *with_replay),
        check=False, env=environment(home, tmp_path), capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    folder = home / "adapt" / "mine"
    steps = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    drifts = [one["drift"] for one in steps if "drift" in one]
    assert len(drifts) >= 4
    assert max(drifts) > min(drifts) >= 0
    assert json.loads((folder / "data.json").read_text())["recipe"]["anchored"] is True


@pytest.mark.parametrize("option", [["--anchor"], ["--replay-share", "0.2"]])
def test_what_is_said_of_replay_wants_some(
    home: Path, data: Path, tmp_path: Path, option: list[str]
) -> None:
    done = subprocess.run(
        words(data, *option), check=False, env=environment(home, tmp_path),
        capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == 2
    assert "--replay" in done.stderr


@pytest.mark.slow
def test_ctrl_c_keeps_the_state_and_the_same_command_goes_on(
    home: Path, data: Path, tmp_path: Path
) -> None:
    env = environment(home, tmp_path)
    command = words(data, "--name", "mine", "--steps", "400")
    running = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
    log = home / "adapt" / "mine" / "log.jsonl"
    for _ in range(600):
        time.sleep(0.1)
        if log.exists() and log.read_text().count("\n") > 5:
            break
    running.send_signal(signal.SIGINT)
    _, told = running.communicate(timeout=60)
    assert running.returncode == 130, told
    before = log.read_text().splitlines()
    assert 5 < len(before) < 400
    done = subprocess.run(command, check=False, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    after = log.read_text().splitlines()
    assert after[: len(before)] == before


def test_bad_data_is_refused_by_its_line(home: Path, data: Path, tmp_path: Path) -> None:
    with data.open("a", encoding="utf-8") as file:
        file.write('\n{"prompt": "a", "completion": ""}\n')
    env = environment(home, tmp_path)
    command = words(data, "--plan")
    done = subprocess.run(command, check=False, env=env, capture_output=True, text=True)
    assert done.returncode == 2
    assert "talk.jsonl, line 61: completion is empty" in done.stderr
    assert "--fix" in done.stderr
    fixed = subprocess.run(
        [*command, "--fix"], check=False, env=env, capture_output=True, text=True
    )
    assert fixed.returncode == 0, fixed.stderr
    assert "left out: talk.jsonl, line 61" in fixed.stderr
    assert "values to train" in fixed.stdout
    assert not list((home / "adapt").iterdir())


def test_a_plan_for_several_ranks_disturbs_none_that_train(
    home: Path, data: Path, tmp_path: Path
) -> None:
    meeting = home / "adapt" / "mine" / ".ranks"
    meeting.parent.mkdir(parents=True)
    meeting.write_bytes(b"here they are")
    command, env = words(data, "--plan", "--json", "--name", "mine"), environment(home, tmp_path)
    told = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1", "WORLD_SIZE": "3"}
    found = []
    for more, here in (
        (["--ranks", "3"], {}),
        ([], {**told, "RANK": "0", "LOCAL_RANK": "0"}),
        ([], {**told, "RANK": "2", "LOCAL_RANK": "2"}),
    ):
        done = subprocess.run(
            [*command, *more], check=False, env=env | here, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        found.append(done.stdout)
    of_ranks, of_first, of_last = found
    assert json.loads(of_ranks)["ranks"] == json.loads(of_first)["ranks"] == 3
    assert not of_last
    assert meeting.read_bytes() == b"here they are"

"""``freehold ledger`` as a shell sees it."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from freehold.ledger.database import Database, place
from freehold.ledger.leaves import Writer
from freehold.ledger.log import Log
from freehold.signing import keys
from tests.ledger.conftest import OUTCOME, RECORD

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with a ledger: entry 0 in clear, entry 2 sealed, entry 4 open."""
    (tmp_path / "home").mkdir()
    key = keys.create(tmp_path / "keys", "ledger", "ed25519")
    reader = keys.create(tmp_path / "keys", "reader", "p256")
    log = Log(Database(place("ledger.sqlite", tmp_path / "home"), writer=True), key)
    for writer in (Writer("clear"), Writer("sealed", reader.public)):
        entry = log.commit([writer.open(RECORD)]).first
        log.commit([writer.seal(entry, OUTCOME)])
    log.commit([Writer("hash").open(RECORD)])
    log.close()
    return tmp_path / "home"


@pytest.fixture
def freehold(home: Path) -> Run:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "FREEHOLD_HOME": str(home), "FREEHOLD_KEYS": str(home.parent / "keys")}
        env.pop("FREEHOLD_CONFIG", None)
        return subprocess.run(
            [sys.executable, "-m", "freehold.cli", "ledger", *words],
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
            env=env,
        )

    return run


def test_show(freehold: Run) -> None:
    done = freehold("show")
    assert "5 leaves" in done.stdout
    assert "answered, 2 tokens" in done.stdout
    assert "SECRET-PROMPT" in freehold("show", "0").stdout
    assert "SECRET" not in freehold("show", "2").stdout
    assert "SECRET-ANSWER" in freehold("show", "2", "--key", "reader").stdout
    assert freehold("show", "1").returncode == 2
    found = json.loads(freehold("show", "0", "--json").stdout)
    assert found["leaves"][1]["content"]["answers"][0]["ids"] == [4, 5]


def test_verify_says_what_is_open_and_what_is_wrong(freehold: Run, home: Path) -> None:
    done = freehold("verify")
    assert done.returncode == 0
    assert "1 entries are open" in done.stdout
    db = sqlite3.connect(home / "ledger.sqlite")
    db.execute("UPDATE leaves SET entry = 1 WHERE place = 3")
    db.commit()
    db.close()
    done = freehold("verify", "--json")
    assert done.returncode == 3
    assert json.loads(done.stdout)["findings"]


def test_keep_a_checkpoint_and_hold_the_ledger_to_it(freehold: Run, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_text(freehold("checkpoint").stdout)
    vkey = tmp_path / "vkey"
    vkey.write_text(freehold("key").stdout)
    done = freehold("verify", "--against", str(kept), "--key", str(vkey))
    assert done.returncode == 0, done.stderr
    assert "begins with the 5" in freehold("consistency", str(kept)).stdout
    kept.write_text(kept.read_text().replace("\n5\n", "\n6\n"))
    assert freehold("verify", "--against", str(kept)).returncode == 3
    assert freehold("consistency", str(kept)).returncode == 3
    kept.write_text("nonsense")
    assert freehold("verify", "--against", str(kept)).returncode == 3


def test_export_prove_and_check_without_freehold(freehold: Run, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    assert freehold("export", str(folder)).returncode == 0
    assert freehold("export", str(folder)).returncode == 2
    proof = tmp_path / "proof.json"
    proof.write_text(freehold("prove", "2").stdout)
    for arguments in ([], ["--proof", str(proof)]):
        done = subprocess.run(
            [sys.executable, "-I", "verify.py", *arguments],
            check=False, cwd=folder, capture_output=True, text=True, env={},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
    assert freehold("verify", str(folder)).returncode == 0
    (folder / "leaves.jsonl").write_text("{}\n")
    assert freehold("verify", str(folder)).returncode == 3


def test_a_witness(freehold: Run, tmp_path: Path, home: Path) -> None:
    keys.create(home.parent / "keys", "witness", "ed25519")
    state = tmp_path / "seen"
    words = ("witness", "--name", "w.example/1", "--key", "witness", "--state", str(state))
    done = freehold(*words)
    assert done.returncode == 0, done.stderr
    assert state.read_text() == done.stdout
    assert "kept the cosigned" in freehold("checkpoint", "--add", str(state)).stdout
    assert freehold(*words).returncode == 0


def test_erase(freehold: Run, home: Path) -> None:
    done = freehold("erase", "0", "--reason", "asked")
    assert done.returncode == 0, done.stderr
    assert b"SECRET" not in (home / "ledger.sqlite").read_bytes()
    assert "erased" in freehold("show", "0").stdout
    assert freehold("verify").returncode == 0
    assert freehold("erase", "1", "--reason", "no such").returncode == 2


@pytest.mark.parametrize(("entry", "why"), [("4", "never sealed"), ("2", "--key")])
def test_what_cannot_be_replayed_is_said(freehold: Run, entry: str, why: str) -> None:
    done = freehold("replay", entry)
    assert done.returncode == 2
    assert why in done.stderr


def test_no_ledger(freehold: Run) -> None:
    done = freehold("verify", "--ledger", "none.sqlite")
    assert done.returncode == 2
    assert "there is no ledger" in done.stderr
    assert freehold("verify", "--ledger", "off").returncode == 2

"""``freehold data``, ``train`` and ``reproduce`` as a shell runs them, under the lock."""

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
from tests.train.archives import PAGE, answer, packed, record

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

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
documents = 6000
[[source]]
name = "letters"
licence = "CC0-1.0"
path = "letters"
"""
RECIPE = [
    "m4",
    "small",
    "--name",
    "mine",
    "--length",
    "64",
    "--batch",
    "128",
    "--micro-batch",
    "64",
]


class Shell:
    def __init__(self, folder: Path) -> None:
        own = {"FREEHOLD_HOME": str(folder / "home"), "FREEHOLD_KEYS": str(folder / "keys")}
        self.env = {**os.environ, **own, "OMP_NUM_THREADS": "1"}
        self.folder = folder

    def __call__(self, *words: str, status: int = 0) -> Any:
        done = subprocess.run(
            self.words(*words), check=False, env=self.env, capture_output=True, text=True,
            timeout=600,
        )  # fmt: skip
        assert done.returncode == status, (done.stdout, done.stderr)
        return json.loads(done.stdout)

    @staticmethod
    def words(*words: str) -> list[str]:
        return [sys.executable, "-m", "freehold.cli", *words, "--json"]


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """A vault with a corpus of two sources, and a key to sign with."""
    folder = tmp_path_factory.mktemp("shell")
    (folder / "home").mkdir()
    (folder / "letters").mkdir()
    for n in range(5):
        text = f"Letter {n}. I write to you from the harbour, where {n} ships came in today.\n"
        (folder / "letters" / f"{n}.txt").write_text(text, encoding="utf-8")
    (folder / "small.toml").write_text(DECLARATION, encoding="utf-8")
    made = Shell(folder)
    made("signer", "create", "ada")
    (folder / "home" / "freehold.toml").write_text('signer = "ada"\n', encoding="utf-8")
    made("data", "build", str(folder / "small.toml"), "--processes", "2")
    return made


def test_a_corpus_is_built_and_shown(shell: Shell) -> None:
    manifest = shell("data", "show", "small")
    assert [one["name"] for one in manifest["sources"]] == ["stories", "letters"]
    assert [one["read"] for one in manifest["sources"]] == [6000, 5]
    report = shell("data", "tokenizer", "small")
    assert {one["text"] for one in report["texts"]} >= {"held out", "en", "hi"}


def test_texts_are_traced(shell: Shell) -> None:
    shell("data", "index", "small")
    (found,) = shell("data", "trace", "small", "I write to you from the harbour, where")
    assert found["count"] == 5
    assert {place["source"] for place in found["places"]} == {"letters"}
    assert shell("data", "trace", "small", "--whole", "harbour of nobody") == []


def test_pages_are_built_under_the_lock(shell: Shell) -> None:
    pytest.importorskip("resiliparse", reason="needs the extra web")
    (shell.folder / "web").mkdir()
    records = [record(answer(PAGE % n), f"https://{n}.example/") for n in range(3)]
    (shell.folder / "web" / "a.warc.gz").write_bytes(packed(records))
    (shell.folder / "no.txt").write_text("host:1.example\n")
    declaration = shell.folder / "web.toml"
    declaration.write_text(
        'name = "web"\nheld_out = 0.0\n[steps]\nnear = false\nopt_out = "no.txt"\n'
        '[[source]]\nname = "web"\nlicence = "CC0-1.0"\npath = "web"\n'
    )
    manifest = shell("data", "build", str(declaration))
    (source,) = manifest["sources"]
    assert (source["documents"], source["left_out"]) == (2, {"opted out": 1})
    assert source["extractor"].startswith("resiliparse ")
    shell("data", "index", "web")
    (found,) = shell(
        "data", "trace", "web", "The harbour master wrote down every ship that came in"
    )
    places = [(place["id"], place["address"]) for place in found["places"]]
    assert places[0] == ("web/a.warc.gz:0", "https://0.example/")
    assert places[1][1] == "https://2.example/"


def stopped(shell: Shell, folder: Path, *words: str) -> int:
    """A run that is asked to stop after two steps: after how many it did."""
    running = subprocess.Popen(
        shell.words(*words), env=shell.env, stdout=subprocess.PIPE, text=True
    )
    log = folder / "log.jsonl"
    until = time.monotonic() + 300
    while not (log.exists() and log.read_text().count("\n") >= 2):
        assert time.monotonic() < until
        time.sleep(0.2)
    running.send_signal(signal.SIGINT)
    said, _ = running.communicate(timeout=120)
    assert running.returncode == 130
    return int(json.loads(said)["step"])


def test_a_model_is_trained_stopped_signed_and_done_again(shell: Shell) -> None:
    words = ["train", *RECIPE, "--steps", "12", "--keep-every", "5"]
    folder = shell.folder / "home" / "train" / "mine"
    assert 2 <= stopped(shell, folder, *words) < 12
    tokens = folder / "tokens"
    assert len(list(tokens.glob("*.ids"))) == 1
    found = shell(*words)
    assert found["step"] == 12
    assert not tokens.exists()
    made = verify(Store(shell.folder / "home"), "mine")
    assert made.digest == found["digest"]
    kinds = [one["kind"] for one in shell("passport", "verify", "mine")["statements"]]
    assert {"source", "lineage", "adaptation"} <= set(kinds)
    for steps in ("1:3", "7:12", "random:2"):
        again = shell("reproduce", "mine", "--steps", steps, "--corpus", "small")
        assert (again["identical"], again["notes"]) == (True, [])
    path = shell.folder / "home" / "train" / "mine" / "checkpoints" / "000005.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    again = shell("reproduce", "mine", "--steps", "7:9", "--corpus", "small", status=3)
    assert (again["step"], again["what"]) == (5, "checkpoint")


def test_blocks_are_compiled_before_the_lock_is_whole(shell: Shell) -> None:
    pytest.importorskip("torch")
    words = ["train", *RECIPE, "--compile", "--steps", "9", "--name"]
    once = shell(*words, "once")
    folder = shell.folder / "home" / "train" / "stopped"
    stopped(shell, folder, *words, "stopped")
    # Nobody runs what an earlier process left in its folder.
    left = folder / "inductor"
    assert not left.exists()
    (left / "fxgraph").mkdir(parents=True)
    (left / "fxgraph" / "left").write_bytes(b"cos\nsystem\n(S'touch left'\ntR.")
    again = shell(*words, "stopped")
    assert not left.exists()
    assert again["files"]["model.safetensors"] == once["files"]["model.safetensors"]
    found = shell("reproduce", "once", "--steps", "2:6", "--corpus", "small")
    assert (found["identical"], found["notes"]) == (True, [])

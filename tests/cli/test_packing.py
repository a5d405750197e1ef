"""``freehold pack``: a choice, what it costs, and where that is shown."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from freehold.qwen import names
from freehold.qwen.config import from_hf
from tests.qwen.conftest import small_config, small_tokenizer_json

ROOT = Path(__file__).parents[2]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A store with a small model of plain floats, ``plain``."""
    folder = tmp_path / "plain"
    folder.mkdir()
    config = small_config()
    rng = np.random.default_rng(1)
    weights = {
        name: (rng.standard_normal(shape) * 0.1).astype(np.float32)
        for name, shape in names.expected(from_hf(config), names.HF)
    }
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(json.dumps(small_tokenizer_json()))
    done = freehold(tmp_path, "pull", str(folder))
    assert done.returncode == 0, done.stderr
    return tmp_path


def freehold(home: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "freehold.cli", *words],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
        env={**os.environ, "FREEHOLD_HOME": str(home / "home"), **environment},
    )


def asked(home: Path, *words: str) -> dict[str, Any]:
    done = freehold(home, *words, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_choice_is_measured_recorded_and_shown(home: Path) -> None:
    pytest.importorskip("torch")
    eight = asked(home, "pack", "plain")
    assert eight["weights"] == "8bit"
    assert 0 < eight["mean_kl"] < 0.05
    assert eight["measured"]["tokens"] == 512
    assert asked(home, "pack", "plain") == eight
    four = asked(home, "pack", "plain", "--weights", "4bit")
    assert four["weights"] == "4bit"
    assert four["mean_kl"] > eight["mean_kl"]
    assert four["bytes"] < eight["bytes"]
    # The choice stays until another is made.
    assert asked(home, "pack", "plain") == four
    (listed,) = asked(home, "list")["models"]
    assert listed["pack"] == {key: value for key, value in four.items() if key != "name"}
    assert "weights: 4bit" in freehold(home, "show", "plain").stdout
    assert "pack" in links(asked(home, "verify", "plain"))


def links(told: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The links of a chain, by their kind."""
    return {step["kind"]: step for step in told["chain"]}


@pytest.mark.parametrize("weights", ["8bit", "4bit"])
def test_the_chain_holds_the_pack_and_it_can_be_made_again(home: Path, weights: str) -> None:
    made = asked(home, "pack", "plain", "--weights", weights)
    told = links(asked(home, "verify", "plain", "--rebuild"))
    assert told["pack"]["digest"] == f"blake3:{made['blake3']}"
    assert told["pack"]["signers"] == []
    assert "sealed on this machine" in told["pack"]["told"]
    assert any(line.startswith("derived: ") for line in told["pack"]["told"])
    assert told["serve"]["digest"] == told["model"]["digest"]


def test_a_signer_signs_what_was_packed_once(home: Path) -> None:
    keys = {"FREEHOLD_KEYS": str(home / "keys")}
    assert freehold(home, "signer", "create", "ada", **keys).returncode == 0
    (home / "home" / "freehold.toml").write_text('signer = "ada"')
    for words in (("pack", "plain"), ("pack", "plain"), ("pull", str(home / "plain"))):
        done = freehold(home, *words, **keys)
        assert done.returncode == 0, done.stderr
    shown = json.loads(freehold(home, "passport", "show", "plain", "--json", **keys).stdout)
    assert [said["kind"] for said in shown["statements"]] == ["source", "licence", "packing"]
    (said,) = (one["predicate"] for one in shown["statements"] if one["kind"] == "packing")
    made = json.loads(freehold(home, "pack", "plain", "--json", **keys).stdout)
    assert (said["blake3"], said["layout"]) == (made["blake3"], made["layout"])
    told = json.loads(freehold(home, "verify", "plain", "--json", **keys).stdout)
    assert links(told)["pack"]["signers"] == ["ada"]


def test_a_passphrase_is_read_once_for_all_that_pull_signs(home: Path) -> None:
    keys = {"FREEHOLD_KEYS": str(home / "keys")}

    def typed(*words: str) -> int:
        reading, writing = os.pipe()
        os.write(writing, b"sesame\n")
        os.close(writing)
        try:
            return subprocess.run(
                [sys.executable, "-m", "freehold.cli", *words, "--passphrase-fd", str(reading)],
                check=False,
                capture_output=True,
                cwd=ROOT,
                timeout=120,
                env={**os.environ, "FREEHOLD_HOME": str(home / "home"), **keys},
                pass_fds=(reading,),
            ).returncode
        finally:
            os.close(reading)

    assert typed("signer", "create", "ada") == 0
    (home / "home" / "freehold.toml").write_text('signer = "ada"')
    assert typed("pull", str(home / "plain"), "--weights", "4bit") == 0
    verified = json.loads(freehold(home, "passport", "verify", "plain", "--json", **keys).stdout)
    assert [one["kind"] for one in verified["statements"]] == ["source", "licence", "packing"]


def test_a_changed_pack_is_refused_until_it_is_made_again(home: Path) -> None:
    assert freehold(home, "pull", str(home / "plain"), "--weights", "4bit").returncode == 0
    (path,) = (home / "home" / "packs").glob("*/*.pack")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
    for words in (["verify", "plain"], ["pack", "plain"]):
        refused = freehold(home, *words)
        assert refused.returncode == 3
        assert "freehold pack plain --again" in refused.stderr
    again = asked(home, "pack", "plain", "--again", "--weights", "4bit")
    assert again["weights"] == "4bit"
    assert "pack" in links(asked(home, "verify", "plain"))
    assert freehold(home, "rm", "plain").returncode == 0
    assert not list((home / "home" / "packs").iterdir())


def test_a_changed_record_is_told_by_list_and_fails_nothing_else(home: Path) -> None:
    asked(home, "pack", "plain")
    (note,) = (home / "home" / "packs").glob("*/*.json")
    note.write_bytes(note.read_bytes().replace(b"8bit", b"4bit"))
    (listed,) = asked(home, "list")["models"]
    assert "does not fit its seal" in listed["pack"]["refused"]


@pytest.mark.parametrize("words", [["pack", "plain"], ["pull", "plain"]])
def test_an_unknown_choice_names_the_option(home: Path, words: list[str]) -> None:
    done = freehold(home, *words, "--weights", "2bit")
    assert done.returncode == 2
    assert "take 8bit or 4bit" in done.stderr


def test_codes_of_a_file_leave_no_choice(real_root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "freehold.cli", "pack", "--weights", "4bit"],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
        env={**os.environ, "FREEHOLD_HOME": str(real_root)},
    )
    assert done.returncode == 2
    assert "--weights is for models of plain floats" in done.stderr

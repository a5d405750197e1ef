"""Commands as a shell sees them: exit codes, standard output, standard error."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Run

HEAVY = (
    "torch",
    "numpy",
    "fastapi",
    "pydantic",
    "sqlalchemy",
    "tokenizers",
    "huggingface_hub",
    "cryptography",
    "model_signing",
)


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys, freehold.cli.main;"
        f"print(sorted(set({HEAVY!r} + ('rich', 'transformers')) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_version(freehold: Run) -> None:
    from freehold import __version__

    assert freehold("--version").stdout == f"freehold {__version__}\n"


def test_an_empty_vault_says_what_to_get(freehold: Run) -> None:
    done = freehold("list")
    assert done.returncode == 0
    assert "freehold pull qwen2.5-coder-0.5b-instruct" in done.stdout
    assert json.loads(freehold("list", "--json").stdout)["models"] == []


@pytest.mark.parametrize("command", ["show", "verify", "rm", "serve --port 0", "chat", "bench"])
def test_an_unknown_model_is_named_with_the_next_step(freehold: Run, command: str) -> None:
    done = freehold(*command.split(), "nope")
    assert done.returncode == 2
    assert done.stdout == ""
    assert "nope" in done.stderr
    assert "freehold" in done.stderr
    assert "Traceback" not in done.stderr


def test_json_errors_are_json(freehold: Run) -> None:
    done = freehold("show", "nope", "--json")
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["type"] == "NotFoundError"


def test_a_wrong_option_exits_with_2(freehold: Run) -> None:
    assert freehold("pull", "--no-such-option").returncode == 2
    assert freehold("serve", "--port", "many").returncode == 2


def test_an_unknown_source_is_named(freehold: Run) -> None:
    done = freehold("pull", "--source", "gopher")
    assert done.returncode == 2
    assert "gopher" in done.stderr


def test_a_folder_without_the_file_exits_with_4(freehold: Run, tmp_path: Path) -> None:
    done = freehold("pull", "qwen2.5-coder-0.5b-instruct", "--source", f"folder:{tmp_path}")
    assert done.returncode == 4
    assert str(tmp_path) in done.stderr


def test_a_folder_with_wrong_bytes_exits_with_3_and_admits_nothing(
    freehold: Run, tmp_path: Path
) -> None:
    file = tmp_path / "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"
    with file.open("wb") as out:
        out.truncate(491_400_064)
    done = freehold("pull", "qwen2.5-coder-0.5b-instruct", "--source", f"folder:{tmp_path}")
    assert done.returncode == 3
    assert file.name in done.stderr
    assert json.loads(freehold("list", "--json").stdout)["models"] == []


def test_a_bind_to_the_world_without_tls_is_refused_before_anything_loads(freehold: Run) -> None:
    done = freehold("serve", "--host", "0.0.0.0")
    assert done.returncode == 2
    assert "TLS" in done.stderr


def test_a_port_that_is_taken_is_named_before_anything_loads(freehold: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = freehold("serve", "--port", port)
    assert done.returncode == 2
    assert port in done.stderr
    assert "--port" in done.stderr


def test_a_broken_settings_file_is_named(freehold: Run, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("prot = 8080")
    done = freehold("serve", FREEHOLD_CONFIG=str(file))
    assert done.returncode == 2
    assert "mine.toml" in done.stderr
    assert "prot" in done.stderr


def test_the_life_of_a_key(freehold: Run, tmp_path: Path) -> None:
    assert "freehold keys add" in freehold("keys", "list").stdout
    made = json.loads(freehold("keys", "add", "ward 7", "--json").stdout)
    listed = freehold("keys", "list", "--json").stdout
    assert made["secret"] not in listed
    assert [(key["id"], key["name"]) for key in json.loads(listed)] == [(made["id"], "ward 7")]
    assert freehold("keys", "revoke", made["id"]).returncode == 0
    assert json.loads(freehold("keys", "list", "--json").stdout)[0]["revoked"] is not None
    assert freehold("keys", "revoke", "nobody").returncode == 2

    base = tmp_path / "home" / "keys.sqlite"
    assert stat.S_IMODE(base.stat().st_mode) == 0o600
    assert made["secret"].encode() not in base.read_bytes()


def test_a_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    line = f"{sys.executable} -m freehold.cli list | head -c 0"
    done = subprocess.run(
        ["bash", "-c", line],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "FREEHOLD_HOME": str(tmp_path)},
    )
    assert done.stderr == ""

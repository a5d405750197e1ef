"""The real default model behind a gate: refused, then approved, then served under its digest."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from freehold.store import Store
from freehold.store.catalog import catalog
from tests.house.running import DEFAULT, FREEHOLD, start

GATE = """
trust = ["ada"]
[gate]
pinned = true
licences = ["Apache-2.0"]
known_template = true
approvals = 1
"""


@pytest.fixture
def home(real_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home of its own with the real store's blobs and manifests in it."""
    home = tmp_path / "home"
    home.mkdir()
    for part in ("blobs", "manifests"):
        (home / part).symlink_to(real_root / part)
    (home / "freehold.toml").write_text(GATE)
    monkeypatch.setenv("FREEHOLD_HOME", str(home))
    monkeypatch.setenv("FREEHOLD_KEYS", str(tmp_path / "keys"))
    return home


def freehold(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*FREEHOLD, *words],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_what_was_approved_is_served_and_named_by_digest(home: Path) -> None:
    assert freehold("signer", "create", "ada").returncode == 0
    refused = freehold("serve", "--port", "0")
    assert refused.returncode == 8
    assert refused.stderr.count("\n  ") == 1
    assert f"`freehold passport approve {DEFAULT} --key NAME`" in refused.stderr
    assert freehold("passport", "approve", DEFAULT, "--key", "ada").returncode == 0
    server = start(home, FREEHOLD_KEYS=os.environ["FREEHOLD_KEYS"])
    secret = json.loads(freehold("keys", "add", "eye", "--role", "auditor", "--json").stdout)
    auditor = {"Authorization": f"Bearer {secret['secret']}"}
    try:
        passports = httpx.get(f"{server.address}/v1/passports", headers=auditor).json()["data"]
        passport = httpx.get(f"{server.address}/v1/passports/{DEFAULT}", headers=auditor)
        refused_there = httpx.get(f"{server.address}/v1/models", headers=auditor)
        headers = {"Authorization": f"Bearer {server.key}"}
        listed = httpx.get(f"{server.address}/v1/models", headers=headers).json()
        answer = httpx.post(
            f"{server.address}/v1/completions",
            headers=headers,
            json={"model": DEFAULT, "prompt": "1, 2,", "max_tokens": 1},
            timeout=60,
        )
    finally:
        assert server.stop() == 0
    digest = Store(home).manifest(DEFAULT).digest
    assert [model["digest"] for model in listed["data"]] == [digest]
    assert answer.headers["freehold-model-digest"] == digest
    assert refused_there.status_code == 403
    assert [(one["id"], one["digest"]) for one in passports] == [(DEFAULT, digest)]
    exported = json.loads(freehold("passport", "export", DEFAULT).stdout)
    assert passport.json() == exported
    assert [said["kind"] for said in exported["model"]["statements"]] == ["approval"]


def test_the_catalog_pins_the_template_of_the_real_file(home: Path) -> None:
    printed = subprocess.run(
        [*FREEHOLD, "template", DEFAULT], check=True, capture_output=True
    ).stdout
    digest = f"sha256:{hashlib.sha256(printed).hexdigest()}"
    assert catalog()[DEFAULT].template == digest
    told = freehold("template", DEFAULT, "--json").stdout
    assert json.loads(told)["known"] is True

"""`kill -9` at random moments of `serve`: the next start works, and nothing is corrupt."""

from __future__ import annotations

import json
import os
import random
import subprocess
import time
from pathlib import Path

import httpx
import psutil
import pytest

from tests.house.running import DEFAULT, FREEHOLD, start

KILLS = 100

pytestmark = pytest.mark.slow


def verified(root: Path) -> bool:
    done = subprocess.run(
        [*FREEHOLD, "verify", DEFAULT, "--json"],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "FREEHOLD_HOME": str(root)},
    )
    return done.returncode == 0 and json.loads(done.stdout)["name"] == DEFAULT


def tree(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    try:
        counter = psutil.Process(process.pid)
        return [counter, *counter.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


@pytest.mark.timeout(3600)
def test_serve_killed_at_random_moments(real_root: Path, tmp_path: Path) -> None:
    """Kills fall anywhere between the first instruction and the second after being ready."""
    apart = ("--ledger", str(tmp_path / "ledger.sqlite"))
    moments = random.Random(6)
    for _ in range(KILLS):
        process = subprocess.Popen(
            [*FREEHOLD, "serve", "--port", "0", "--temporary-key", *apart],
            stderr=subprocess.DEVNULL,
            env={
                **os.environ,
                "FREEHOLD_HOME": str(real_root),
                "FREEHOLD_KEYS": str(tmp_path / "keys"),
            },
        )
        time.sleep(moments.uniform(0, 8))
        family = tree(process)
        process.kill()
        process.wait()
        _, alive = psutil.wait_procs(family, timeout=10)
        assert not alive, "the engine outlived its counter"
    assert verified(real_root)
    server = start(real_root)
    try:
        reply = httpx.post(
            f"{server.address}/v1/completions",
            headers={"Authorization": f"Bearer {server.key}"},
            json={"model": DEFAULT, "prompt": "1, 2, 3,", "max_tokens": 2, "temperature": 0},
            timeout=60,
        )
        assert reply.json()["choices"][0]["text"].strip().startswith("4")
    finally:
        assert server.stop() == 0

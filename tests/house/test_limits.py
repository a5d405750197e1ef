"""A key's limits in a locked server: they hold, are changed from outside, and nothing is refused
by the lock."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx

from tests.house.running import DEFAULT, FREEHOLD, Server


def freehold(root: Path, *words: str) -> Any:
    done = subprocess.run(
        [*FREEHOLD, *words, "--json"],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "FREEHOLD_HOME": str(root)},
    )
    return json.loads(done.stdout)


def used(root: Path, name: str) -> int:
    """Tokens, once they are written."""
    time.sleep(0.5)
    rows = [row for row in freehold(root, "keys", "usage")["usage"] if row["name"] == name]
    return sum(row["prompt_tokens"] + row["completion_tokens"] for row in rows)


def test_limits_hold_in_a_locked_server(server: Server, real_root: Path) -> None:
    secret = freehold(real_root, "keys", "add", "limited", "--token-budget", "60")["secret"]
    body: Any = {"model": DEFAULT, "temperature": 0}
    body["messages"] = [{"role": "user", "content": "Write a long story."}]
    headers = {"authorization": f"Bearer {secret}"}
    with httpx.Client(base_url=server.address, headers=headers, timeout=300) as http:
        before = http.get("/residency").json()
        first = http.post("/v1/chat/completions", json=body).json()
        assert first["choices"][0]["finish_reason"] == "length"
        assert first["usage"]["total_tokens"] == 60 == used(real_root, "limited")
        refused = http.post("/v1/chat/completions", json=body)
        assert refused.json()["error"]["code"] == "insufficient_quota"
        freehold(real_root, "keys", "limit", "limited", "--token-budget", "100")
        second = http.post("/v1/chat/completions", json=body).json()
        assert second["usage"]["total_tokens"] == 40
        assert used(real_root, "limited") == 100
        after = http.get("/residency").json()
        freehold(real_root, "keys", "revoke", "limited")
        assert http.post("/v1/chat/completions", json=body).status_code == 401
    assert before.get("attempts") == after.get("attempts")

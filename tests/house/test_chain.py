"""What the running server says that answers is the last link of the chain that verify walks."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import httpx

from tests.house.running import DEFAULT, FREEHOLD, Server


def test_what_answers_is_the_head_of_the_chain(server: Server, real_root: Path) -> None:
    walked = subprocess.run(
        [*FREEHOLD, "verify", DEFAULT, "--rebuild", "--json"],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "FREEHOLD_HOME": str(real_root)},
        timeout=200,
    )
    chain = json.loads(walked.stdout)["chain"]
    # The server's first start has packed the weights.
    assert [step["kind"] for step in chain] == ["source", "file", "model", "pack", "serve"]
    assert any(told.startswith("derived: ") for told in chain[3]["told"])
    head = chain[-1]["digest"]
    assert head == chain[2]["digest"]
    headers = {"Authorization": f"Bearer {server.key}"}
    listed = httpx.get(f"{server.address}/v1/models", headers=headers).json()["data"]
    assert [(model["id"], model["digest"]) for model in listed] == [(DEFAULT, head)]
    asked = {"model": DEFAULT, "prompt": "1, 2,", "max_tokens": 1}
    for stream in (False, True):
        answer = httpx.post(
            f"{server.address}/v1/completions",
            headers=headers,
            json={**asked, "stream": stream},
            timeout=60,
        )
        assert answer.headers["freehold-model-digest"] == head

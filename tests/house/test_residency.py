"""Nothing leaves: the running server is locked, says so, and calls nobody even unlocked."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from freehold.residency import landlock, seccomp
from tests.house.running import DEFAULT, FREEHOLD, Server, start

REQUESTS = 50

needs_lock = pytest.mark.skipif(
    landlock.abi() < 1 or not seccomp.available(), reason="this kernel has no lock"
)


def get(server: Server, path: str) -> dict[str, Any]:
    answer = httpx.get(
        f"{server.address}{path}", headers={"Authorization": f"Bearer {server.key}"}, timeout=60
    )
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def complete(server: Server, prompt: str) -> str:
    answer = httpx.post(
        f"{server.address}/v1/completions",
        headers={"Authorization": f"Bearer {server.key}"},
        json={"model": DEFAULT, "prompt": prompt, "max_tokens": 2, "temperature": 0},
        timeout=60,
    )
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["text"])


@needs_lock
def test_each_process_is_locked_and_nobody_tried_anything(server: Server, real_root: Path) -> None:
    before = get(server, "/residency")
    assert before["residency"] == "enforced by the kernel"
    assert before["recording"] is True
    assert {one["role"] for one in before["processes"]} == {"counter", "engine", "keeper"}
    for one in before["processes"]:
        status = Path(f"/proc/{one['pid']}/status").read_text()
        assert re.search(r"^Seccomp:\s+2$", status, re.MULTILINE)
        assert re.search(r"^NoNewPrivs:\s+1$", status, re.MULTILINE)
    for i in range(5):
        complete(server, f"Count on: {i}, {i + 1}, {i + 2},")
    assert get(server, "/residency")["attempts"] == before["attempts"] == 0
    done = subprocess.run(
        [*FREEHOLD, "residency", "status", "--json"],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "FREEHOLD_HOME": str(real_root)},
    )
    counters = [
        one["pid"]
        for state in json.loads(done.stdout)
        for one in state["processes"]
        if one["role"] == "counter"
    ]
    assert server.process.pid in counters


def test_the_residency_page_wants_a_key(server: Server) -> None:
    assert httpx.get(f"{server.address}/residency", timeout=60).status_code == 401


def test_an_unlocked_server_says_so(real_root: Path) -> None:
    server = start(real_root, "--no-lock")
    try:
        found = get(server, "/residency")
        assert found["residency"] == "off: the owner asked for --no-lock"
        assert "Paris" in complete(server, "The capital of France is")
    finally:
        assert server.stop() == 0


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--no-lock",)])
def test_no_process_calls_anybody(
    real_root: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    """Start-up and 50 requests under strace, every process and every dependency in it: no connect,
    no datagram, no question to a resolver. Also unlocked: the lock has nothing to hold back."""
    if shutil.which("strace") is None:
        pytest.skip("needs strace")
    seen = tmp_path / "calls"
    traced = "socket,connect,sendto,sendmsg,sendmmsg,io_uring_setup"
    tool = ("strace", "-D", "-f", "-qq", "-e", f"trace={traced}", "-o", str(seen))
    server = start(real_root, *options, under=tool)
    try:
        for i in range(REQUESTS):
            complete(server, f"{i}, {i + 1},")
        get(server, "/v1/models")
    finally:
        server.stop()
    lines = seen.read_text().splitlines()
    assert any("socket(AF_INET, SOCK_STREAM" in line for line in lines), "strace saw nothing"
    for line in lines:
        assert " connect(" not in line, line
        assert "io_uring_setup(" not in line, line
        assert not re.search(r"socket\((?!AF_INET6?, SOCK_STREAM)", line), line
        assert "sendmmsg(" not in line, line
        assert not re.search(r"sendto\(.*(sa_family|sin_addr)", line), line
        assert "msg_name={" not in line, line

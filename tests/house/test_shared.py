"""Two real servers, locked, on one PostgreSQL: one set of keys, one budget, one ledger."""

from __future__ import annotations

import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from freehold.signing import keys
from tests.house.running import DEFAULT, FREEHOLD, start
from tests.postgres import Postgres

BUDGET = 600


@pytest.mark.parametrize("tcp", [False, True], ids=["socket", "tcp"])
def test_two_servers_are_one_counter(
    real_root: Path, tmp_path: Path, postgres: Postgres, tcp: bool
) -> None:
    url = postgres.new(tcp=tcp)
    keys.create(tmp_path / "keys", "ledger", "ed25519")
    config = tmp_path / "freehold.toml"
    config.write_text(f'keys = "{url}"\nledger = "{url}"\nthreads = 1\ncache_tokens = 4096\n')
    env = {"FREEHOLD_CONFIG": str(config), "FREEHOLD_KEYS": str(tmp_path / "keys")}

    def freehold(*arguments: str) -> str:
        done = subprocess.run(
            [*FREEHOLD, *arguments],
            check=False, capture_output=True, text=True,
            env={**os.environ, **env, "FREEHOLD_HOME": str(real_root)},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    added = freehold("keys", "add", "one", "--token-budget", str(BUDGET), "--json")
    head = {"authorization": f"Bearer {json.loads(added)['secret']}"}
    servers = [start(real_root, "--ledger", url, "--speculate", "off", **env) for _ in range(2)]

    def ask(number: int) -> int:
        body = {
            "model": DEFAULT,
            "messages": [{"role": "user", "content": f"Count from {number}."}],
            "max_tokens": 20,
        }
        address = servers[number % 2].address
        reply = httpx.post(f"{address}/v1/chat/completions", json=body, headers=head, timeout=300)
        if reply.status_code == 429:
            assert reply.json()["error"]["code"] == "insufficient_quota"
            return 0
        assert reply.status_code == 200, reply.text
        return int(reply.json()["usage"]["total_tokens"])

    try:
        with ThreadPoolExecutor(6) as clients:
            told = list(clients.map(ask, range(24)))
        for server in servers:
            head = {"authorization": f"Bearer {server.key}"}
            shut = httpx.get(f"{server.address}/residency", headers=head, timeout=30).json()
            assert shut["residency"] == "enforced by the kernel"
            assert {one["role"] for one in shut["processes"]} == {
                *("counter-remote", "engine", "keeper-remote")
            }
            # Nothing but the look for the user's name that the driver's C library makes.
            assert set(shut["attempts_by"].get("counter-remote", {})) <= {"connect", "socket"}
    finally:
        assert [server.stop() for server in servers] == [0, 0]
    answered = [one for one in told if one]
    usage = json.loads(freehold("keys", "usage", "--json"))["usage"]
    assert [one["requests"] for one in usage] == [len(answered)]
    assert sum(one["prompt_tokens"] + one["completion_tokens"] for one in usage) == sum(told)
    assert BUDGET - 80 < sum(told) <= BUDGET
    checked = json.loads(freehold("ledger", "verify", "--json"))
    assert (checked["findings"], checked["entries"]) == ([], len(answered))

"""Adapters beside the default model in a running server: they come and go without a restart, each
answer is its solo answer, a key sees only its own, and the ledger's entries replay."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from adapters import vault_beside, write_adapter

from freehold.qwen.config import config_of
from freehold.store import verify
from tests.house.running import DEFAULT, FREEHOLD, Server, start

NAMES = ("law", "med", "poem")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def freehold(root: Path, *words: str) -> Any:
    done = subprocess.run(
        [*FREEHOLD, *words],
        env={
            "PATH": "/usr/bin:/bin",
            "HOME": str(root),
            "FREEHOLD_HOME": str(root),
            "FREEHOLD_KEYS": str(root / "keys"),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def root(real_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("house")
    store = vault_beside(folder / "vault", DEFAULT)
    config = config_of(verify(store, DEFAULT, keep=False))
    for seed, name in enumerate(NAMES):
        write_adapter(folder / name, config, rank=8, seed=seed)
    freehold(store.root, "adapters", "add", str(folder / "law"), "--to", DEFAULT)
    return store.root


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[Server]:
    (root / "freehold.toml").write_text('ledger_content = "clear"\n')
    ledger = str(root / "adapters-ledger.sqlite")
    running = start(root, "--ledger", ledger, seconds=300, FREEHOLD_KEYS=str(root / "keys"))
    yield running
    assert running.stop() == 0


def asker(server: Server, key: str = "") -> httpx.AsyncClient:
    head = {"Authorization": f"Bearer {key or server.key}"}
    return httpx.AsyncClient(base_url=server.address, headers=head, timeout=300)


async def answer(http: httpx.AsyncClient, model: str) -> tuple[str, httpx.Headers]:
    body = {"model": model, "prompt": "The sea is", "max_tokens": 12, "temperature": 0}
    reply = await http.post("/v1/completions", json=body)
    assert reply.status_code == 200, reply.text
    return reply.json()["choices"][0]["text"], reply.headers


async def served(http: httpx.AsyncClient, *, until: int) -> dict[str, Any]:
    """The models listed, once there are so many."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        found = {one["id"]: one for one in (await http.get("/v1/models")).json()["data"]}
        if len(found) == until:
            return found
        await asyncio.sleep(0.5)
    raise AssertionError(found)


async def test_adapters_come_answer_replay_and_leave(root: Path, server: Server) -> None:
    async with asker(server) as http:
        assert set(await served(http, until=2)) == {DEFAULT, "law"}
        for name in ("med", "poem"):
            path = str(root.parent / name)
            await asyncio.to_thread(freehold, root, "adapters", "add", path, "--to", DEFAULT)
        models = await served(http, until=4)
        assert {models[name]["parent"] for name in NAMES} == {DEFAULT}
        everyone = [DEFAULT, *NAMES]
        alone = {name: (await answer(http, name))[0] for name in everyone}
        assert len(set(alone.values())) == 4
        together = await asyncio.gather(*(answer(http, name) for name in everyone * 2))
        assert [text for text, _ in together] == [alone[name] for name in everyone * 2]
        headers = together[1][1]
        assert headers["freehold-adapter-digest"] == models["law"]["adapter"]
        assert headers["freehold-model-digest"] == models[DEFAULT]["digest"]

        made = json.loads(freehold(root, "keys", "add", "ann", "--model", "med", "--json"))
        async with asker(server, made["secret"]) as hers:
            assert set(await served(hers, until=1)) == {"med"}
            refused = await hers.post("/v1/completions", json={"model": "law", "prompt": "x"})
            assert refused.status_code == 404

        freehold(root, "adapters", "remove", "poem")
        assert "poem" not in await served(http, until=3)
        gone = await http.post("/v1/completions", json={"model": "poem", "prompt": "x"})
        assert gone.status_code == 404
    entry = int(headers["x-freehold-entry"])
    ledger = str(root / "adapters-ledger.sqlite")
    told = freehold(root, "ledger", "replay", str(entry), "--ledger", ledger, "--json")
    assert json.loads(told)["identical"] == 1, told

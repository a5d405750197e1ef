"""200 answers of the real model, made in any company, replayed from the ledger bit for bit."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
from functools import partial
from pathlib import Path

import httpx
import pytest

from freehold.signing import keys
from tests.house.running import DEFAULT, FREEHOLD, Server, start

ENTRIES = int(os.environ.get("FREEHOLD_TEST_REPLAYS", "200"))
AT_ONCE = 16
SUBJECTS = ("binary search", "rivers", "a poem", "HTTP", "bread", "a stack", "the moon", "SQL")
FORMS = (
    {"type": "json_object"},
    {"type": "grammar", "syntax": "regex", "definition": "([a-z]+ ){3,9}"},
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def question(rng: random.Random, number: int) -> tuple[str, dict[str, object]]:
    """A path and a body, of every kind that is served."""
    text = f"{number}: tell me about {rng.choice(SUBJECTS)}."
    body: dict[str, object] = {
        "model": DEFAULT,
        "max_tokens": rng.randrange(1, 40),
        "temperature": rng.choice([0, 0.3, 0.7, 1, 1.5]),
        "top_p": rng.choice([1, 0.9]),
        "top_k": rng.choice([0, 20]),
        "min_p": rng.choice([0, 0.05]),
        "frequency_penalty": rng.choice([0, 0.5]),
        "repetition_penalty": rng.choice([1, 1.1]),
        "n": rng.choice([1, 1, 1, 2]),
        "stream": rng.random() < 0.5,
    }
    if rng.random() < 0.2:
        body["stop"] = ["the", "."]
    if rng.random() < 0.2:
        body["logit_bias"] = {"13": -5, "785": 3}
    if rng.random() < 0.3:
        body["response_format"] = rng.choice(FORMS)
    if rng.random() < 0.5:
        return "/v1/completions", {**body, "prompt": text}
    return "/v1/chat/completions", {**body, "messages": [{"role": "user", "content": text}]}


async def ask_all(server: Server) -> None:
    """All questions, at most ``AT_ONCE`` at a time; every tenth client hangs up midway."""
    rng = random.Random(5)
    gate = asyncio.Semaphore(AT_ONCE)
    head = {"Authorization": f"Bearer {server.key}"}
    async with httpx.AsyncClient(base_url=server.address, headers=head, timeout=300) as http:

        async def one(number: int, path: str, body: dict[str, object]) -> None:
            async with gate, http.stream("POST", path, json=body) as reply:
                assert reply.status_code == 200, await reply.aread()
                count = 0
                async for _ in reply.aiter_lines():
                    count += 1
                    if number % 10 == 0 and count > 8:
                        return

        await asyncio.gather(*(one(i, *question(rng, i)) for i in range(ENTRIES)))


def test_200_entries_are_replayed_bit_for_bit(
    real_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = str(tmp_path / "ledger.sqlite")
    server = start(real_root, "--ledger", ledger, "--ledger-content", "clear")
    try:
        asyncio.run(ask_all(server))
    finally:
        assert server.stop() == 0
    env = {**os.environ, "FREEHOLD_HOME": str(real_root)}
    words = ["ledger", "replay", "--sample", str(ENTRIES), "--at-once", str(AT_ONCE)]
    done = subprocess.run(
        [*FREEHOLD, *words, "--ledger", ledger, "--json"],
        check=False, capture_output=True, text=True, env=env,
    )  # fmt: skip
    found = json.loads(done.stdout)
    different = [one for one in found["results"] if not one["identical"]]
    assert different == []
    assert (done.returncode, found["identical"]) == (0, ENTRIES)
    tokens = sum(one["tokens"] for one in found["results"])
    with capsys.disabled():
        print(f"\n{found['identical']} of {ENTRIES} entries bit-identical, {tokens} tokens")


def test_a_sealed_entry_is_replayed_with_the_owner_s_key(real_root: Path, tmp_path: Path) -> None:
    """The server has the public half only; the private one comes back to replay."""
    folder = tmp_path / "signing"
    keys.create(folder, "owner", "p256")
    private = (folder / "owner.key").read_bytes()
    (folder / "owner.key").unlink()
    config = tmp_path / "freehold.toml"
    config.write_text('ledger_content = "sealed"\nledger_reader = "owner"\n')
    env = {
        "FREEHOLD_HOME": str(real_root),
        "FREEHOLD_KEYS": str(folder),
        "FREEHOLD_CONFIG": str(config),
    }
    ledger = str(tmp_path / "ledger.sqlite")
    server = start(real_root, "--ledger", ledger, **env)
    try:
        httpx.post(
            f"{server.address}/v1/completions",
            headers={"Authorization": f"Bearer {server.key}"},
            json={"model": DEFAULT, "prompt": "The winter lake", "max_tokens": 9, "stream": True},
            timeout=60,
        ).raise_for_status()
    finally:
        assert server.stop() == 0
    assert b"winter lake" not in Path(ledger).read_bytes()
    words = [*FREEHOLD, "ledger", "replay", "0", "--ledger", ledger, "--key", "owner"]
    run = partial(subprocess.run, check=False, capture_output=True, text=True)
    assert run(words, env={**os.environ, **env}).returncode == 2
    (folder / "owner.key").write_bytes(private)
    (folder / "owner.key").chmod(0o600)
    done = run(words, env={**os.environ, **env})
    assert done.returncode == 0, done.stderr
    assert "entry 0: bit-identical" in done.stdout


def test_a_changed_answer_is_shown(
    real_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger is given another token, as if the machine had not kept its promise."""
    from freehold.cli.output import Bar
    from freehold.cli.replaying import replay_all
    from freehold.cli.settings import Settings

    ledger = str(tmp_path / "ledger.sqlite")
    server = start(real_root, "--ledger", ledger, "--ledger-content", "clear")
    try:
        httpx.post(
            f"{server.address}/v1/completions",
            headers={"Authorization": f"Bearer {server.key}"},
            json={"model": DEFAULT, "prompt": "1, 2, 3,", "max_tokens": 8, "temperature": 0},
            timeout=60,
        ).raise_for_status()
    finally:
        assert server.stop() == 0
    env = {**os.environ, "FREEHOLD_HOME": str(real_root)}
    shown = subprocess.run(
        [*FREEHOLD, "ledger", "show", "0", "--ledger", ledger, "--json"],
        check=True, capture_output=True, text=True, env=env,
    )  # fmt: skip
    leaves = json.loads(shown.stdout)["leaves"]
    leaves[1]["content"]["answers"][0]["ids"][3] += 1
    leaves[0]["body"]["digest"] = "sha256:00"
    monkeypatch.setenv("FREEHOLD_HOME", str(real_root))
    (result,) = replay_all([leaves], Settings(), 1, Bar(quiet=True))
    assert not result["identical"]
    assert result["differences"][0]["token"] == 3
    assert [one["what"] for one in result["changed"]] == ["model digest"]

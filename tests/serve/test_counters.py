"""Several counters, each a process with a keeper of its own, on one PostgreSQL: keys, what they may
use, what they used and the ledger are one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sql

from freehold.ledger.checking import check
from freehold.ledger.database import Database, place
from freehold.serve.keys import KeyLimits, Keyring, NewKey
from freehold.serve.quotas import Quotas
from freehold.signing import keys as signing
from tests.postgres import Postgres

SCRIPTED = Path(__file__).with_name("scripted.py")
NAME = "scripted-1"
CHAT = "/v1/chat/completions"


@dataclass(kw_only=True)
class Heard:
    """What clients got: tokens by prompt and answer, requests, and refusals by code."""

    tokens: int = 0
    answered: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    broken: int = 0


@dataclass(kw_only=True)
class House:
    """Counters on one PostgreSQL."""

    url: str
    folder: Path
    addresses: list[str] = field(default_factory=list)
    processes: list[asyncio.subprocess.Process] = field(default_factory=list)
    keepers: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ring = Keyring(self.url)
        signing.create(self.folder / "keys", "ledger", "ed25519")

    async def open(self, delay: float = 0.001) -> None:
        """One counter more."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(SCRIPTED), str(self.folder), "5", str(delay), self.url, self.url,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        assert process.stdout is not None
        address, _, keeper = (await process.stdout.readline()).decode().split()
        self.processes.append(process)
        self.addresses.append(address)
        self.keepers.append(int(keeper))

    async def close(self) -> None:
        """End them well: all is written."""
        for process in self.processes:
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
                await process.wait()

    async def well(self) -> None:
        """Wait until every counter says that it can do its work."""
        until = time.monotonic() + 60
        async with httpx.AsyncClient(timeout=30) as http:
            for address in self.addresses:
                while (await http.get(f"{address}/health")).status_code != 200:
                    assert time.monotonic() < until, address
                    await asyncio.sleep(0.2)

    async def hammer(
        self, key: NewKey, clients: int, seconds: float, seed: int = 1, patience: int = 1 << 30
    ) -> Heard:
        """``clients`` that ask all counters, each until ``seconds`` have passed or it was refused
        ``patience`` times in a row."""
        heard, until = Heard(), time.monotonic() + seconds
        head = {"authorization": f"Bearer {key.secret}"}
        limits = httpx.Limits(max_connections=clients)
        async with httpx.AsyncClient(headers=head, timeout=30, limits=limits) as http:
            work = [self._ask(http, heard, random.Random(seed * 1000 + i), until, patience)
                    for i in range(clients)]  # fmt: skip
            await asyncio.gather(*work)
        return heard

    async def _ask(
        self,
        http: httpx.AsyncClient,
        heard: Heard,
        rng: random.Random,
        until: float,
        patience: int,
    ) -> None:
        refused = 0
        while time.monotonic() < until and refused < patience:
            body: dict[str, Any] = {
                "model": NAME,
                "messages": [{"role": "user", "content": "x" * rng.randrange(1, 40)}],
                "stream": rng.random() < 0.5,
            }
            if rng.random() < 0.8:
                body["max_tokens"] = rng.randrange(1, 40)
            if body["stream"]:
                body["stream_options"] = {"include_usage": True}
            address = rng.choice(self.addresses)
            try:
                reply = await http.post(address + CHAT, json=body)
            except httpx.HTTPError:
                heard.broken += 1
                continue
            self._count(reply, heard)
            refused = 0 if reply.status_code == 200 else refused + 1

    def _count(self, reply: httpx.Response, heard: Heard) -> None:
        if reply.status_code != 200:
            code = reply.json()["error"]["code"]
            heard.refused[code] = heard.refused.get(code, 0) + 1
            assert reply.status_code == 429, reply.text
            return
        text = reply.text
        if reply.headers["content-type"].startswith("text/event-stream"):
            text = next(line[6:] for line in reversed(reply.text.split("\n"))
                        if line.startswith("data: {"))  # fmt: skip
        heard.tokens += json.loads(text)["usage"]["total_tokens"]
        heard.answered += 1

    def used(self) -> tuple[int, int]:
        """Requests and tokens by the usage report."""
        told = self.ring.usage(date(1970, 1, 1))
        tokens = sum(one.prompt_tokens + one.completion_tokens for one in told)
        return sum(one.requests for one in told), tokens

    def recorded(self) -> tuple[int, int, int]:
        """Entries, entries left open, and tokens by the ledger, which must be as it was written."""
        database = Database(place(self.url, self.folder), writer=False)
        found = check(database)
        assert found.findings == []
        with database.transaction() as db:
            rows = db.execute(sql.text("SELECT body FROM leaves WHERE kind = 'seal'")).all()
        database.close()
        bodies = [json.loads(bytes(row.body)) for row in rows]
        tokens = sum(one["prompt_tokens"] + one["completion_tokens"] for one in bodies
                     if one["ending"] == "answered")  # fmt: skip
        return found.entries, len(found.open), tokens


@pytest.fixture
async def house(postgres: Postgres, tmp_path: Path) -> AsyncIterator[House]:
    made = House(url=postgres.new(), folder=tmp_path)
    await made.open()
    await made.open()
    yield made
    for process in made.processes:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    made.ring.close()


async def test_a_budget_is_spent_to_the_token_and_never_passed(house: House) -> None:
    key = house.ring.add("one", limits=KeyLimits(token_budget=4000))
    heard = await house.hammer(key, 24, seconds=120, patience=10)
    await house.close()
    assert heard.broken == 0
    assert set(heard.refused) == {"insufficient_quota"}
    requests, tokens = house.used()
    assert (tokens, requests) == (heard.tokens, heard.answered)
    assert 4000 - 60 < tokens <= 4000
    assert house.recorded() == (heard.answered, 0, heard.tokens)


async def test_a_minute_is_the_same_minute_everywhere(house: House) -> None:
    key = house.ring.add("one", limits=KeyLimits(requests_per_minute=20, tokens_per_minute=1500))
    heard = await house.hammer(key, 12, seconds=2)
    await house.close()
    assert house.used() == (heard.answered, heard.tokens)
    engine = sql.create_engine(house.url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.connect() as db:
        minutes = db.execute(sql.text("SELECT requests, tokens FROM key_minutes")).all()
    engine.dispose()
    assert minutes
    assert all(row.requests <= 20 and row.tokens <= 1500 for row in minutes)
    assert set(heard.refused) == {"rate_limit_exceeded"}


async def test_requests_at_once_are_counted_over_all_counters(house: House) -> None:
    await house.open(delay=0.2)
    key = house.ring.add("one", limits=KeyLimits(concurrency=3))
    house.addresses = [house.addresses[-1], *house.addresses[:1]]
    peak, done = 0, asyncio.Event()

    async def look() -> None:
        nonlocal peak
        engine = sql.create_engine(house.url.replace("postgresql:", "postgresql+psycopg:"))
        with engine.connect() as db:
            while not done.is_set():
                count = db.execute(sql.text("SELECT count(*) FROM key_running")).scalar_one()
                db.rollback()
                peak = max(peak, count)
                await asyncio.sleep(0.02)
        engine.dispose()

    looking = asyncio.create_task(look())
    heard = await house.hammer(key, 16, seconds=2)
    done.set()
    await looking
    assert peak == 3
    assert set(heard.refused) == {"rate_limit_exceeded"}


async def test_a_key_made_limited_or_revoked_at_one_is_so_at_the_other(house: House) -> None:
    key = house.ring.add("one", limits=KeyLimits(expires=time.time() + 1.5))
    head = {"authorization": f"Bearer {key.secret}"}
    other = house.ring.add("two")

    async def codes(head: dict[str, str]) -> list[tuple[int, str | None]]:
        async with httpx.AsyncClient(headers=head) as http:
            replies = [await http.get(f"{one}/v1/models") for one in house.addresses]
        return [(r.status_code, r.json().get("error", {}).get("code")) for r in replies]

    assert await codes(head) == [(200, None)] * 2
    await asyncio.sleep(1.6)
    assert await codes(head) == [(401, "expired_api_key")] * 2
    head = {"authorization": f"Bearer {other.secret}"}
    assert await codes(head) == [(200, None)] * 2
    house.ring.revoke("two")
    assert await codes(head) == [(401, "invalid_api_key")] * 2


async def test_a_counter_that_is_killed_leaves_what_it_had_set_aside(house: House) -> None:
    """Its tokens stay set aside, so that no limit is passed, and come back in a stated time: a
    minute after its requests' deadline."""
    key = house.ring.add("one", limits=KeyLimits(token_budget=3000))
    await house.open(delay=0.5)
    slow = house.addresses.pop()
    head = {"authorization": f"Bearer {key.secret}"}
    body = {"model": NAME, "messages": [{"role": "user", "content": "y" * 30}], "max_tokens": 30}
    async with httpx.AsyncClient(headers=head, timeout=30) as http:
        asking = [asyncio.create_task(http.post(slow + CHAT, json=body)) for _ in range(5)]
        await asyncio.sleep(1.2)
        os.kill(house.processes.pop().pid, signal.SIGKILL)
        failed = await asyncio.gather(*asking, return_exceptions=True)
    assert all(isinstance(one, httpx.HTTPError) for one in failed)
    heard = await house.hammer(key, 16, seconds=3)
    await house.close()
    used = house.used()[1]
    assert used == heard.tokens
    info = house.ring.check(key.secret)
    assert info is not None
    with pytest.raises(Exception, match="are used or set aside"):
        await _begin(house, info, 3000 - used, after=0)
    assert await _begin(house, info, 3000 - used, after=661) == 3000 - used - 1
    entries, left_open, tokens = house.recorded()
    assert (entries, left_open, tokens) == (heard.answered + 5, 5, heard.tokens)


async def _begin(house: House, key: Any, room: int, *, after: float) -> int:
    """What a request is given that wants all of ``room`` tokens, so many seconds from now."""
    from freehold.serve.answer import Usage

    quotas = Quotas(house.ring, 600, clock=lambda: time.time() + after)
    return await quotas.spending(key, NAME).begin(
        Usage(prompt_tokens=1), answers=1, most=room - 1, firm=True
    )


@pytest.mark.slow
async def test_two_hundred_clients_of_one_key(
    house: House, capsys: pytest.CaptureFixture[str]
) -> None:
    budget = 200_000
    key = house.ring.add("one", limits=KeyLimits(token_budget=budget, concurrency=100))
    heard = await house.hammer(key, 200, seconds=30)
    await house.close()
    assert heard.broken == 0
    assert house.used() == (heard.answered, heard.tokens)
    assert house.recorded() == (heard.answered, 0, heard.tokens)
    assert heard.tokens <= budget
    with capsys.disabled():
        print(
            f"\ntwo counters, 200 clients of one key, 30 s: {heard.answered} answered, "
            f"{heard.tokens} tokens by clients, usage report and ledger alike, refused "
            f"{heard.refused}"
        )


@pytest.mark.slow
async def test_keepers_and_counters_killed_under_load(house: House) -> None:
    """What clients were told is used and recorded; nothing passes the budget."""
    key = house.ring.add("one", limits=KeyLimits(token_budget=1_000_000))
    asking = asyncio.create_task(house.hammer(key, 12, seconds=8, seed=3))
    for _ in range(3):
        await asyncio.sleep(1.2)
        await house.open()
        os.kill(house.processes[0].pid, signal.SIGKILL)
        house.addresses.pop(0)
        await house.processes.pop(0).wait()
    heard = await asking
    await house.close()
    _, used = house.used()
    entries, _, tokens = house.recorded()
    assert heard.answered <= entries
    assert tokens >= heard.tokens
    assert used <= tokens
    # What was answered and not yet counted when a counter died: at most what it had under way.
    assert heard.tokens - used <= 3 * 12 * 86


async def test_a_data_base_that_is_away_refuses_and_counts_on(
    house: House, postgres: Postgres
) -> None:
    key = house.ring.add("one", limits=KeyLimits(token_budget=100_000))
    before = await house.hammer(key, 4, seconds=1)
    postgres.stop()
    try:
        async with httpx.AsyncClient(headers={"authorization": f"Bearer {key.secret}"}) as http:
            away = await http.get(f"{house.addresses[0]}/v1/models", timeout=30)
            assert (away.status_code, away.json()["error"]["code"]) == (503, "unavailable")
            pulse = await http.get(f"{house.addresses[1]}/health", timeout=30)
            assert pulse.json()["status"] in ("ledger-down", "keys-down")
    finally:
        postgres.start()
    await house.well()
    after = await house.hammer(key, 4, seconds=1)
    await house.close()
    assert after.answered
    assert house.used() == (before.answered + after.answered, before.tokens + after.tokens)

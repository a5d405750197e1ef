"""Several keepers on one PostgreSQL: one chain, whoever writes and whoever dies."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sql
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from freehold.errors import LedgerError, UsageError
from freehold.ledger import KeeperSettings, LedgerProcess, log
from freehold.ledger import database as database_module
from freehold.ledger.checking import check
from freehold.ledger.database import Database, place
from freehold.ledger.leaves import Writer
from freehold.ledger.log import Log
from freehold.signing import keys
from tests.ledger.conftest import OUTCOME, RECORD, fill
from tests.postgres import Postgres

Open = Callable[..., Log]
KILLS = int(os.environ.get("FREEHOLD_TEST_KILLS", "200"))


@pytest.fixture
def url(postgres: Postgres) -> str:
    return postgres.new()


def verified(url: str, **more: object) -> tuple[int, int]:
    """Leaves and entries of a ledger in which everything is as it was written."""
    found = check(Database(place(url, Path()), writer=False), **more)  # type: ignore[arg-type]
    assert found.findings == []
    return found.size, found.entries


def test_sequencers_take_turns(open_log: Open, url: str) -> None:
    logs = [open_log(url) for _ in range(3)]
    kept = []
    for turn in range(30):
        fill(logs[turn % 3], 1)
        kept.append((f"{turn}", logs[turn % 3].checkpoint()))
    assert verified(url, against=kept) == (90, 30)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 40)), max_size=25))
def test_any_order_of_turns_makes_one_chain(
    open_log: Open, postgres: Postgres, turns: list[tuple[int, int]]
) -> None:
    """With so few leaves read one by one that both ways of catching up are taken."""
    url, writer = postgres.new(), Writer("hash")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(log, "_CLOSE", 20)
        logs = [open_log(url) for _ in range(3)]
        for who, leaves in turns:
            logs[who].commit([writer.note("tick", {}) for _ in range(leaves)])
        assert verified(url)[0] == sum(leaves for _, leaves in turns)
        for one in logs:
            one.close()


def test_they_start_at_once_on_an_empty_data_base(open_log: Open, url: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        logs = list(pool.map(lambda _: open_log(url), range(4)))
        list(pool.map(lambda one: fill(one, 20), logs))
    assert len({str(one.verifier) for one in logs}) == 1
    assert verified(url) == (240, 80)


def test_an_erasure_is_done_by_one_of_them(open_log: Open, url: str) -> None:
    from freehold.ledger.keeper import grant

    one, two = open_log(url), open_log(url)
    fill(one, 2)
    one.wish(0, "art. 17")
    seen = two.wishes()
    assert grant(one, Writer("hash")) == [0]
    two.wishes = lambda: seen  # type: ignore[method-assign]  # looked before the other had done it
    assert grant(two, Writer("hash")) == []
    assert [leaf["kind"] for leaf in one.entry(0)] == ["open", "seal", "erase"]
    verified(url)


def test_a_keeper_that_stands_still_in_its_turn_is_passed_by(
    open_log: Open, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one whose machine is frozen, or cut off from the network: here, a turn held open."""
    monkeypatch.setattr(database_module, "_STALL_SECONDS", 1)
    one, two = open_log(url), open_log(url)
    fill(one, 1)

    def stand_still() -> None:
        with one._database.transaction(write=True) as db:
            one._database.turn(db)
            fill(two, 1)  # waits until PostgreSQL has ended the other's turn

    with pytest.raises(LedgerError):
        stand_still()
    fill(one, 1)
    assert verified(url) == (9, 3)


def test_a_turn_that_never_comes_is_an_error_and_no_hole(
    open_log: Open, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "_TURN_SECONDS", 1)
    one, two = open_log(url), open_log(url)
    with one._database.transaction(write=True) as db:
        one._database.turn(db)
        with pytest.raises(LedgerError, match="no entry, so no reply"):
            fill(two, 1)
    fill(two, 1)
    assert verified(url) == (3, 1)


def test_one_that_takes_no_turns_is_kept_out(open_log: Open, url: str) -> None:
    """An older Freehold holds the lock alone."""
    fill(open_log(url), 1)
    other = sql.create_engine(place(url, Path()))
    lock = sql.text("SELECT pg_try_advisory_lock(:number)")
    number = {"number": database_module._LOCK_NUMBER}
    with other.connect() as db:
        assert db.execute(lock, number).scalar() is False
    other.dispose()


def test_an_older_keeper_is_named(open_log: Open, url: str) -> None:
    older = sql.create_engine(place(url, Path()))
    with older.connect() as db:
        db.execute(
            sql.text("SELECT pg_advisory_lock(:number)"), {"number": database_module._LOCK_NUMBER}
        )
        with pytest.raises(UsageError, match="an older Freehold"):
            open_log(url)
    older.dispose()


def test_a_log_that_was_changed_between_turns_is_refused(open_log: Open, url: str) -> None:
    one, two = open_log(url), open_log(url)
    fill(one, 2)
    fill(two, 1)
    hostile = sql.create_engine(place(url, Path()))
    with hostile.begin() as db:
        db.execute(sql.text("UPDATE leaves SET kind = 'note' WHERE place = 7"))
    with pytest.raises(LedgerError, match="not the one this server wrote"):
        fill(one, 1)
    hostile.dispose()


# --- kills ----------------------------------------------------------------------------------------


class Keepers:
    """Keepers under load, killed at random; what they acknowledged."""

    def __init__(self, url: str, folder: Path) -> None:
        self._settings = KeeperSettings(root=str(folder), keys=str(folder / "keys"), ledger=url)
        self.sealed: set[int] = set()
        self._pids: list[int] = []

    async def one(self, place: int, ended: asyncio.Event) -> None:
        """A keeper, again and again, with four clients."""
        while not ended.is_set():
            ledger = await LedgerProcess.start(self._settings)
            self._pids[place] = ledger._process.pid
            async with ledger:
                clients = [self._client(ledger, ended) for _ in range(4)]
                with contextlib.suppress(LedgerError):
                    await asyncio.gather(*clients)

    async def _client(self, ledger: LedgerProcess, ended: asyncio.Event) -> None:
        while not ended.is_set():
            receipt = await (await ledger.open(RECORD)).seal(OUTCOME)
            assert receipt.entry not in self.sealed
            self.sealed.add(receipt.entry)

    async def _more(self, entries: int) -> None:
        """Wait for so many more acknowledged entries."""
        wanted = len(self.sealed) + entries
        async with asyncio.timeout(60):
            while len(self.sealed) < wanted:  # noqa: ASYNC110  (there is no event)
                await asyncio.sleep(0.01)

    async def run(self, kills: int) -> None:
        self._pids, ended = [0, 0], asyncio.Event()
        tasks = [asyncio.create_task(self.one(place, ended)) for place in range(2)]
        for _ in range(kills):
            await self._more(random.randrange(1, 40))
            with contextlib.suppress(ProcessLookupError):
                os.kill(random.choice([pid for pid in self._pids if pid]), signal.SIGKILL)
        await self._more(20)
        ended.set()
        await asyncio.gather(*tasks)


def killed(url: str, folder: Path, kills: int) -> tuple[int, int]:
    """Acknowledged and recorded entries of two keepers that were killed so often."""
    keys.create(folder / "keys", "ledger", "ed25519")
    keepers = Keepers(url, folder)
    asyncio.run(keepers.run(kills))
    database = Database(place(url, folder), writer=False)
    found = check(database)
    assert found.findings == []
    with database.transaction() as db:
        rows = db.execute(sql.text("SELECT entry FROM leaves WHERE kind = 'seal'"))
        written = {row.entry for row in rows}
    database.close()
    assert keepers.sealed <= written
    assert len(written) + len(found.open) == found.entries
    return len(keepers.sealed), found.entries


def test_killed_keepers_leave_one_whole_chain(url: str, tmp_path: Path) -> None:
    sealed, _ = killed(url, tmp_path, 4)
    assert sealed


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_many_kills(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sealed, entries = killed(url, tmp_path, KILLS)
    with capsys.disabled():
        print(f"\n{KILLS} kills of two keepers on one PostgreSQL: {sealed} acknowledged, all of "
              f"{entries} entries in one chain")  # fmt: skip

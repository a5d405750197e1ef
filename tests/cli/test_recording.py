"""What a keeper may reach is settled before it starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from freehold.cli.recording import keeper_of
from freehold.cli.settings import Settings
from freehold.errors import UsageError


@pytest.fixture(autouse=True)
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FREEHOLD_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FREEHOLD_KEYS", str(tmp_path / "keys"))
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")


def test_it_gets_files_and_never_the_vault(tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "ledger.key").touch()
    keeper = keeper_of(Settings())
    assert keeper is not None
    file = tmp_path / "home" / "ledger.sqlite"
    assert set(keeper.reach.write) == {f"{file}{end}" for end in ("", ".lock", "-wal", "-shm")}
    assert all(Path(path).is_file() for path in keeper.reach.write)
    assert keeper.reach.connect == keeper.peers == ()


def test_a_server_is_named_by_its_address() -> None:
    keeper = keeper_of(Settings(ledger="postgresql://me:secret@127.0.0.1:5433/led"))
    assert keeper is not None
    assert keeper.peers == (("127.0.0.1", 5433),)
    assert keeper.reach.connect == (5433,)
    assert "hostaddr=127.0.0.1" in keeper.ledger
    assert "me:secret@" in keeper.ledger
    keeper = keeper_of(Settings(ledger="postgresql://me@/led?host=/run/pg&port=5434"))
    assert keeper is not None
    assert keeper.peers == (("/run/pg/.s.PGSQL.5434",),)
    assert keeper.reach.connect == ()


def test_off_is_off_and_a_host_that_is_not_there_is_named() -> None:
    assert keeper_of(Settings(ledger="off")) is None
    with pytest.raises(UsageError, match=r"host a\.\.b of ledger is not known"):
        keeper_of(Settings(ledger="postgresql://me@a..b/led"))

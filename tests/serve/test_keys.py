"""Keys: made, shown once, stored hashed, revoked at once."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from freehold.errors import NotFoundError, StorageError, UsageError
from freehold.serve import database
from freehold.serve.keys import KeyLimits, Keyring
from freehold.serve.migrations import LATEST, STEPS


def _url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'deep' / 'keys.db'}"


@pytest.fixture
def ring(tmp_path: Path) -> Keyring:
    return Keyring(_url(tmp_path))


def test_life_of_a_key(ring: Keyring) -> None:
    new = ring.add("laptop")
    assert new.secret.startswith(f"fh-{new.id}-")
    found = ring.check(new.secret)
    assert found is not None
    assert (found.id, found.name, found.revoked) == (new.id, "laptop", None)
    assert datetime.now(UTC) - found.created < timedelta(minutes=1)
    revoked = ring.revoke("laptop")
    assert revoked.id == new.id
    assert revoked.revoked is not None
    assert ring.check(new.secret) is None
    assert [k.revoked is None for k in ring.list()] == [False]


def test_keys_outlive_the_process(tmp_path: Path) -> None:
    secret = Keyring(_url(tmp_path)).add("kept").secret
    assert Keyring(_url(tmp_path)).check(secret) is not None


def test_revoking_elsewhere_counts_at_once(tmp_path: Path) -> None:
    one, other = Keyring(_url(tmp_path)), Keyring(_url(tmp_path))
    new = one.add("shared")
    assert other.check(new.secret) is not None
    one.revoke(new.id)
    assert other.check(new.secret) is None


def test_a_temporary_key_is_never_stored(tmp_path: Path) -> None:
    ring = Keyring(_url(tmp_path))
    secret = ring.add_temporary()
    assert ring.check(secret) is not None
    assert list(ring.list()) == []
    assert Keyring(_url(tmp_path)).check(secret) is None


def test_the_file_holds_no_secret_and_is_the_owners(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        new = Keyring(_url(tmp_path)).add("x")
    finally:
        os.umask(old)
    file = tmp_path / "deep" / "keys.db"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    content = b"".join(path.read_bytes() for path in file.parent.glob("keys.db*"))
    assert new.id.encode() in content
    assert new.secret.encode() not in content
    assert new.secret.rpartition("-")[2].encode() not in content
    assert new.secret not in repr(new)


def test_a_file_open_to_others_is_refused(tmp_path: Path) -> None:
    Keyring(_url(tmp_path))
    file = tmp_path / "deep" / "keys.db"
    file.chmod(0o644)
    with pytest.raises(UsageError, match="chmod 600"):
        Keyring(_url(tmp_path))


@pytest.mark.parametrize(
    "wrong",
    ["", "fh", "fh-", "fh--", "x" * 10_000, "fh-é-x", "fh-' OR 1=1 --x", "fh-\x00-\x00"],
)
def test_wrong_secrets(ring: Keyring, wrong: str) -> None:
    assert ring.check(wrong) is None


def test_nearly_right_secrets(ring: Keyring) -> None:
    secret = ring.add("a").secret
    other = ring.add("b").secret
    last = "A" if secret[-1] != "A" else "B"
    mixed = secret.rpartition("-")[0] + "-" + other.split("-", 2)[2]
    for wrong in (secret[:-1] + last, secret[:-1], secret + "A", secret.upper(), mixed):
        assert ring.check(wrong) is None


def test_names(ring: Keyring) -> None:
    ring.add("one")
    with pytest.raises(UsageError, match="in use") as caught:
        ring.add("one")
    assert caught.value.param == "name"
    for bad in ("", " x", "x ", "a\nb", "x" * 65):
        with pytest.raises(UsageError) as caught:
            ring.add(bad)
        assert caught.value.param == "name"
    ring.revoke("one")
    again = ring.add("one")
    assert ring.check(again.secret) is not None


def test_revoking_what_is_not_there(ring: Keyring) -> None:
    ring.add("one")
    ring.revoke("one")
    for name in ("one", "two"):
        with pytest.raises(NotFoundError, match="keys list"):
            ring.revoke(name)


def test_bad_places(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError):
        Keyring(f"sqlite:///{tmp_path / 'file' / 'keys.db'}")
    for url in ("sqlite://", "sqlite:///:memory:", "no url at all"):
        with pytest.raises(UsageError):
            Keyring(url)


def test_a_damaged_database_is_a_storage_error(tmp_path: Path) -> None:
    Keyring(_url(tmp_path)).close()
    file = tmp_path / "deep" / "keys.db"
    file.write_bytes(b"this is no database, whatever else" * 100)
    with pytest.raises(StorageError, match="key database"):
        Keyring(_url(tmp_path))


def test_a_role_is_kept_and_an_unknown_one_refused(ring: Keyring) -> None:
    new = ring.add("auditor of 2026", role="auditor")
    found = ring.check(new.secret)
    assert found is not None
    assert found.role == "auditor"
    assert next(key for key in ring.list() if key.id == new.id).role == "auditor"
    with pytest.raises(UsageError, match="user or auditor"):
        ring.add("x", role="root")


@pytest.mark.parametrize("steps", [1, 2])
def test_a_file_of_an_older_form_is_brought_up_to_date(tmp_path: Path, steps: int) -> None:
    secret = f"fh-{'0' * 12}-old"
    (tmp_path / "deep").mkdir(mode=0o700)
    file = tmp_path / "deep" / "keys.db"
    file.touch(0o600)
    with sqlite3.connect(file) as db:
        for statement in [one for step in STEPS[:steps] for one in step]:
            db.execute(statement.format(bytes="BLOB", float="FLOAT"))
        db.execute(
            "INSERT INTO api_keys (id, name, secret_sha256, created) VALUES (?, 'old', ?, 0)",
            ("0" * 12, hashlib.sha256(secret.encode()).digest()),
        )
    for _ in range(2):
        found = Keyring(_url(tmp_path)).check(secret)
        assert found is not None
        assert (found.role, found.limits) == ("user", KeyLimits())
    with sqlite3.connect(file) as db:
        assert db.execute("SELECT version FROM freehold_schema").fetchall() == [(LATEST,)]


def test_a_file_of_a_newer_form_is_left_alone(tmp_path: Path) -> None:
    Keyring(_url(tmp_path))
    with sqlite3.connect(tmp_path / "deep" / "keys.db") as db:
        db.execute("UPDATE freehold_schema SET version = 99")
    with pytest.raises(UsageError, match="newer Freehold"):
        Keyring(_url(tmp_path))


def test_many_may_open_a_new_file_at_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        rings = list(threads.map(lambda _: Keyring(_url(tmp_path)), range(8)))
    new = rings[0].add("one")
    assert all(ring.check(new.secret) is not None for ring in rings)


@pytest.mark.parametrize("code", [sqlite3.SQLITE_BUSY, sqlite3.SQLITE_BUSY_RECOVERY])
def test_a_file_locked_for_a_moment_is_tried_again(code: int) -> None:
    """Two that turn a new file to its log at once: SQLite refuses one of them without waiting."""
    asked: list[str] = []

    class Locked:
        def execute(self, statement: str) -> sqlite3.Cursor:
            asked.append(statement)
            if len(asked) < 3:
                raise _refused(code)
            return sqlite3.connect(":memory:").execute(statement)

    database._write_ahead(Locked())  # type: ignore[arg-type]
    assert asked == ["PRAGMA journal_mode=WAL"] * 3


def test_a_file_that_cannot_be_read_is_not_tried_again() -> None:
    asked: list[str] = []

    class Broken:
        def execute(self, statement: str) -> sqlite3.Cursor:
            asked.append(statement)
            raise _refused(sqlite3.SQLITE_CANTOPEN)

    with pytest.raises(sqlite3.OperationalError):
        database._write_ahead(Broken())  # type: ignore[arg-type]
    assert len(asked) == 1


def _refused(code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("database is locked")
    error.sqlite_errorcode = code
    return error


# --- limits ---------------------------------------------------------------------------------------


def test_limits_are_kept_and_changed(ring: Keyring) -> None:
    limits = KeyLimits(models=("a", "b"), tokens_per_day=5, expires=time.time() + 100)
    new = ring.add("one", limits=limits)
    found = ring.check(new.secret)
    assert found is not None
    assert found.limits == limits
    assert not found.expired
    assert ring.limit("one", KeyLimits(expires=1.0)).limits.tokens_per_day is None
    changed = ring.check(new.secret)
    assert changed is not None
    assert changed.expired
    assert ring.find(new.id).limits == KeyLimits(expires=1.0)
    with pytest.raises(NotFoundError):
        ring.limit("two", KeyLimits())


@pytest.mark.parametrize(
    ("limits", "param"),
    [
        ({"concurrency": -1}, "concurrency"),
        ({"token_budget": 1 << 60}, "token_budget"),
        ({"models": ("",)}, "models"),
        ({"models": ("a\nb",)}, "models"),
        ({"models": ("a",) * 65}, "models"),
    ],
)
def test_limits_that_cannot_be(ring: Keyring, limits: dict[str, Any], param: str) -> None:
    with pytest.raises(UsageError) as caught:
        ring.add("one", limits=KeyLimits(**limits))
    assert caught.value.param == param
    assert ring.list() == []


@pytest.mark.parametrize("written", ["", "[]", '{"x": 1}', '{"expires": "soon"}', "\x00"])
def test_damaged_limits_open_nothing(ring: Keyring, tmp_path: Path, written: str) -> None:
    new = ring.add("one")
    with sqlite3.connect(tmp_path / "deep" / "keys.db") as db:
        db.execute("UPDATE api_keys SET limits = ?", (written,))
    with pytest.raises(StorageError, match="limits of key"):
        ring.check(new.secret)

"""Keys: made, shown once, stored hashed, revoked at once."""

from __future__ import annotations

import os
import sqlite3
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from freehold.errors import NotFoundError, StorageError, UsageError
from freehold.serve.keys import Keyring


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
    content = file.read_bytes()
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
    Keyring(_url(tmp_path))
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


def test_a_file_from_before_there_were_roles_holds_users(tmp_path: Path) -> None:
    new = Keyring(_url(tmp_path)).add("old")
    with sqlite3.connect(tmp_path / "deep" / "keys.db") as db:
        db.execute("ALTER TABLE api_keys DROP COLUMN role")
    for _ in range(2):
        found = Keyring(_url(tmp_path)).check(new.secret)
        assert found is not None
        assert found.role == "user"

"""The log: groups, proofs, the lock, failures and recovery, on SQLite and on PostgreSQL."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sql

from freehold.errors import IntegrityError, LedgerError, NotFoundError, UsageError
from freehold.ledger import merkle, schema
from freehold.ledger.checking import check
from freehold.ledger.database import Database, place
from freehold.ledger.keeper import grant
from freehold.ledger.leaves import Writer
from freehold.ledger.log import Log, Reader
from freehold.signing import keys, notes
from tests.ledger.conftest import OUTCOME, RECORD, fill

Open = Callable[..., Log]


def test_a_group_is_numbered_and_covered_by_its_checkpoint(open_log: Open, url: str) -> None:
    log, writer = open_log(url), Writer("hash")
    first = log.commit([writer.open(RECORD), writer.open(RECORD), writer.note("x", {"a": 1})])
    second = log.commit([writer.seal(0, OUTCOME)])
    assert (first.first, first.size, second.first, second.size) == (0, 3, 3, 4)
    note = notes.parse(second.note)
    notes.check(note, log.verifier)
    assert notes.checkpoint(note).size == 4
    assert log.checkpoint() == second.note
    assert [leaf["kind"] for leaf in log.entry(0)] == ["open", "seal"]
    with pytest.raises(NotFoundError):
        log.entry(3)


def test_a_log_goes_on_where_it_was(open_log: Open, url: str) -> None:
    log = open_log(url)
    fill(log, 300)
    before = log.checkpoint()
    log.close()
    log = open_log(url)
    assert log.size == 900
    assert log.checkpoint() == before
    fill(log, 100)
    found = check(Database(place(url, Path()), writer=False))
    assert found.findings == []
    assert (found.size, found.entries, found.open) == (1200, 400, set())


def test_proofs_hold_at_every_size(open_log: Open) -> None:
    log = open_log()
    fill(log, 250)
    leaves = [
        merkle.leaf_hash(
            f"freehold ledger leaf v1\n{x['kind']}\n{x['entry']}\n{x['commitment']}\n".encode()
        )
        for x in log.leaves(0, 1000)
    ]
    edge, roots = merkle.Frontier(), [merkle.EMPTY_ROOT]
    for leaf in leaves:
        list(edge.append(leaf))
        roots.append(edge.root())
    for leaf, size in [(0, 1), (5, 257), (255, 256), (256, 513), (700, 750), (511, 749)]:
        proof = log.inclusion(leaf, size)
        assert proof["leaf_hash"] == leaves[leaf].hex()
        path = [bytes.fromhex(one) for one in proof["path"]]
        merkle.check_inclusion(leaves[leaf], leaf, size, path, roots[size])
    for old, new in [(0, 750), (1, 2), (255, 700), (256, 750), (513, 514), (750, 750)]:
        path = [bytes.fromhex(one) for one in log.consistency(old, new)["proof"]]
        merkle.check_consistency(old, new, roots[old], roots[new], path)
    with pytest.raises(UsageError):
        log.inclusion(750)
    with pytest.raises(UsageError):
        log.consistency(3, 751)


def test_two_sequencers_cannot_write_one_file(open_log: Open, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.sqlite'}"
    first = open_log(url)
    with pytest.raises(UsageError, match="another process writes"):
        open_log(url)
    fill(first, 1)
    first.close()
    fill(open_log(url), 1)


def test_who_reads_needs_no_lock(open_log: Open, url: str) -> None:
    log = open_log(url)
    fill(log, 2)
    reader = Reader(Database(place(url, Path()), writer=False))
    assert reader.checkpoint() == log.checkpoint()
    fill(log, 1)
    assert reader.checkpoint() == log.checkpoint()
    reader.close()


def test_a_ledger_is_verified_while_it_is_written(open_log: Open, url: str) -> None:
    log, ended = open_log(url), threading.Event()
    fill(log, 1)

    def verify() -> list[list[str]]:
        database, found = Database(place(url, Path()), writer=False), []
        while not ended.is_set():
            found.append(check(database).findings)
        database.close()
        return found

    with ThreadPoolExecutor(1) as pool:
        verifying = pool.submit(verify)
        fill(log, 150)
        ended.set()
    assert len(verifying.result()) > 3
    assert not any(verifying.result())


def test_a_refused_question_costs_no_connection(open_log: Open, url: str) -> None:
    """With PostgreSQL the connection holds a lock."""
    log = open_log(url)
    fill(log, 1)
    before = log._database._connection
    with pytest.raises(UsageError):
        log.inclusion(99)
    assert log._database._connection is before
    fill(log, 1)
    assert log._database._connection is before


def test_another_key_is_refused(open_log: Open, tmp_path: Path) -> None:
    open_log().close()
    other = keys.create(tmp_path / "keys", "other", "ed25519")
    with pytest.raises(UsageError, match="begun with another key"):
        Log(Database(place("ledger.sqlite", tmp_path), writer=True), other)


def test_a_changed_log_is_not_written_on(open_log: Open, tmp_path: Path) -> None:
    log = open_log()
    fill(log, 2)
    log.close()
    with sql.create_engine(f"sqlite:///{tmp_path / 'ledger.sqlite'}").begin() as db:
        db.execute(sql.delete(schema.LEAVES).where(schema.LEAVES.c.place == 5))
    with pytest.raises(IntegrityError, match="does not match its last checkpoint"):
        open_log()


def test_no_ledger_is_said(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="there is no ledger"):
        Reader(Database(place("none.sqlite", tmp_path), writer=False))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "url", ["mysql://x/y", "postgresql:///", "://", "sqlite://", "postgresql+asyncpg://h/d"]
)
def test_an_address_that_cannot_be_is_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        place(url, tmp_path)


def test_a_newer_ledger_is_refused(open_log: Open, tmp_path: Path) -> None:
    open_log().close()
    with sql.create_engine(f"sqlite:///{tmp_path / 'ledger.sqlite'}").begin() as db:
        db.execute(sql.insert(schema.MIGRATIONS).values(number=99, applied="later"))
    with pytest.raises(UsageError, match="a newer Freehold"):
        open_log()


def test_the_file_is_the_owner_s(open_log: Open, tmp_path: Path) -> None:
    fill(open_log(), 1)
    for path in tmp_path.glob("ledger.sqlite*"):
        assert path.stat().st_mode & 0o077 == 0, path


# --- failures -------------------------------------------------------------------------------------


def test_a_file_that_is_taken_away_is_noticed_and_welcomed_back(
    open_log: Open, tmp_path: Path
) -> None:
    log = open_log()
    fill(log, 2)
    for name in ("ledger.sqlite", "ledger.sqlite-wal", "ledger.sqlite-shm"):
        (tmp_path / name).rename(tmp_path / f"away-{name}")
    for _ in range(2):
        with pytest.raises(LedgerError, match="no entry, so no reply"):
            log.commit([Writer("hash").open(RECORD)])
    assert not (tmp_path / "ledger.sqlite").exists()
    for name in ("ledger.sqlite", "ledger.sqlite-wal", "ledger.sqlite-shm"):
        (tmp_path / f"away-{name}").rename(tmp_path / name)
    fill(log, 1)
    assert log.size == 9


def test_a_file_that_is_set_back_is_noticed(open_log: Open, tmp_path: Path) -> None:
    log = open_log()
    fill(log, 2)
    log._database.shred()  # all into the file itself
    old = (tmp_path / "ledger.sqlite").read_bytes()
    fill(log, 2)
    for path in tmp_path.glob("ledger.sqlite-*"):
        path.unlink()
    (tmp_path / "older").write_bytes(old)
    (tmp_path / "older").rename(tmp_path / "ledger.sqlite")
    with pytest.raises(LedgerError, match="set back or replaced"):
        log.commit([Writer("hash").open(RECORD)])


def test_a_full_disk_refuses_and_recovers(open_log: Open) -> None:
    log = open_log()
    fill(log, 2)
    assert log._database._connection is not None
    pages = log._database._connection.exec_driver_sql("PRAGMA page_count").scalar()
    log._database._connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")
    writer = Writer("clear")
    with pytest.raises(LedgerError, match="full"):
        log.commit([writer.note("big", {"x": "y" * 100_000})])
    # The connection was dropped, and with it the limit.
    assert log.commit([writer.open(RECORD)]).first == 6
    assert check(log._database).findings == []


def test_a_data_base_that_stops_refuses_and_recovers(postgres: object, open_log: Open) -> None:
    server: object = postgres
    url = server.new()  # type: ignore[attr-defined]
    log = open_log(url)
    fill(log, 2)
    server.stop()  # type: ignore[attr-defined]
    try:
        for _ in range(2):
            with pytest.raises(LedgerError, match="no entry, so no reply"):
                log.commit([Writer("hash").open(RECORD)])
    finally:
        server.start()  # type: ignore[attr-defined]
    fill(log, 1)
    assert log.size == 9
    assert check(Database(place(url, Path()), writer=False)).findings == []


def test_a_password_is_not_shown(tmp_path: Path) -> None:
    url = place("postgresql://u:hunter2@127.0.0.1:1/d", tmp_path)
    database = Database(url, writer=True)
    with pytest.raises(LedgerError) as refused, database.transaction():
        pass
    assert "hunter2" not in str(refused.value)
    assert "127.0.0.1" in str(refused.value)


# --- erasing --------------------------------------------------------------------------------------


def test_an_erased_record_is_nowhere_in_the_files(open_log: Open, tmp_path: Path) -> None:
    log = open_log()
    fill(log, 3)
    assert any(b"SECRET-PROMPT" in path.read_bytes() for path in tmp_path.glob("ledger*"))
    for entry in (0, 3, 6):
        log.wish(entry, "art. 17")
    assert grant(log, Writer("hash")) == [0, 3, 6]
    assert all(log.erased(entry) for entry in (0, 3, 6))
    for path in tmp_path.glob("ledger*"):
        data = path.read_bytes()
        assert b"SECRET-PROMPT" not in data, path
        assert b"SECRET-ANSWER" not in data, path
        assert b"req-1" not in data, path
    leaves = log.entry(0)
    assert [leaf["kind"] for leaf in leaves] == ["open", "seal", "erase"]
    assert json.loads(leaves[2]["body"])["reason"] == "art. 17"
    found = check(log._database)
    assert found.findings == []
    assert found.erasures == 3
    log.prove(0)


def test_a_note_can_be_erased_and_what_says_so_cannot(open_log: Open) -> None:
    """An attempt's address or path is text that somebody chose: it can name a person."""
    log = open_log()
    fill(log, 1)
    log.wish(2, "names a person")
    assert grant(log, Writer("hash")) == [2]
    assert log.erased(2)
    assert [(leaf["kind"], leaf["body"] is None) for leaf in log.entry(2)] == [
        ("note", True),
        ("erase", False),
    ]
    assert check(log._database).findings == []


def test_erasing_in_postgresql(postgres: object, open_log: Open) -> None:
    log = open_log(postgres.new())  # type: ignore[attr-defined]
    fill(log, 2)
    log.wish(3, "asked")
    assert grant(log, Writer("hash")) == [3]
    assert log.erased(3)
    assert not log.erased(0)
    fill(log, 1)
    assert check(log._database).findings == []


def test_a_wish_for_nothing_is_forgotten(open_log: Open) -> None:
    log = open_log()
    fill(log, 1)
    log.wish(77, "no such entry")
    assert grant(log, Writer("hash")) == []
    assert log.wishes() == []


# --- how prompts are kept -------------------------------------------------------------------------


def test_hashed_content_is_not_there(open_log: Open, tmp_path: Path) -> None:
    fill(open_log(), 2, "hash")
    for path in tmp_path.glob("ledger*"):
        assert b"SECRET" not in path.read_bytes()


def test_sealed_content_opens_with_the_owner_s_key_only(open_log: Open, tmp_path: Path) -> None:
    from freehold.errors import SignatureError
    from freehold.ledger.leaves import INFO, content_hash
    from freehold.signing.sealing import unseal

    owner, stranger = (keys.create(tmp_path / "keys", name, "p256") for name in ("a", "b"))
    log, writer = open_log(), Writer("sealed", owner.public)
    log.commit([writer.open(RECORD)])
    log.commit([writer.seal(0, OUTCOME)])
    for path in tmp_path.glob("ledger*"):
        assert b"SECRET" not in path.read_bytes()
    leaf = log.entry(0)[0]
    plain = unseal(owner, bytes.fromhex(leaf["content"]), info=INFO)
    assert json.loads(plain)["input"] == RECORD.input
    body = json.loads(leaf["body"])
    assert body["content"]["sha256"] == content_hash(bytes.fromhex(leaf["salt"]), plain)
    assert body["content"]["reader"] == owner.key_id
    with pytest.raises(SignatureError):
        unseal(stranger, bytes.fromhex(leaf["content"]), info=INFO)
    assert check(log._database).findings == []


def test_two_records_of_the_same_words_share_no_commitment(open_log: Open) -> None:
    log = open_log()
    fill(log, 2)
    hashes = {json.loads(log.entry(n)[0]["body"])["content"]["sha256"] for n in (0, 3)}
    assert len(hashes) == 2
    assert len({leaf["commitment"] for leaf in log.leaves(0, 10)}) == 6


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads and writes everything")
def test_a_read_only_folder_is_an_error_in_words(tmp_path: Path, key: keys.SigningKey) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(LedgerError):
        Log(Database(place("ledger.sqlite", tmp_path), writer=True), key)

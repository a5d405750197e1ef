"""The line between the watchman and the keeper, and what of it is in the log."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from freehold.errors import LedgerError
from freehold.ledger.attempts import REFUSED, UNWATCHED, Line
from freehold.ledger.checking import check
from freehold.ledger.database import Database, place
from freehold.ledger.export import export
from freehold.ledger.keeper import Keeper
from freehold.ledger.leaves import Writer
from freehold.ledger.log import Log
from freehold.residency.attempts import Attempt
from freehold.residency.tally import Tally

GROUP = {
    "process": "engine", "pid": 7, "call": "connect", "count": 3, "first": "a", "last": "b",
    "thread": "python", "what": "descriptor 3 to 192.0.2.1:443",
}  # fmt: skip


class Book:
    """A log that takes down what it is told; ``full`` refuses."""

    def __init__(self) -> None:
        self.written: list[tuple[str, dict[str, Any]]] = []
        self.full = False

    def note(self, what: str, details: list[dict[str, Any]]) -> bool:
        if not self.full:
            self.written += [(what, detail) for detail in details]
        return not self.full


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, Line, Book]]:
    watchman, keeper = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    watchman.settimeout(10)
    book = Book()
    with watchman, keeper:
        yield watchman, Line(keeper, book.note), book


Ends = tuple[socket.socket, Line, Book]


def packet(*groups: dict[str, Any]) -> bytes:
    return json.dumps({"attempts": groups}).encode()


def test_what_is_told_is_written_and_answered(ends: Ends) -> None:
    watchman, line, book = ends
    assert not line.hear()
    watchman.send(packet(GROUP, GROUP | {"pid": 8}))
    assert line.hear()
    assert book.written == [(REFUSED, GROUP), (REFUSED, GROUP | {"pid": 8})]
    assert json.loads(watchman.recv(100)) == {"kept": True}


def test_a_full_disk_is_answered_too(ends: Ends) -> None:
    watchman, line, book = ends
    book.full = True
    watchman.send(packet(GROUP))
    line.hear()
    assert json.loads(watchman.recv(100)) == {"kept": False}


def test_a_watchman_that_ends_is_noted_once(ends: Ends) -> None:
    watchman, line, book = ends
    watchman.send(packet(GROUP))
    watchman.close()
    for _ in range(3):
        line.hear()
    line.finish()
    assert book.written == [(REFUSED, GROUP), (UNWATCHED, {})]


def test_at_the_end_the_rest_is_asked_for(ends: Ends) -> None:
    watchman, line, book = ends
    for sent in (packet(GROUP), packet(GROUP), packet()):
        watchman.send(sent)
    line.finish()
    answers = [json.loads(watchman.recv(100)) for _ in range(3)]
    assert answers == [{"ending": True}, {"kept": True}, {"kept": True}]
    assert len(book.written) == 2


def test_a_house_that_ends_notes_no_dead_watchman(ends: Ends) -> None:
    watchman, line, book = ends
    watchman.close()
    line.finish()
    assert book.written == []


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(
        st.binary(min_size=1, max_size=300),
        st.dictionaries(st.text(), st.none() | st.integers() | st.text()).map(
            lambda data: json.dumps({"attempts": [GROUP | data]}).encode()
        ),
        st.just(b"[" * 50_000),
    )
)
def test_nonsense_ends_the_line_and_not_the_keeper(sent: bytes) -> None:
    watchman, keeper = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    book = Book()
    with watchman, keeper:
        line = Line(keeper, book.note)
        watchman.send(sent)
        line.hear()
        assert all(what in (UNWATCHED, REFUSED) for what, _ in book.written)
        assert len(book.written) <= 1


def test_groups_are_leaves_that_verify_everywhere(
    tmp_path: Path, open_log: Callable[..., Log]
) -> None:
    log = open_log()
    tally = Tally(clock=lambda: 0.0)
    for call in ("connect", "connect", "execve"):
        tally.add(
            Attempt(time="t", role="keeper", pid=1, thread="x", call=call, what="10.0.0.1:53")
        )
    tally.hurry()
    keeper = Keeper(log, Writer("hash"))
    watchman, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with watchman, ours:
        watchman.send(json.dumps({"attempts": tally.take()}).encode())
        Line(ours, keeper.note).hear()
    bodies = [json.loads(leaf["body"]) for leaf in log.leaves(0, 10)]
    assert [(body["what"], body["detail"]["count"]) for body in bodies] == [
        ("refused", 2),
        ("refused", 1),
    ]
    database = Database(place("ledger.sqlite", tmp_path), writer=False)
    found = check(database)
    assert (found.findings, found.notes) == ([], 2)
    export(database, tmp_path / "export")
    alone = [sys.executable, "-I", str(tmp_path / "export" / "verify.py")]
    done = subprocess.run(alone, check=False, capture_output=True, text=True, env={})
    assert done.returncode == 0
    assert "2 notes" in done.stdout
    leaves = tmp_path / "export" / "leaves.jsonl"
    leaves.write_text(leaves.read_text().replace(r"\"count\":2", r"\"count\":1"))
    done = subprocess.run(alone, check=False, capture_output=True, text=True, env={})
    assert done.returncode == 3
    assert "leaf 0" in done.stdout


def test_a_ledger_that_fails_is_no_reason_to_end(
    open_log: Callable[..., Log], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = open_log()

    def fail(drafts: object) -> None:
        raise LedgerError("full")

    monkeypatch.setattr(log, "commit", fail)
    assert Keeper(log, Writer("hash")).note(REFUSED, [GROUP]) is False

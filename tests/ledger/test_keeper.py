"""The keeper as a process: how it starts, what it refuses, and what ends it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from freehold.errors import (
    FreeholdError,
    IntegrityError,
    LedgerError,
    NotFoundError,
    ProtocolError,
    UsageError,
)
from freehold.ledger import KeeperSettings, LedgerProcess, wire
from freehold.ledger.attempts import REFUSED, UNWATCHED
from freehold.ledger.database import Database, place
from freehold.ledger.keeper import MAX_BYTES
from freehold.ledger.log import Reader
from freehold.pair import MAX_FRAME, frame
from freehold.signing import keys
from freehold.spawning import spawn
from tests.ledger.conftest import OUTCOME, RECORD


def described(folder: Path, **more: Any) -> KeeperSettings:
    return KeeperSettings(root=str(folder), keys=str(folder / "keys"), **more)


async def test_the_first_start_makes_the_key_and_says_so(tmp_path: Path) -> None:
    async with await LedgerProcess.start(described(tmp_path)) as ledger:
        assert "made the ledger's signing key" in ledger.notes[0]
        assert (tmp_path / "keys" / "ledger.key").stat().st_mode & 0o077 == 0
    async with await LedgerProcess.start(described(tmp_path)) as ledger:
        assert ledger.notes == []


async def test_a_lost_key_is_not_replaced_in_silence(tmp_path: Path) -> None:
    async with await LedgerProcess.start(described(tmp_path)) as ledger:
        await (await ledger.open(RECORD)).seal(OUTCOME)
    for name in ("ledger.key", "ledger.pub"):
        (tmp_path / "keys" / name).unlink()
    with pytest.raises(UsageError, match="begun with another key"):
        await LedgerProcess.start(described(tmp_path))


async def test_two_keepers_cannot_write_one_ledger(tmp_path: Path) -> None:
    async with await LedgerProcess.start(described(tmp_path)):
        with pytest.raises(UsageError, match="another process writes"):
            await LedgerProcess.start(described(tmp_path))


async def test_sealed_needs_a_reader(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="ledger_reader"):
        await LedgerProcess.start(described(tmp_path, content="sealed"))
    with pytest.raises(NotFoundError, match="reader"):
        await LedgerProcess.start(described(tmp_path, content="sealed", reader="reader"))
    keys.create(tmp_path / "keys", "reader", "ed25519")
    with pytest.raises(UsageError, match="P-256"):
        await LedgerProcess.start(described(tmp_path, content="sealed", reader="reader"))


async def test_a_damaged_data_base_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite").write_bytes(random.Random(1).randbytes(9000))
    with pytest.raises((LedgerError, IntegrityError), match="ledger"):
        await LedgerProcess.start(described(tmp_path))


async def test_an_entry_is_sealed_once(tmp_path: Path) -> None:
    async with await LedgerProcess.start(described(tmp_path)) as ledger:
        entry = await ledger.open(RECORD)
        receipt = await entry.seal(OUTCOME)
        assert (receipt.entry, receipt.leaf) == (0, 1)
        with pytest.raises(UsageError, match="not open"):
            await entry.seal(OUTCOME)
        noted = await ledger.note("attempt", {"call": "connect", "address": "1.1.1.1:53"})
        assert (noted.entry, noted.leaf) == (2, 2)
        assert (await ledger.leaves(2, 1))[0]["kind"] == "note"
        with pytest.raises(NotFoundError):
            await ledger.entry(1)
        with pytest.raises(UsageError):
            await ledger.inclusion(99)
        with pytest.raises(UsageError):
            await ledger.leaves(-1, 5)


async def test_only_the_watchman_can_say_that_a_call_was_refused(tmp_path: Path) -> None:
    async with await LedgerProcess.start(described(tmp_path)) as ledger:
        for what in (REFUSED, UNWATCHED):
            with pytest.raises(UsageError, match="for the watchman"):
                await ledger.note(what, {"process": "engine", "count": 1})
        with pytest.raises(NotFoundError):
            await ledger.checkpoint()


async def test_large_records_come_in_pieces_and_burst_nothing(tmp_path: Path) -> None:
    """1,000 leaves of a clear ledger can hold more than a frame, or than the keeper's memory."""
    large = replace(RECORD, input={"messages": "x" * (MAX_BYTES // 3)})
    async with await LedgerProcess.start(described(tmp_path, content="clear")) as ledger:
        for _ in range(8):
            await (await ledger.open(large)).seal(OUTCOME)
        seen: list[dict[str, Any]] = []
        while piece := await ledger.leaves(len(seen), 1000):
            assert len(piece) < 8
            seen += piece
        assert [leaf["place"] for leaf in seen] == list(range(16))
        assert await ledger.leaves(0, 0) == []


async def test_an_answer_too_large_for_a_frame_fails_alone(tmp_path: Path) -> None:
    huge = replace(RECORD, input={"messages": "x" * (MAX_FRAME // 2)})
    async with await LedgerProcess.start(described(tmp_path, content="clear")) as ledger:
        entry = await ledger.open(huge)
        with pytest.raises(UsageError, match="freehold ledger show"):
            await ledger.entry(entry.number)
        assert (await entry.seal(OUTCOME)).leaf == 1


async def test_a_start_that_is_given_up_leaves_no_process(tmp_path: Path) -> None:
    process, pair = spawn("freehold.ledger")
    os.kill(process.pid, signal.SIGSTOP)
    starting = asyncio.create_task(LedgerProcess.start(described(tmp_path), (process, pair)))
    await asyncio.sleep(0.1)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert process.wait(10) == -signal.SIGKILL


async def test_a_killed_keeper_fails_everyone_at_once(tmp_path: Path) -> None:
    ledger = await LedgerProcess.start(described(tmp_path))
    os.kill(ledger.pid, signal.SIGSTOP)
    waiting = [asyncio.create_task(ledger.open(RECORD)) for _ in range(5)]
    await asyncio.sleep(0.05)
    os.kill(ledger.pid, signal.SIGKILL)
    found = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 5)
    assert all(isinstance(one, LedgerError) and "SIGKILL" in str(one) for one in found)
    with pytest.raises(LedgerError, match="start Freehold again"):
        await ledger.checkpoint()
    await ledger.close()


async def test_closing_writes_what_was_sent(tmp_path: Path) -> None:
    ledger = await LedgerProcess.start(described(tmp_path))
    opening = [asyncio.create_task(ledger.open(RECORD)) for _ in range(20)]
    await asyncio.sleep(0)
    await ledger.close()
    assert [entry.number for entry in await asyncio.gather(*opening)] == list(range(20))
    assert not psutil.pid_exists(ledger.pid)
    with pytest.raises(LedgerError, match="closed"):
        await ledger.open(RECORD)


async def test_an_erasure_asked_for_elsewhere_is_done(tmp_path: Path) -> None:
    async with await LedgerProcess.start(described(tmp_path)) as ledger:
        entry = await ledger.open(RECORD)
        await entry.seal(OUTCOME)
        reader = Reader(Database(place("ledger.sqlite", tmp_path), writer=False))
        reader.wish(entry.number, "asked")
        async with asyncio.timeout(20):
            while not reader.erased(entry.number):  # noqa: ASYNC110  (there is no event)
                await asyncio.sleep(0.1)
        reader.close()
        kinds = [leaf["kind"] for leaf in await ledger.entry(entry.number)]
        assert kinds == ["open", "seal", "erase"]


@pytest.mark.parametrize(
    "garbage",
    [
        random.Random(1).randbytes(4096),
        b"\xff\xff\xff\xff",
        b"\0\0\0\1\xc1",
        frame(wire.Close()),
        frame(wire.Configure(KeeperSettings(root="", keys=""))) * 2,
    ],
    ids=["random", "oversized", "no-msgpack", "out-of-turn", "twice"],
)
def test_garbage_ends_the_keeper_with_a_reason(garbage: bytes) -> None:
    process, sock = spawn("freehold.ledger")
    with sock, process:
        sock.sendall(garbage)
        data = b""
        while piece := sock.recv(1 << 16):
            data += piece
        last = wire.read_from_keeper(data[4:])
        assert isinstance(last, wire.Fatal)
        assert last.fault.kind == "ProtocolError"
        assert process.wait(10) == ProtocolError.exit_code


MESSAGES = [
    wire.Open(1, RECORD),
    wire.Seal(2, 3, OUTCOME),
    wire.Note(3, "x", {"a": [1, None, "é"]}),
    wire.Ask(4, "inclusion", 1, 2),
    wire.Close(),
]


def test_messages_cross_unchanged() -> None:
    for message in MESSAGES:
        assert wire.read_to_keeper(frame(message)[4:]) == message


@settings(max_examples=300)
@given(st.data())
def test_a_changed_message_is_a_message_or_an_error(data: st.DataObject) -> None:
    message = bytearray(frame(data.draw(st.sampled_from(MESSAGES)))[4:])
    message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = wire.read_to_keeper(bytes(message))
    except FreeholdError:
        return
    assert isinstance(found, wire.ToKeeper)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_an_error(data: bytes) -> None:
    for read in (wire.read_to_keeper, wire.read_from_keeper):
        with contextlib.suppress(FreeholdError):
            assert isinstance(read(data), msgspec.Struct)


def test_a_message_that_is_too_large_is_not_sent() -> None:
    with pytest.raises(ProtocolError):
        frame(wire.Note(1, "x", {"a": "y" * MAX_FRAME}))

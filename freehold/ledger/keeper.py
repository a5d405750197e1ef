"""The keeper process: the ledger, its key, and one descriptor to the counter.

One thread does everything: read what has come, write it as one group, answer. While a group goes to
the disk the next one gathers in the socket, so the busier the server, the fewer commits a request
costs. It ends when told to, when the pair is closed, and with its parent, whichever comes first.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from pathlib import Path
from typing import Any

from freehold import pair
from freehold.errors import FreeholdError, LedgerError, NotFoundError, ProtocolError, UsageError
from freehold.faults import fault_of
from freehold.ledger.attempts import REFUSED, UNWATCHED, Line
from freehold.ledger.database import Database, place
from freehold.ledger.leaves import Draft, Writer
from freehold.ledger.log import Log
from freehold.ledger.wire import (
    AnyFromKeeper,
    AnyToKeeper,
    Ask,
    Close,
    Configure,
    Failed,
    Fatal,
    Found,
    KeeperSettings,
    Note,
    Open,
    Opened,
    Ready,
    Seal,
    Sealed,
    read_to_keeper,
)
from freehold.pair import Link, frame
from freehold.signing import keys

MAX_LEAVES = 1000
MAX_BYTES = 8 << 20
"""Leaves that one question may bring, and bytes of their records after which no more are added:
what was asked must neither fill this process nor burst a frame."""

_IDLE = 0.5
"""Seconds of silence before the data base is tidied."""

_LOOK = 2.0
"""Seconds between two looks for erasures and attempts, which come from elsewhere."""


def run(fd: int, news: int | None = None) -> int:
    """Serve the counter at the other end of socket ``fd`` until it is done; the exit status.

    On ``news`` the watchman tells of refused calls, which are noted. They still are when the
    counter has died, so the kernel does not end this process with its parent.
    """
    os.umask(0o077)
    if news is None:
        pair.outlive_nobody()
    return pair.run(
        fd,
        read_to_keeper,
        lambda link: _serve(link, news),
        failure=lambda why: LedgerError(f"the keeper process failed: {why}"),
        fatal=Fatal,
    )


def _serve(link: Link[AnyToKeeper], news: int | None) -> None:
    keeper, notes = start(pair.first(link, Configure).settings)
    line = None if news is None else Line(socket.socket(fileno=news), keeper.note)
    try:
        link.send([frame(Ready(keeper.log.size, str(keeper.log.verifier), notes))])
        _obey(keeper, link, line)
    finally:
        if line is not None:
            line.finish()
        keeper.log.close()


def _obey(keeper: Keeper, link: Link[AnyToKeeper], line: Line | None) -> None:
    restless = False
    while True:
        messages = link.receive(wait=True, seconds=_IDLE if restless else _LOOK)
        if messages:
            link.send(map(_frame, keeper.obey(messages)))
            restless = True
            if any(isinstance(message, Close) for message in messages):
                return
        elif restless:
            keeper.rest()
            restless = False
        restless |= keeper.grant()
        restless |= line is not None and line.hear()


def _frame(answer: AnyFromKeeper) -> bytes:
    """An answer as a frame; what is too large for one fails by itself, and not the keeper."""
    try:
        return frame(answer)
    except ProtocolError as error:
        if not isinstance(answer, Found):
            raise
        fault = UsageError(f"{error}: read it with `freehold ledger show`, beside the ledger")
        return frame(Failed(answer.number, fault_of(fault)))


def start(settings: KeeperSettings) -> tuple[Keeper, list[str]]:
    """Open the ledger that ``settings`` describe, and what its owner should be told of it.

    Raises ``UsageError``, ``IntegrityError`` or ``LedgerError``.
    """
    folder, said = Path(settings.keys), list[str]()
    reader = None
    if settings.content == "sealed":
        if not settings.reader:
            raise UsageError(
                "sealed entries need the name of the key they are for: set ledger_reader",
                param="ledger_reader",
            )
        reader = keys.load_public(folder / f"{settings.reader}.pub")
        reader.p256()
    try:
        key = keys.load(folder, settings.key)
    except NotFoundError:
        key = keys.create(folder, settings.key, "ed25519")
        said.append(
            f"made the ledger's signing key, {folder / settings.key}.key: keep a copy of it, "
            f"and of {settings.key}.pub where this machine cannot reach"
        )
    database = Database(place(settings.ledger, Path(settings.root)), writer=True)
    return Keeper(Log(database, key), Writer(settings.content, reader)), said


class Keeper:
    """Obeys messages, group by group."""

    def __init__(self, log: Log, writer: Writer) -> None:
        self.log = log
        self._writer = writer
        self._open: set[int] = set()
        self._looked = 0.0

    def obey(self, messages: list[AnyToKeeper]) -> list[AnyFromKeeper]:
        """Do what messages ask: everything that is to be written as one group, then the reading."""
        answers: list[AnyFromKeeper] = []
        group: list[tuple[Open | Seal | Note, Draft]] = []
        for message in messages:
            match message:
                case Note(number, what) if what in (REFUSED, UNWATCHED):
                    fault = UsageError(f"{what!r} is for the watchman alone to say", param="what")
                    answers.append(Failed(number, fault_of(fault)))
                case Open() | Note():
                    group.append((message, self._draft(message)))
                case Seal(number, entry):
                    if entry in self._open:
                        self._open.remove(entry)
                        group.append((message, self._draft(message)))
                    else:
                        fault = UsageError(f"entry {entry} is not open", param="entry")
                        answers.append(Failed(number, fault_of(fault)))
                case Configure():
                    raise ProtocolError("the keeper was told its settings twice")
        if group:
            answers += self._write(group)
        answers += [self._answer(message) for message in messages if isinstance(message, Ask)]
        return answers

    def note(self, what: str, details: list[dict[str, Any]]) -> bool:
        """Write a leaf about the server for each of ``details``; whether they are durable."""
        try:
            if details:
                self.log.commit([self._writer.note(what, detail) for detail in details])
        except FreeholdError:
            # Told to the next request that needs the ledger.
            return False
        return True

    def rest(self) -> None:
        """Tidy up while nobody waits."""
        with contextlib.suppress(LedgerError):
            self.log.rest()

    def grant(self) -> bool:
        """Do the erasures that were asked for while this process held the lock; whether any."""
        now = time.monotonic()
        if now - self._looked < _LOOK:
            return False
        self._looked = now
        try:
            return bool(grant(self.log, self._writer))
        except FreeholdError:
            # Told to the next request that needs the ledger; the wish stays where it is.
            return False

    def _draft(self, message: Open | Seal | Note) -> Draft:
        match message:
            case Open():
                return self._writer.open(message.record)
            case Seal():
                return self._writer.seal(message.entry, message.outcome)
            case Note():
                return self._writer.note(message.what, message.detail)

    def _write(self, group: list[tuple[Open | Seal | Note, Draft]]) -> list[AnyFromKeeper]:
        try:
            done = self.log.commit([draft for _, draft in group])
        except FreeholdError as error:
            # Whatever is wrong with it, to a request the ledger is not there, and may come back.
            fault = fault_of(LedgerError(str(error)))
            self._open.update(m.entry for m, _ in group if isinstance(m, Seal))
            return [Failed(message.number, fault) for message, _ in group]
        answers: list[AnyFromKeeper] = []
        for leaf, (message, _) in enumerate(group, done.first):
            match message:
                case Open(number):
                    self._open.add(leaf)
                    answers.append(Opened(number, leaf))
                case Seal(number, entry):
                    answers.append(Sealed(number, entry, leaf, done.note))
                case Note(number):
                    answers.append(Sealed(number, leaf, leaf, done.note))
        return answers

    def _answer(self, ask: Ask) -> AnyFromKeeper:
        try:
            return Found(ask.number, self._read(ask))
        except FreeholdError as error:
            return Failed(ask.number, fault_of(error))

    def _read(self, ask: Ask) -> Any:
        match ask.what:
            case "checkpoint":
                return self.log.checkpoint()
            case "leaves":
                count = MAX_LEAVES if ask.second is None else min(ask.second, MAX_LEAVES)
                return self.log.leaves(ask.first, count, most=MAX_BYTES)
            case "entry":
                return self.log.entry(ask.first)
            case "inclusion":
                return self.log.inclusion(ask.first, ask.second)
            case "consistency":
                return self.log.consistency(ask.first, ask.second)


def grant(log: Log, writer: Writer) -> list[int]:
    """Do all erasures that were asked for; which they were. Raises ``LedgerError``."""
    done = []
    for entry, reason in log.wishes():
        try:
            log.erase(entry, writer.erase(entry, reason))
            done.append(entry)
        except NotFoundError:
            log.drop_wish(entry)
    return done

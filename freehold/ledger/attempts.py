"""The keeper's line from the watchman: refused calls, as leaves of the log.

The line is between these two alone, so that no other process of the house can hold anything back or
make anything up. The watchman has grouped what it tells and keeps to a budget of leaves
(``residency/tally.py``); it is answered when the leaves are durable, and tells again what could not
be written. That a watchman has ended while the house goes on is noted too.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable
from typing import Any

import msgspec

REFUSED = "refused"
UNWATCHED = "the watchman has ended: refused calls are no longer written down"
_MAX_PACKET = 1 << 16
_END_SECONDS = 2.0

Note = Callable[[str, list[dict[str, Any]]], bool]
"""``note(what, details)`` writes a leaf for each detail; whether they are durable."""


class Group(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``residency.tally.Group`` as it comes over the line."""

    process: str
    pid: int
    call: str
    count: int
    first: str
    last: str
    thread: str
    what: str


class Told(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One packet. Without a group: there is nothing more to tell."""

    attempts: list[Group]


_read = msgspec.json.Decoder(Told).decode


class Line:
    """The keeper's end. Nothing waits but ``finish``."""

    def __init__(self, sock: socket.socket, note: Note) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._note = note
        self._ended = False

    def hear(self) -> bool:
        """Write what has come; whether anything has."""
        if self._ended:
            return False
        heard = False
        while (told := self._receive()) is not None:
            self._write(told)
            heard = True
        if self._ended:
            self._note(UNWATCHED, [{}])
        return heard

    def finish(self) -> None:
        """Write all that is still to be told, since this process ends."""
        deadline = time.monotonic() + _END_SECONDS
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        self._send({"ending": True})
        while not self._ended and poll.poll(max(0.0, 1000 * (deadline - time.monotonic()))):
            told = self._receive()
            if told is not None and not (told.attempts and self._write(told)):
                break
        self._sock.close()
        self._ended = True

    def _receive(self) -> Told | None:
        """The next packet, if there is one. ``_ended`` is set at the line's end, and by a packet
        that is none: nothing that follows it can be believed."""
        try:
            data = self._sock.recv(_MAX_PACKET)
            if data:
                return _read(data)
        except BlockingIOError:
            return None
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            pass
        self._ended = True
        return None

    def _write(self, told: Told) -> bool:
        kept = self._note(REFUSED, [msgspec.to_builtins(group) for group in told.attempts])
        self._send({"kept": kept})
        return kept

    def _send(self, answer: dict[str, bool]) -> None:
        try:
            self._sock.send(msgspec.json.encode(answer))
        except OSError:
            return  # the line has ended: that is found when it is read

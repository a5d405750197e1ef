"""The engine's end of the pair: whole messages in and out of one non-blocking socket."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterable

from freehold.engine.wire import AnyToEngine, Frames, FromEngine, frame, read_to_engine

READ_SIZE = 1 << 18
FULL = 16 << 20
"""Bytes not yet taken by the counter, beyond which the engine makes no more until it reads on."""


class Hungup(Exception):  # noqa: N818  (an event, not a mistake)
    """The counter is gone: the stream has ended."""


class Link:
    """Never blocks but where it says so."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        # Not select(): a counter with a thousand connections passes on a number out of its reach.
        self._poll = select.poll()
        self._frames = Frames()
        self._out = bytearray()

    @property
    def full(self) -> bool:
        """Whether so much waits to be read by the counter that no more should be made."""
        return len(self._out) >= FULL

    def send(self, frames: Iterable[bytes]) -> None:
        """Send what the socket takes now, keep the rest for the next call of any method."""
        for data in frames:
            self._out += data
        self._flush()

    def receive(self, *, wait: bool) -> list[AnyToEngine]:
        """All messages that have come. ``wait`` blocks until there is something to read, or room
        to write what is left over. Raises ``Hungup`` and ``ProtocolError``."""
        self._poll.register(self._sock, select.POLLIN | (select.POLLOUT if self._out else 0))
        ready = dict(self._poll.poll(None if wait else 0)).get(self._sock.fileno(), 0)
        if ready & select.POLLOUT:
            self._flush()
        # A hang-up alone is read too: it is then that the stream's end is found.
        return self._read() if ready & ~select.POLLOUT else []

    def say_last(self, message: FromEngine, *, seconds: float) -> None:
        """Send one last message, blocking for at most ``seconds`` a piece."""
        self._sock.settimeout(seconds)
        try:
            self._sock.sendall(bytes(self._out) + frame(message))
        except OSError:
            # Nobody is left to be told.
            return

    def _read(self) -> list[AnyToEngine]:
        try:
            data = self._sock.recv(READ_SIZE)
        except BlockingIOError:
            return []
        except ConnectionResetError as error:
            raise Hungup from error
        if not data:
            raise Hungup
        return [read_to_engine(payload) for payload in self._frames.feed(data)]

    def _flush(self) -> None:
        try:
            while self._out:
                sent = self._sock.send(memoryview(self._out)[:READ_SIZE])
                del self._out[:sent]
        except BlockingIOError:
            return
        except (BrokenPipeError, ConnectionResetError) as error:
            raise Hungup from error

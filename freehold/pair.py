"""A pair of sockets between two processes of the house: how one is started, and how they talk.

The counter starts its engine and its keeper with one end of a fresh socket pair each. On it travel
frames: a big-endian 32-bit length and that many bytes of msgpack, one message each. Both ends bound
the length before they take memory for it. Which messages there are is for each room's ``wire.py``.
"""

from __future__ import annotations

import asyncio
import ctypes
import select
import signal
import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

import msgspec

from freehold.errors import ProcessError, ProtocolError

MAX_FRAME = 64 << 20
"""Bytes in one frame, its length excluded."""

READ_SIZE = 1 << 18
FULL = 16 << 20
"""Bytes not yet taken by the other end, beyond which no more should be made until it reads on."""

_LENGTH = 4
_PR_SET_PDEATHSIG = 1

Received = TypeVar("Received")

_encoder = msgspec.msgpack.Encoder()


class Hungup(Exception):  # noqa: N818  (an event, not a mistake)
    """The other end is gone: the stream has ended."""


# --- frames ---------------------------------------------------------------------------------------


def frame(message: msgspec.Struct) -> bytes:
    """One message as a frame. Raises ``ProtocolError`` if it is larger than ``MAX_FRAME``."""
    payload = _encoder.encode(message)
    if len(payload) > MAX_FRAME:
        raise ProtocolError(
            f"a message between processes has {len(payload)} bytes; {MAX_FRAME} is the most"
        )
    return len(payload).to_bytes(_LENGTH, "big") + payload


class Frames:
    """Cuts a byte stream into frames' payloads, as the bytes come.

    At most one frame, bounded by ``MAX_FRAME``, and what was fed last are held.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield each payload that ``data`` completes. Raises ``ProtocolError``."""
        self._buffer += data
        start = 0
        try:
            while len(self._buffer) - start >= _LENGTH:
                length = int.from_bytes(self._buffer[start : start + _LENGTH], "big")
                if length > MAX_FRAME:
                    raise ProtocolError(
                        f"a frame announces {length} bytes; {MAX_FRAME} is the most"
                    )
                end = start + _LENGTH + length
                if len(self._buffer) < end:
                    return
                payload = bytes(self._buffer[start + _LENGTH : end])
                start = end
                yield payload
        finally:
            del self._buffer[:start]

    @property
    def torn(self) -> bool:
        """Whether the stream stands in the middle of a frame."""
        return bool(self._buffer)


# --- the started process's end --------------------------------------------------------------------


class Link(Generic[Received]):
    """Whole messages in and out of one non-blocking socket. Never blocks but where it says so.

    ``read`` decodes one payload, and raises ``ProtocolError``.
    """

    def __init__(self, sock: socket.socket, read: Callable[[bytes], Received]) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._decode = read
        # Not select(): a counter with a thousand connections passes on a number out of its reach.
        self._poll = select.poll()
        self._frames = Frames()
        self._out = bytearray()

    @property
    def full(self) -> bool:
        """Whether so much waits to be read at the other end that no more should be made."""
        return len(self._out) >= FULL

    def send(self, frames: Iterable[bytes]) -> None:
        """Send what the socket takes now, keep the rest for the next call of any method."""
        for data in frames:
            self._out += data
        self._flush()

    def receive(self, *, wait: bool, seconds: float | None = None) -> list[Received]:
        """All messages that have come. ``wait`` blocks until there is something to read, or room
        to write what is left over, or ``seconds`` have passed. Raises ``Hungup`` and
        ``ProtocolError``."""
        self._poll.register(self._sock, select.POLLIN | (select.POLLOUT if self._out else 0))
        patience = (None if seconds is None else seconds * 1000) if wait else 0
        ready = dict(self._poll.poll(patience)).get(self._sock.fileno(), 0)
        if ready & select.POLLOUT:
            self._flush()
        # A hang-up alone is read too: it is then that the stream's end is found.
        return self._read() if ready & ~select.POLLOUT else []

    def say_last(self, message: msgspec.Struct, *, seconds: float) -> None:
        """Send one last message, blocking for at most ``seconds`` a piece."""
        self._sock.settimeout(seconds)
        try:
            self._sock.sendall(bytes(self._out) + frame(message))
        except OSError:
            # Nobody is left to be told.
            return

    def _read(self) -> list[Received]:
        try:
            data = self._sock.recv(READ_SIZE)
        except BlockingIOError:
            return []
        except ConnectionResetError as error:
            raise Hungup from error
        if not data:
            raise Hungup
        return [self._decode(payload) for payload in self._frames.feed(data)]

    def _flush(self) -> None:
        try:
            while self._out:
                sent = self._sock.send(memoryview(self._out)[:READ_SIZE])
                del self._out[:sent]
        except BlockingIOError:
            return
        except (BrokenPipeError, ConnectionResetError) as error:
            raise Hungup from error


def outlive_nobody() -> None:
    """Ignore the group's signals; on Linux, have the kernel end this process with its parent.

    A parent that died before this call is noticed all the same: the pair has ended.
    """
    for ignored in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_IGN)
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
            raise ProcessError(f"prctl(PR_SET_PDEATHSIG) failed: errno {ctypes.get_errno()}")


# --- the starter's end ----------------------------------------------------------------------------


class Pipe(asyncio.Protocol, Generic[Received]):
    """Bytes from a started process to whole messages.

    ``received`` gets each; ``broken`` learns of bytes that are no message, after which nothing more
    is read; ``ended`` is called once, when the pair has.
    """

    transport: asyncio.WriteTransport

    def __init__(
        self,
        read: Callable[[bytes], Received],
        received: Callable[[Received], None],
        broken: Callable[[ProtocolError], None],
        ended: Callable[[], None],
    ) -> None:
        self.lost = asyncio.Event()
        self._read, self._received = read, received
        self._broken, self._ended = broken, ended
        self._frames = Frames()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self.transport = transport

    def send(self, message: msgspec.Struct) -> None:
        """Send one message, unless the pair is closing."""
        data = frame(message)
        if not self.transport.is_closing():
            self.transport.write(data)

    def data_received(self, data: bytes) -> None:
        try:
            for payload in self._frames.feed(data):
                self._received(self._read(payload))
        except ProtocolError as error:
            self._broken(error)
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()
        self._ended()


def ending(status: int) -> str:
    """How a process ended, in words, from its return code."""
    return f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"

"""A pair of sockets between two processes of the house: how they talk, and how each side ends.

The counter starts its engine and its keeper with one end of a fresh socket pair each. On it travel
frames: a big-endian 32-bit length and that many bytes of msgpack, one message each. Both ends bound
the length before they take memory for it. Which messages there are is for each room's ``wire.py``:
the first tells the process its settings, it answers when it is ready, and the last ends it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import itertools
import select
import signal
import socket
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, Self, TypeAlias, TypeVar

import msgspec

from freehold.errors import FreeholdError, ProcessError, ProtocolError
from freehold.faults import Fault, fault_of

MAX_FRAME = 64 << 20
"""Bytes in one frame, its length excluded."""

READ_SIZE = 1 << 18
FULL = 16 << 20
"""Bytes not yet taken by the other end, beyond which no more should be made until it reads on."""

_LENGTH = 4
_PR_SET_PDEATHSIG = 1
_LAST_WORDS = 5.0
"""Seconds that the starter has to take the message that says why a process ends."""

_BURIAL_SECONDS = 0.05

Received = TypeVar("Received")
Hello = TypeVar("Hello")
Told = TypeVar("Told")
Started: TypeAlias = tuple[subprocess.Popen[bytes], socket.socket]
"""A started process and its starter's end of the pair with it (``spawning.spawn``)."""

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

    @property
    def events(self) -> int:
        """What to poll the socket for, where several links are waited for at once."""
        return select.POLLIN | (select.POLLOUT if self._out else 0)

    def send(self, frames: Iterable[bytes]) -> None:
        """Send what the socket takes now, keep the rest for the next call of any method."""
        for data in frames:
            self._out += data
        self._flush()

    def receive(self, *, wait: bool, seconds: float | None = None) -> list[Received]:
        """All messages that have come. ``wait`` blocks until there is something to read, or room
        to write what is left over, or ``seconds`` have passed. Raises ``Hungup`` and
        ``ProtocolError``."""
        self._poll.register(self._sock, self.events)
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


def run(
    fd: int,
    read: Callable[[bytes], Received],
    serve: Callable[[Link[Received]], None],
    *,
    failure: Callable[[str], FreeholdError],
    fatal: Callable[[Fault], msgspec.Struct],
) -> int:
    """Have a started process serve its starter, at the other end of socket ``fd``, until that is
    done or gone; the exit status. ``fatal`` is the message that says why it ends otherwise.

    The signals of the terminal's group are ignored: they are for the starter, which lets answers
    under way finish.
    """
    for ignored in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_IGN)
    link = Link(socket.socket(fileno=fd), read)
    try:
        serve(link)
    except Hungup:
        return 0
    except FreeholdError as error:
        link.say_last(fatal(fault_of(error)), seconds=_LAST_WORDS)
        return error.exit_code
    except Exception as error:
        # Not handled, only reported: whoever waits for an answer must learn why none will come.
        why = failure(f"{type(error).__name__}: {error}")
        link.say_last(fatal(fault_of(why)), seconds=_LAST_WORDS)
        raise
    return 0


def first(link: Link[Any], kind: type[Told]) -> Told:
    """Wait for the first message: a ``kind``, and alone. Raises ``Hungup``, ``ProtocolError``."""
    messages: list[Any] = []
    while not messages:
        messages = link.receive(wait=True)
    if len(messages) > 1 or not isinstance(messages[0], kind):
        raise ProtocolError(
            f"a process must be told {kind.__name__}, and nothing else, before it is ready"
        )
    return messages[0]


def outlive_nobody() -> None:
    """On Linux, have the kernel end this process with its parent.

    A parent that died before this call is noticed all the same: the pair has ended.
    """
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


class Partner(ABC, Generic[Received, Hello]):
    """A started process as its starter sees it: met, asked, and ended. Each room's client is one,
    and adds its own messages.

    When the process dies, everything that waits for it fails at once with ``_death()``, and so does
    whatever is asked later. ``farewell`` tells it to end, which may take ``patience`` seconds.
    """

    def __init__(
        self,
        started: Started,
        read: Callable[[bytes], Received],
        *,
        farewell: msgspec.Struct,
        patience: float,
    ) -> None:
        self._process, self._pair = started
        self._decode, self._farewell, self._patience = read, farewell, patience
        self._numbers = itertools.count(1)
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._ready: asyncio.Future[Hello] = asyncio.get_running_loop().create_future()
        self._pipe: Pipe[Received] | None = None
        self._cause: FreeholdError | None = None
        self._closing = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    async def close(self) -> None:
        """End the process: politely, or at once while it gets ready or when its time is up.

        What still waits for it fails. May be called more than once.
        """
        self._closing = True
        if self._ready.done() and not self._ready.cancelled() and not self._ready.exception():
            self._send(self._farewell)
        else:
            self._kill()
        try:
            await asyncio.to_thread(self._process.wait, self._patience)
        except subprocess.TimeoutExpired:
            self._kill()
            await asyncio.to_thread(self._process.wait)
        if self._pipe is None:
            self._pair.close()
        else:
            self._pipe.transport.close()
            await self._pipe.lost.wait()

    async def _meet(self, *said: msgspec.Struct) -> None:
        """Take up the pair, say what is to be said first, and wait until the process is ready.
        Raises what went wrong there."""
        try:
            _, self._pipe = await asyncio.get_running_loop().create_connection(
                lambda: Pipe(self._decode, self._received, self._broken, self._lost),
                sock=self._pair,
            )
            for message in said:
                self._pipe.send(message)
            await self._ready
        except BaseException:
            await self.close()
            raise

    def _met(self, hello: Hello) -> None:
        """The process is ready. Raises ``ProtocolError`` the second time."""
        if self._ready.done():
            raise ProtocolError("a process said twice that it is ready")
        self._ready.set_result(hello)

    def _send(self, message: msgspec.Struct) -> None:
        if self._pipe is not None:
            self._pipe.send(message)

    async def _ask(self, message: Callable[[int], msgspec.Struct]) -> Any:
        """Send a message with a number, and wait for what ``_answer`` is given for it."""
        self._check_alive()
        number = next(self._numbers)
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        try:
            self._send(message(number))
            return await answer
        finally:
            del self._asked[number]

    def _answer(self, number: int, answer: Any) -> None:
        """What was asked by this number is known; an exception is raised there. Whoever asked may
        have been cancelled meanwhile."""
        if (asked := self._asked.get(number)) and not asked.done():
            if isinstance(answer, Exception):
                asked.set_exception(answer)
            else:
                asked.set_result(answer)

    def _check_alive(self) -> None:
        if self._closing or self._pipe is None or self._pipe.lost.is_set():
            raise self._death()

    def _kill(self) -> None:
        """End the process at once. A locked counter can signal nobody outside its own lock, but
        without its pair a process ends by itself."""
        with contextlib.suppress(PermissionError):
            self._process.kill()
        if self._pipe is None:
            self._pair.close()
        else:
            self._pipe.transport.abort()

    def _broken(self, error: ProtocolError) -> None:
        """Bytes came that are no message: nothing that follows can be believed."""
        self._cause = error
        self._kill()

    def _lost(self) -> None:
        """The pair has ended: so has everything that waits for it."""
        if not self._closing:
            # The kernel closes a dying process's descriptors a moment before it can be waited for.
            try:
                self._process.wait(_BURIAL_SECONDS)
            except subprocess.TimeoutExpired:
                self._kill()
        if not self._ready.done():
            self._ready.set_exception(self._cause or self._death())
        for number in list(self._asked):
            self._answer(number, self._death())

    @abstractmethod
    def _received(self, message: Received) -> None:
        """Hand on one message. Raises ``ProtocolError`` for one that answers nothing."""

    @abstractmethod
    def _death(self) -> FreeholdError:
        """Why nothing more will come. A new error each time: each is raised in its own task."""


def ending(status: int) -> str:
    """How a process ended, in words, from its return code."""
    return f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"

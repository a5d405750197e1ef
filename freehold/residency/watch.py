"""The watchman: a small process that answers for every refused call, and writes it down.

    python -I -S -c '...' MAIN_LINE RECORD STATE DRILL ENFORCE CONNECTS

It imports the standard library only, and is locked itself: no sockets, no files but the two it was
given open, no programs. Its lines are sequenced-packet pairs, one JSON document a packet. On a line
a process says what it has shut, and hands over the listener of its filter; the main line may also
bring new lines, and one to the keeper of the ledger, which is told of attempts (``tally.py``). No
other process holds that one: nobody but the two can forge or hold back what is told. When the main
line ends, so does the watchman.

A listener that nobody holds any more makes the kernel refuse with ``ENOSYS``: a watchman that was
killed lets nothing through.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import errno
import fcntl
import json
import os
import select
import signal
import socket
import struct
import sys
import time
from collections import Counter
from typing import Any

from freehold.residency import attempts, broker, seccomp
from freehold.residency.broker import Allowed
from freehold.residency.tally import Tally

MAX_PACKET = 1 << 16
MOST_WRITTEN = 10_000
"""Attempts written down one by one in a run; of further ones only the count goes on."""
_RECV, _SEND = 0xC0502100, 0xC0182101
_NOTICE = struct.Struct("=QIIiIQ6Q")
_STATE_EVERY = 0.05
_LAST_SECONDS = 2.0
"""How long it outlives the main process at most, so that nothing is lost."""


class Watchman:
    """Everything the watchman knows, and its loop."""

    def __init__(self, main: socket.socket, record: int, state: int, drill: socket.socket | None):
        self._main = main
        self._record = record
        self._state = state
        self._drill = drill
        self._lines: dict[int, socket.socket] = {main.fileno(): main}
        self._listeners: dict[int, dict[str, Any]] = {}
        self._allowed: dict[int, Allowed] = {}
        self._processes: list[dict[str, Any]] = []
        self._told: set[socket.socket] = set()
        self._promised: dict[socket.socket, Allowed] = {}
        self._by_role: dict[str, socket.socket] = {}
        self._counts: Counter[tuple[str, str]] = Counter()
        self._keeper: socket.socket | None = None
        self._tally: Tally | None = None
        self._written = 0
        self._started = attempts.now()
        self._stale = True
        self._write_at = 0.0
        self._until: float | None = None
        self._poll = select.poll()
        self._poll.register(main, select.POLLIN)
        if drill is not None:
            self._poll.register(drill, select.POLLIN)

    def run(self) -> None:
        """Serve until the main line ends, and the keeper knows of every attempt or is gone."""
        while self._until is None or (self._owing and time.monotonic() < self._until):
            ready = self._poll.poll(self._patience())
            if self._stale and time.monotonic() >= self._write_at:
                self._write_state()
            for descriptor, event in ready:
                if descriptor in self._listeners:
                    self._answer(descriptor, event)
                elif descriptor in self._lines:
                    if not self._hear(self._lines[descriptor]) and descriptor == self._main_fd:
                        self._until = time.monotonic() + _LAST_SECONDS
                elif self._keeper is not None and descriptor == self._keeper.fileno():
                    self._hear_keeper(self._keeper)
                elif self._drill is not None:
                    self._order(self._drill)
            if self._until is not None and self._tally is not None:
                self._tally.hurry()
            self._tell()

    @property
    def _owing(self) -> bool:
        """Whether the keeper is there and has not written all it should."""
        return self._keeper is not None and self._tally is not None and not self._tally.done

    def _patience(self) -> float | None:
        """Milliseconds until there is something to do by itself."""
        waits = [_STATE_EVERY] if self._stale else []
        if self._keeper is not None and self._tally is not None:
            due = self._tally.due()
            waits += [] if due is None else [due]
        if self._until is not None:
            waits.append(max(0.0, self._until - time.monotonic()))
        return 1000 * min(waits) if waits else None

    @property
    def _shut(self) -> bool:
        return self._main in self._told

    @property
    def _main_fd(self) -> int:
        return self._main.fileno()

    def close(self) -> None:
        """Write the last of the state."""
        self._write_state(ended=True)

    # --- lines ------------------------------------------------------------------------------------

    def _hear(self, line: socket.socket) -> bool:
        data, descriptors = _receive(line)
        if not data:
            self._poll.unregister(line)
            del self._lines[line.fileno()]
            self._told.discard(line)
            if line is not self._main:
                line.close()
            return False
        match _parsed(data):
            # The main process is not asked for new lines any more once it is locked itself.
            case {"line": list(peers), "home": str(home)} if (
                line is self._main and descriptors and not self._shut
            ):
                fresh = socket.socket(fileno=descriptors.pop())
                self._promised[fresh] = Allowed(peers=tuple(peers), home=home)
                self._lines[fresh.fileno()] = fresh
                self._poll.register(fresh, select.POLLIN)
            case {"peers": list(peers)} if line is self._main and not self._shut:
                self._promised[line] = Allowed(peers=tuple(peers))
            case {"keeper": True} if line is self._main and descriptors and not self._shut:
                self._keeper, self._tally = socket.socket(fileno=descriptors.pop()), Tally()
                self._keeper.setblocking(False)
                self._poll.register(self._keeper, select.POLLIN)
            case {"lock": {"role": str(), "pid": int()} as about} if line not in self._told:
                # Once a line: what a process says after its lock is no longer to be believed.
                self._told.add(line)
                self._watch(line, about, descriptors)
            case {"drilled": int(number), "result": result}:
                self._report(number, result)
            case _:
                pass  # a process that talks nonsense is watched all the same
        for unwanted in descriptors:
            os.close(unwanted)
        return True

    def _watch(self, line: socket.socket, about: dict[str, Any], descriptors: list[int]) -> None:
        self._processes = [one for one in self._processes if one["role"] != about["role"]]
        self._processes.append(about)
        self._by_role[about["role"]] = line
        if descriptors:
            listener = descriptors.pop()
            self._listeners[listener] = about
            self._allowed[listener] = self._promised.pop(line, Allowed())
            self._poll.register(listener, select.POLLIN)
        self._write_state()
        with contextlib.suppress(OSError):
            line.send(json.dumps({"drill": self._drill is not None}).encode())

    # --- refusals ---------------------------------------------------------------------------------

    def _answer(self, listener: int, event: int) -> None:
        if not event & select.POLLIN:  # all its processes have ended
            self._poll.unregister(listener)
            del self._listeners[listener]
            os.close(listener)
            return
        notice = bytearray(max(_NOTICE.size, 80))
        try:
            fcntl.ioctl(listener, _RECV, notice, True)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EINTR):  # it was killed while it waited
                return
            raise
        number, thread, _, call, arch, _, *given = _NOTICE.unpack_from(notice)
        about = self._listeners[listener]

        def read(address: int, length: int) -> bytes:
            return _memory(thread, address, length)

        name, what = attempts.describe(arch, call & 0xFFFFFFFF, tuple(given), read)
        value, answer = broker.serve(name, thread, given, self._allowed[listener], read)
        if answer == errno.EPERM:
            self._note(about, thread, name, what)
        with contextlib.suppress(OSError):
            fcntl.ioctl(listener, _SEND, struct.pack("=QqiI", number, value, -answer, 0))

    def _note(self, about: dict[str, Any], thread: int, name: str, what: str) -> None:
        self._counts[str(about["role"]), name] += 1
        self._stale = True
        attempt = attempts.Attempt(
            time=attempts.now(),
            role=str(about["role"]),
            pid=int(about["pid"]),
            thread=_thread_name(thread),
            call=name,
            what=what,
        )
        if self._tally is not None:
            self._tally.add(attempt)
        if self._written >= MOST_WRITTEN:
            return
        self._written += 1
        with contextlib.suppress(OSError):  # a full disk must not let anything through, or wait
            os.write(self._record, attempt.line())

    # --- the keeper -------------------------------------------------------------------------------

    def _tell(self) -> None:
        """Tell the keeper of what is due. It takes its time: nothing here waits for it."""
        if self._keeper is None or self._tally is None or not (groups := self._tally.take()):
            return
        try:
            self._keeper.send(json.dumps({"attempts": groups}).encode())
        except OSError:
            self._tally.answered(kept=False)

    def _hear_keeper(self, keeper: socket.socket) -> None:
        assert self._tally is not None
        try:
            data = keeper.recv(MAX_PACKET)
        except OSError:
            data = b""
        if not data:
            self._poll.unregister(keeper)
            keeper.close()
            self._keeper = None
            return
        match _parsed(data):
            case {"kept": bool(kept)}:
                self._tally.answered(kept=kept)
                self._stale = True
            case {"ending": True}:
                self._tally.hurry()
            case _:
                return
        if self._tally.done:
            with contextlib.suppress(OSError):
                keeper.send(b'{"attempts": []}')

    # --- drills, for `freehold residency prove` ---------------------------------------------------

    def _order(self, drill: socket.socket) -> None:
        data = drill.recv(MAX_PACKET)
        if not data:
            self._poll.unregister(drill)
            self._drill = None
            return
        order = json.loads(data)
        if order.get("ask") == "state":
            drill.send(json.dumps(self._described(), ensure_ascii=True).encode())
            return
        line = self._by_role.get(order["role"])
        if order["role"] == "watchman":
            from freehold.residency.attacks import attempt

            self._report(order["number"], attempt(order["name"], order["target"]))
        elif line is None:
            drill.send(json.dumps({"drilled": order["number"], "result": None}).encode())
        else:
            line.send(data)

    def _report(self, number: int, result: object) -> None:
        if self._drill is not None:
            counted = sum(self._counts.values())
            answer = {"drilled": number, "result": result, "attempts": counted}
            self._drill.send(json.dumps(answer).encode())

    # --- state ------------------------------------------------------------------------------------

    def _described(self, *, ended: bool = False) -> dict[str, Any]:
        by: dict[str, dict[str, int]] = {}
        for (role, name), count in sorted(self._counts.items()):
            by.setdefault(role, {})[name] = count
        return {
            "format": 1,
            "watchman": os.getpid(),
            "started": self._started,
            "ended": attempts.now() if ended else None,
            "processes": self._processes,
            "attempts": sum(self._counts.values()),
            "attempts_by": by,
            "in_ledger": None if self._tally is None else self._tally.kept,
        }

    def _write_state(self, *, ended: bool = False) -> None:
        data = json.dumps(self._described(ended=ended), ensure_ascii=True).encode()
        self._stale = False
        self._write_at = time.monotonic() + _STATE_EVERY
        # Padded, then cut: a reader at any moment finds one whole document at the start.
        with contextlib.suppress(OSError):
            before = os.fstat(self._state).st_size
            os.pwrite(self._state, data.ljust(before), 0)
            os.ftruncate(self._state, len(data))


def _parsed(data: bytes) -> object:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _receive(line: socket.socket) -> tuple[bytes, list[int]]:
    room = socket.CMSG_LEN(4 * array.array("i").itemsize)
    try:
        data, ancillary, _, _ = line.recvmsg(MAX_PACKET, room, socket.MSG_CMSG_CLOEXEC)
    except ConnectionResetError:
        return b"", []
    found = array.array("i")
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(payload[: len(payload) - len(payload) % found.itemsize])
    return data, list(found)


class _Piece(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def _memory(thread: int, address: int, length: int) -> bytes:
    """Up to ``length`` bytes of another process's memory, as far as its page goes at least."""
    held = ctypes.create_string_buffer(length)
    whole = min(length, 4096 - address % 4096)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.process_vm_readv.restype = ctypes.c_ssize_t
    for wanted in dict.fromkeys((length, whole)):
        here = _Piece(ctypes.cast(held, ctypes.c_void_p), wanted)
        there = _Piece(address, wanted)
        got = libc.process_vm_readv(
            thread, ctypes.byref(here), ctypes.c_ulong(1), ctypes.byref(there), ctypes.c_ulong(1),
            ctypes.c_ulong(0),
        )  # fmt: skip
        if got >= 0:
            return held.raw[:got]
    raise OSError(ctypes.get_errno(), "process_vm_readv")


def _thread_name(thread: int) -> str:
    try:
        with open(f"/proc/{thread}/comm", encoding="utf-8", errors="replace") as file:  # noqa: PTH123
            name = file.read(64).strip()
    except OSError:
        return str(thread)
    return "".join(c if c.isprintable() else "?" for c in name)


def main(arguments: list[str]) -> int:
    """Watch, on the descriptors given as numbers (an absent drill is ``-1``); locked or not,
    connecting for others or not."""
    main_line, record, state, drill, enforce, connects = map(int, arguments)
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE):
        signal.signal(ignored, signal.SIG_IGN)
    watchman = Watchman(
        socket.socket(fileno=main_line),
        record,
        state,
        socket.socket(fileno=drill) if drill >= 0 else None,
    )
    if enforce and seccomp.available():
        seccomp.install("broker" if connects else "watchman", line=None)
    try:
        watchman.run()
    finally:
        watchman.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

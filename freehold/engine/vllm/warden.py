"""The warden: starts a program, looks after it, starts it again when it ends, and ends it.

It is locked itself, and what it starts inherits the lock. It speaks lines of JSON on its pair: one
order at the start, then reports to whoever started Freehold. When the pair ends, so does everything
here. Standard library only, one thread.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import http.client
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from freehold.residency.lock import DRILL

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_MAX_LINE = 1 << 20
_TICK = 0.25
HEALTH_EVERY = 5.0
HEALTH_SECONDS = 10.0
"""The longest that one answer about its health may take."""
HUNG_SECONDS = 60.0
"""So long without health, once it was well, and it is ended and started again."""
STOP_SECONDS = 15.0
LONGEST_PAUSE = 60.0
WELL_SECONDS = 300.0
"""After so long without a mishap the next one is taken for the first."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What to run: ``argv`` in ``folder`` with ``env`` and nothing else, its words in ``log``,
    reached at the unix socket ``at``."""

    argv: tuple[str, ...]
    env: dict[str, str]
    folder: str
    log: str
    at: str

    @classmethod
    def loads(cls, line: bytes) -> Task:
        given = json.loads(line)
        return cls(**{**given, "argv": tuple(given["argv"])})


class Pauses:
    """How long to wait before the next start: 1 s, then twice as long each time."""

    def __init__(self) -> None:
        self._next = 1.0

    def after(self, lived: float) -> float:
        """The pause after a program that lived so many seconds."""
        if lived >= WELL_SECONDS:
            self._next = 1.0
        pause, self._next = self._next, min(2 * self._next, LONGEST_PAUSE)
        return pause


class Warden:
    """One program, kept running until the pair ``fd`` ends."""

    def __init__(self, fd: int) -> None:
        self._pair = socket.socket(fileno=fd)
        self._poll = select.poll()
        self._poll.register(self._pair, select.POLLIN)
        self._pauses = Pauses()
        self._over = False

    def run(self) -> int:
        """Wait for the task, and do it; the exit status."""
        for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE):
            signal.signal(ignored, signal.SIG_IGN)
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)
        line = self._line()
        if line is None:
            return 0
        task = Task.loads(line)
        held = os.open(task.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(held, fcntl.LOCK_SH)  # as long as it is, nobody sweeps the folder up
        try:
            ever = False
            while not self._over:
                started = time.monotonic()
                well, how = self._live(task)
                ever = ever or well
                if self._over:
                    break
                if not ever:
                    self._say({"failed": how, "words": _tail(task.log)})
                    return 1
                pause = self._pauses.after(time.monotonic() - started)
                self._say({"ended": how, "again": pause})
                self._wait(pause)
        finally:
            end_all(STOP_SECONDS)
            shutil.rmtree(task.folder, ignore_errors=True)
        return 0

    def _live(self, task: Task) -> tuple[bool, str]:
        """One life of the program: whether it was ever well, and how it ended."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(task.at)  # noqa: PTH108
        process = _start(task)
        self._say({"started": process.pid})
        well, last, asked = False, time.monotonic(), 0.0
        while not self._over and process.poll() is None:
            self._wait(_TICK)
            now = time.monotonic()
            if now - asked >= (HEALTH_EVERY if well else 1.0):
                asked = now
                if healthy(task.at):
                    if not well:
                        self._say({"well": process.pid})
                    well, last = True, time.monotonic()
                elif well and now - last > HUNG_SECONDS:
                    break
        status = process.poll()
        hung = f"it did not answer for {HUNG_SECONDS:.0f} s"
        end_all(STOP_SECONDS if self._over else 0.0)
        process.wait()
        return well, hung if status is None else _ending(status)

    def _wait(self, seconds: float) -> None:
        """Let time pass; the pair's end ends everything."""
        until = time.monotonic() + seconds
        while not self._over and (left := until - time.monotonic()) > 0:
            if self._poll.poll(1000 * left) and not self._pair.recv(_MAX_LINE):
                self._over = True

    def _line(self) -> bytes | None:
        data = b""
        while not data.endswith(b"\n"):
            more = self._pair.recv(_MAX_LINE)
            if not more or len(data) > _MAX_LINE:
                return None
            data += more
        return data

    def _say(self, what: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # nobody is left to be told
            self._pair.sendall(json.dumps(what).encode() + b"\n")


def healthy(at: str) -> bool:
    """Whether the server at a unix socket says that it is well."""
    connection = http.client.HTTPConnection("localhost", timeout=HEALTH_SECONDS)
    try:
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(HEALTH_SECONDS)
        connection.sock.connect(at)
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _start(task: Task) -> subprocess.Popen[bytes]:
    drill = os.environ.get(DRILL)
    passed = () if drill is None else (int(drill),)
    env = {**task.env, **({} if drill is None else {DRILL: drill})}
    with Path(task.log).open("wb") as log:
        return subprocess.Popen(
            task.argv,
            cwd=task.folder,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=passed,
            start_new_session=True,
            preexec_fn=_as_new,  # noqa: PLW1509 - only system calls
        )


def end_all(patience: float) -> None:
    """End everything that descends from this process: asked first, then at once."""
    until = time.monotonic() + patience
    if patience:
        _signal(signal.SIGTERM)
        while _reap() and time.monotonic() < until:
            time.sleep(0.05)
    while _reap():
        _signal(signal.SIGKILL)
        time.sleep(0.02)


def _signal(number: int) -> None:
    for pid in descendants(os.getpid()):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _reap() -> bool:
    """Bury what has ended; whether somebody lives."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    return bool(descendants(os.getpid()))


def descendants(of: int) -> list[int]:
    """Every process that descends from one, its own children first."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):  # noqa: PTH208
        if entry.isdecimal():
            with contextlib.suppress(OSError, ValueError, IndexError):
                stat = Path(f"/proc/{entry}/stat").read_text(encoding="utf-8", errors="replace")
                children.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(entry))
    found: list[int] = []
    waiting = list(children.get(of, ()))
    while waiting:
        found.append(waiting.pop(0))
        waiting += children.get(found[-1], ())
    return found


def _as_new() -> None:
    """Die with the warden, and heed again what it ignores: that would outlive the exec, and whoever
    sets no handlers would wait for the end of all patience."""
    for ignored in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_DFL)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _ending(status: int) -> str:
    return f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"


def _tail(log: str) -> str:
    """The last words of the log."""
    with contextlib.suppress(OSError):
        text = Path(log).read_bytes()[-4000:].decode("utf-8", "replace")
        return "".join(c if c.isprintable() or c == "\n" else "?" for c in text)
    return ""

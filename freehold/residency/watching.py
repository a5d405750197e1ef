"""Start the watchman, and give each process of the house its line to it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from freehold.errors import StorageError
from freehold.residency import landlock, seccomp
from freehold.residency.broker import Peer
from freehold.residency.landlock import Reach
from freehold.residency.lock import FIRST, Order

RECORD = "attempts.jsonl"
KEEPERS = ("keeper", "keeper-remote")
MOST_RECORD = 16 << 20
"""Bytes in the record at which a new one is begun; the last one stays beside it."""

_PROGRAM = (
    "import sys; sys.path.append(sys.argv.pop(1)); "
    "from freehold.residency.watch import main; sys.exit(main(sys.argv[1:]))"
)


class Watch:
    """The watchman as the process that made it sees it. ``start`` it, and ``close`` it last.

    ``folder`` holds the record of attempts and the state of each running server. ``enforce`` false:
    the processes are told to shut nothing. ``drill`` is a descriptor from ``freehold residency
    prove``, on which attacks are ordered. ``connects``: it connects for others, where an order
    names addresses.
    """

    def __init__(
        self,
        folder: Path,
        *,
        enforce: bool = True,
        drill: int | None = None,
        connects: bool = False,
    ) -> None:
        self._enforce = enforce
        self._connects = connects
        self._process: subprocess.Popen[bytes] | None = None
        self._line: socket.socket | None = None
        self._drill = drill
        self._files: tuple[int, int] | None = None
        self.state_file = folder / f"{os.getpid()}.json"
        if sys.platform == "linux" and ((enforce and seccomp.available()) or drill is not None):
            self._files = _open(folder, self.state_file)

    def start(self) -> None:
        """Start the process, if this machine and the owner's wish leave it something to do.

        It looks at the memory of locked processes, so it must be inside no lock that they are not
        in: start it after the first ``shut_files``, and lock again after it.
        """
        if self._files is None:
            return
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        record, state = self._files
        drill = self._drill
        passed = [theirs.fileno(), record, state, *([] if drill is None else [drill])]
        try:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-I", "-S", "-c", _PROGRAM),
                    str(Path(__file__).resolve().parents[2]),
                    *map(str, passed[:3]),
                    str(-1 if drill is None else drill),
                    str(int(self._enforce)),
                    str(int(self._connects)),
                ],
                pass_fds=passed,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                process_group=0,
            )
        finally:
            theirs.close()
            for done in passed[1:]:
                os.close(done)
        self._line = ours

    def order(
        self,
        role: str,
        reach: Reach,
        *,
        peers: Sequence[Peer] = (),
        home: str = "",
        isolate: bool = False,
    ) -> Order:
        """What to tell the process that plays ``role``; ``peers`` are the addresses that the
        watchman connects it to, ``home`` the folder of one that hosts another program, which with
        ``isolate`` leaves every network. Ask before this process is locked itself.
        Its descriptors are open here: pass them on, and close them."""
        if self._line is None or self._process is None:
            return Order(role=role, reach=reach, isolate=isolate, enforce=self._enforce)
        if role in FIRST:
            line = self._line.fileno()
            if peers:
                self._line.send(json.dumps({"peers": [list(peer) for peer in peers]}).encode())
        else:
            line = self._new_line({"line": [list(peer) for peer in peers], "home": home})
        return Order(
            role=role,
            reach=reach,
            line=line,
            news=self._new_line({"keeper": True}) if role in KEEPERS else None,
            watchman=self._process.pid,
            isolate=isolate,
            enforce=self._enforce,
        )

    def _new_line(self, told: dict[str, Any]) -> int:
        """One end of a fresh line; the watchman has the other, and was told what it is for."""
        assert self._line is not None
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            socket.send_fds(self._line, [json.dumps(told).encode()], [theirs.fileno()])
        return ours.detach()

    @property
    def alive(self) -> bool:
        """Whether the watchman writes down what is refused."""
        if self._line is None:
            return False
        poll = select.poll()
        poll.register(self._line, 0)
        return not poll.poll(0)

    def status(self) -> dict[str, Any]:
        """What is shut in each process, and how many attempts there were."""
        state = read_state(self.state_file) or {"processes": [], "attempts": 0, "attempts_by": {}}
        return public(state, watched=self.alive, enforce=self._enforce)

    def close(self) -> None:
        """End the watchman, which writes its last state."""
        if self._line is not None and self._process is not None:
            with contextlib.suppress(OSError):
                self._line.shutdown(socket.SHUT_RDWR)
            self._line.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(5)


def public(state: dict[str, Any], *, watched: bool, enforce: bool = True) -> dict[str, Any]:
    """A state for readers: with a verdict in words."""
    processes = state["processes"]
    if not enforce:
        verdict = "off: the owner asked for --no-lock"
    elif processes and all(one["kernel"] for one in processes):
        verdict = "enforced by the kernel"
    else:
        verdict = "not enforced by the kernel"
    return {
        "residency": verdict,
        "recording": watched,
        "landlock_abi": landlock.abi(),
        "processes": processes,
        "attempts": state["attempts"],
        "attempts_by": state["attempts_by"],
        "in_ledger": state.get("in_ledger"),
    }


def _open(folder: Path, state: Path) -> tuple[int, int]:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        forget_ended(folder)
        record = folder / RECORD
        with contextlib.suppress(FileNotFoundError):
            if record.stat().st_size > MOST_RECORD:
                record.replace(folder / f"{RECORD}.1")
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
        written = os.open(record, flags | os.O_APPEND, 0o600)
        stated = os.open(state, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        # Held as long as the watchman lives: that is how others see that the server runs.
        fcntl.flock(stated, fcntl.LOCK_SH)
    except OSError as error:
        raise StorageError(
            f"{folder}: {error.strerror}: refused attempts could not be recorded there; make the "
            "folder writable, or start with --no-lock"
        ) from error
    return written, stated


def read_state(path: Path) -> dict[str, Any] | None:
    """The state in a file, or ``None`` when there is none (yet)."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and found.get("format") == 1 else None


def running(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The state of each server whose watchman lives."""
    for path in sorted(folder.glob("*.json")):
        if _held(path) and (state := read_state(path)) is not None:
            yield path, state


def forget_ended(folder: Path) -> None:
    """Remove states of servers that have ended."""
    for path in folder.glob("*.json"):
        if not _held(path):
            path.unlink(missing_ok=True)


def _held(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False

"""Runs programs that nobody trusts, one after the other, each in a process of its own that can do
nothing but compute:

    python -I -m freehold.residency.cell SCRATCH LIMITS

Standard input has a JSON object a line, ``{"program": "..."}``; standard output answers each with
``{"passed": true, "reason": ""}``. LIMITS are those of ``Limits``, as JSON.

A cell may read the interpreter and the system's libraries, write files into an empty folder of its
own, and that is all: no network, no program or process or thread to start, no signal to anybody, no
other process's memory or limits (Landlock, seccomp, resource limits). Its output goes nowhere. It
has passed if the program came to its end; a program that ends by itself before has not.

Each cell is forked from this process, which imports next to nothing and never runs what it is
given. Where the kernel cannot shut a cell, nothing is run.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from freehold.residency import capabilities, landlock, seccomp
from freehold.residency.calls import prctl
from freehold.residency.landlock import Reach
from freehold.residency.lock import library

_PR_SET_PDEATHSIG = 1
_TICK = 0.05
"""Seconds between two looks at a running cell."""
_LONGEST_TICK = 0.5
"""The most that one look may count for: while a machine sleeps, no program's time passes."""
_REASON = 200


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one program may use: ``seconds`` of processor time, ``wall`` seconds in all, ``memory``
    bytes of address space, ``file`` bytes in one file, ``folder`` bytes and ``files`` files
    together."""

    seconds: int = 15
    wall: float = 60.0
    memory: int = 2 << 30
    file: int = 1 << 20
    folder: int = 16 << 20
    files: int = 200

    def dumps(self) -> str:
        """As one command-line argument."""
        return json.dumps(asdict(self))


def works() -> bool:
    """Whether this kernel can shut a cell."""
    return landlock.abi() > 0 and seccomp.available()


def serve(scratch: Path, limits: Limits) -> int:
    """Run what comes on standard input until it ends; the exit status."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if not works():
        return 1
    capabilities.drop()
    for line in sys.stdin.buffer:
        passed, reason = _run(json.loads(line)["program"], scratch, limits)
        sys.stdout.write(json.dumps({"passed": passed, "reason": reason}) + "\n")
        sys.stdout.flush()
    return 0


def _run(program: str, scratch: Path, limits: Limits) -> tuple[bool, str]:
    folder = tempfile.mkdtemp(dir=scratch)
    # Known to nobody who only runs to some end: `exit(0)` in the middle is no success.
    word = os.urandom(16)
    reading, writing = os.pipe()
    try:
        pid = os.fork()
        if pid == 0:
            try:
                _cell(program, folder, limits, writing, word)
            finally:
                os._exit(1)
        os.close(writing)
        ended = _watch(pid, folder, limits)
        os.set_blocking(reading, False)
        try:
            said = os.read(reading, 16 + 4 * _REASON)
        except BlockingIOError:
            said = b""
    finally:
        os.close(reading)
        shutil.rmtree(folder, ignore_errors=True)
    if hmac.compare_digest(said, word):
        return True, ""
    return False, ended or said.decode("utf-8", "replace")[:_REASON] or "ended before its end"


def _watch(pid: int, folder: str, limits: Limits) -> str:
    """Wait for a cell to end; why it was ended or killed, if it was."""
    left, wait, before = limits.wall, 0.001, time.monotonic()
    why = ""
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            break
        now = time.monotonic()
        left -= min(now - before, _LONGEST_TICK)
        before = now
        if not why and (left <= 0 or not _fits(folder, limits)):
            why = "took too long" if left <= 0 else "wrote too much"
            os.kill(pid, signal.SIGKILL)
        time.sleep(wait)
        wait = min(2 * wait, _TICK)
    if why or not os.WIFSIGNALED(status):
        return why
    number = os.WTERMSIG(status)
    # The kernel ends with either what has used up its processor time.
    spent = number in (signal.SIGXCPU, signal.SIGKILL)
    return "took too long" if spent else f"died of {signal.Signals(number).name}"


def _fits(folder: str, limits: Limits) -> bool:
    total = 0
    with os.scandir(folder) as entries:
        for n, entry in enumerate(entries, 1):
            with contextlib.suppress(FileNotFoundError):
                total += entry.stat(follow_symlinks=False).st_size
            if n > limits.files or total > limits.folder:
                return False
    return True


def _cell(program: str, folder: str, limits: Limits, report: int, word: bytes) -> None:
    """In the fork: shut everything, then run."""
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.dup2(report, 3)
    os.closerange(4, 1 << 16)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update({"HOME": folder, "TMPDIR": folder, "OPENBLAS_NUM_THREADS": "1"})
    for what, most in (
        (resource.RLIMIT_CPU, limits.seconds),
        (resource.RLIMIT_AS, limits.memory),
        (resource.RLIMIT_FSIZE, limits.file),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_NPROC, 64),
    ):
        resource.setrlimit(what, (most, most))
    if not landlock.restrict(Reach(read=_readable(), write=(folder,))):
        raise OSError("this kernel shuts no files")
    seccomp.install("cell", line=None)
    _execute(program, word)


def _readable() -> tuple[str, ...]:
    """The interpreter and its libraries; nothing that tells of other processes, and not us."""
    ours = str(Path(__file__).resolve().parents[1])
    return tuple(path for path in library() if not path.startswith(("/proc", "/sys", ours)))


def _execute(program: str, word: bytes) -> None:
    main = ModuleType("__main__")
    sys.modules["__main__"] = main
    sys.argv = ["program.py"]
    said: bytes
    try:
        exec(compile(program, "program.py", "exec"), main.__dict__)  # noqa: S102 - what cells are for
        said = word
    except BaseException as error:  # whatever a program raises, it has not passed
        said = _told(error)
    with contextlib.suppress(OSError):
        os.write(3, said)
    os._exit(0)


def _told(error: BaseException) -> bytes:
    try:
        text = f"{type(error).__name__}: {error}"
    except BaseException:  # its class is the program's own
        text = type(error).__name__
    return text.encode("utf-8", "replace")[: 4 * _REASON]


def _main(arguments: list[str]) -> int:
    given: dict[str, Any] = json.loads(arguments[1])
    return serve(Path(arguments[0]), Limits(**given))


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))

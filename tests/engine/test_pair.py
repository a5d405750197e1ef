"""The pair itself: what ends an engine process from outside, and what it says to garbage."""

from __future__ import annotations

import fcntl
import os
import random
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Callable

import psutil
import pytest

from freehold.engine import EngineSettings, wire
from freehold.errors import EngineError
from freehold.pair import Frames, frame

Make = Callable[..., EngineSettings]

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="a signal only Linux sends")

PARENT = """
import asyncio, os, sys
from freehold.engine import EngineProcess, EngineSettings
async def main():
    engine = await EngineProcess.start(EngineSettings(root=sys.argv[1], model=sys.argv[2]))
    print(engine.pid, flush=True)
    if sys.argv[3] == "hold":
        os.set_inheritable(engine._pair.fileno(), True)
        os.spawnv(os.P_NOWAIT, "/bin/sleep", ["sleep", "20"])
    await asyncio.sleep(60)
asyncio.run(main())
"""


@linux_only
@pytest.mark.parametrize("pair", ["closes", "hold"])
def test_the_engine_ends_with_its_parent(tiny_settings: Make, pair: str) -> None:
    """Even if someone else still holds the pair open: the kernel sees to that."""
    settings = tiny_settings()
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, settings.root, settings.model, pair],
        stdout=subprocess.PIPE,
        text=True,
    )
    with parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        time.sleep(0.3)
        holders = psutil.Process(parent.pid).children()
        parent.kill()
        gone, _ = psutil.wait_procs([psutil.Process(pid)] if psutil.pid_exists(pid) else [], 5)
        for other in holders:
            if other.pid != pid and other.is_running():
                other.kill()
    assert gone or not psutil.pid_exists(pid)


# --- garbage on the pair --------------------------------------------------------------------------


def bare(settings: EngineSettings | None) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """An engine process with a plain socket at the other end, told its settings if any."""
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "freehold.engine", str(theirs.fileno())],
            pass_fds=(theirs.fileno(),),
            stderr=subprocess.DEVNULL,
        )
    ours.settimeout(30)
    if settings is not None:
        ours.sendall(frame(wire.Configure(settings)))
    return process, ours


def messages_until_end(sock: socket.socket) -> list[wire.AnyFromEngine]:
    frames, found = Frames(), list[wire.AnyFromEngine]()
    while data := sock.recv(1 << 16):
        found += map(wire.read_from_engine, frames.feed(data))
    return found


GARBAGE = {
    "random": random.Random(1).randbytes(4096),
    "oversized": b"\xff\xff\xff\xff",
    "no-msgpack": b"\x00\x00\x00\x01\xc1",
    "wrong-type": b"\x00\x00\x00\x0b" + b"\x92\xa8Generate" + b"\x01",
    "unknown-tag": b"\x00\x00\x00\x06\x91\xa4Nope",
    "twice": frame(wire.Configure(EngineSettings(root="", model=""))),
}


# Loading takes seconds: after it, only what differs from garbage before it.
@pytest.mark.parametrize(
    ("kind", "when"),
    [*((kind, "first") for kind in sorted(GARBAGE)), ("random", "later"), ("twice", "later")],
)
def test_garbage_ends_the_engine_with_a_reason(tiny_settings: Make, kind: str, when: str) -> None:
    process, sock = bare(tiny_settings() if when == "later" else None)
    with sock, process:
        sock.sendall(GARBAGE[kind] * (2 if when == "first" else 1))
        last = messages_until_end(sock)[-1]
        assert isinstance(last, wire.Fatal)
        assert last.fault.kind == "ProtocolError"
        assert process.wait(10) == EngineError.exit_code


@pytest.mark.parametrize("sent", [b"", b"\x00\x00", b"\x00\x00\x00\x09\x92"])
def test_an_end_in_the_middle_ends_the_engine(sent: bytes) -> None:
    process, sock = bare(None)
    with process:
        sock.sendall(sent)
        sock.close()
        assert process.wait(20) == 0


def test_a_descriptor_beyond_a_thousand_serves_as_well() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft <= 1500:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    ours, theirs = socket.socketpair()
    with theirs, ours:
        high = fcntl.fcntl(theirs.fileno(), fcntl.F_DUPFD, 1500)
        process = subprocess.Popen(
            [sys.executable, "-m", "freehold.engine", str(high)], pass_fds=(high,)
        )
        os.close(high)
        theirs.close()
        ours.settimeout(30)
        ours.sendall(b"\xff\xff\xff\xff")
        (fatal,) = messages_until_end(ours)
        assert isinstance(fatal, wire.Fatal)
        assert "announces" in fatal.fault.message
        process.wait(10)


def test_started_by_hand_it_says_so() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "freehold.engine"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "freehold serve" in done.stderr
    assert done.stdout == ""

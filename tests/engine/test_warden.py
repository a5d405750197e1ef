"""The warden in its real lock, with a small server in vLLM's place: what it can reach, how it dies,
and how it comes back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from freehold.engine.vllm.warden import STOP_SECONDS, Pauses
from freehold.residency import landlock, seccomp
from tests.residency.conftest import REPOSITORY

locked = pytest.mark.skipif(
    landlock.abi() < 1 or not seccomp.available(), reason="this kernel has no lock"
)

HOUSE = """
import json, socket, sys
sys.path.insert(0, {repository!r})
from pathlib import Path
from freehold.residency.landlock import Reach
from freehold.residency.lock import Order, library, shut_files
from freehold.residency.watching import Watch
from freehold.spawning import spawn
folder, isolate = Path(sys.argv[1]), sys.argv[2] == "isolate"
home = folder / "home"
reach = Reach(
    read=(*library(), str(folder / "server.py")), write=(str(home), "/dev/shm"), ports=False
)
watch = Watch(folder / "residency", connects=True)
fence = Reach(read=(*reach.read, str(folder)), write=reach.write, ports=False)
shut_files(Order(role="front", reach=fence))
watch.start()
order = watch.order("vllm", reach, home=str(home), isolate=isolate)
process, pair = spawn("freehold.engine.vllm", order)
task = {{
    "argv": [sys.executable, "-P", str(folder / "server.py")], "env": {{}}, "folder": str(home),
    "log": str(home / "log"), "at": str(home / "socket")
}}
pair.sendall(json.dumps(task).encode() + b"\\n")
for line in pair.makefile():
    print(line, end="", flush=True)
    if sys.argv[3:] == ["once"]:
        pair.shutdown(socket.SHUT_RDWR)
process.wait()
print(json.dumps(watch.status()), flush=True)
watch.close()
"""

SERVER = """
import http.server, json, os, signal, socket, socketserver, subprocess, sys, time
def tried(deed):
    try:
        return deed()
    except OSError as error:
        return -error.errno
def connect(family, address):
    with socket.socket(family, socket.SOCK_STREAM) as one:
        one.settimeout(2)
        one.connect(address)
        return 0
def bound(family, address, reach):
    with socket.socket(family, socket.SOCK_STREAM) as one:
        one.bind(address)
        one.listen()
        connect(socket.AF_INET, ("127.0.0.1", one.getsockname()[1]))
        return one.getsockname()[0]
def link_out():
    os.symlink("/run", "link")
    return connect(socket.AF_UNIX, os.getcwd() + "/link/x.sock")
def link_sock():
    os.symlink("{outside}", "sock")
    return connect(socket.AF_UNIX, os.getcwd() + "/sock")
def unbound():
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as one:
        one.listen()
        return 0
found = {{
    "world": tried(lambda: connect(socket.AF_INET, ("192.0.2.1", 80))),
    "outside": tried(lambda: connect(socket.AF_UNIX, "{outside}")),
    "abstract": tried(lambda: connect(socket.AF_UNIX, "\\0x")),
    "link out": tried(link_out),
    "link socket": tried(link_sock),
    "dots": tried(lambda: connect(socket.AF_UNIX, os.getcwd() + "/../x")),
    "bind loopback": tried(lambda: bound(socket.AF_INET, ("127.0.0.1", 0), 1)),
    "bind any": tried(lambda: bound(socket.AF_INET, ("0.0.0.0", 0), 1)),
    "bind any 6": tried(lambda: bound(socket.AF_INET6, ("::", 0), 1)),
    "unbound": tried(unbound),
    "datagram": tried(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM) and 0),
    "packet": tried(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW) and 0),
    "interfaces": tried(lambda: [name for _, name in socket.if_nameindex()]),
    "program": subprocess.run(["/bin/true"]).returncode,
    "secret": tried(lambda: len(open("{secret}").read())),
    "kill": tried(lambda: os.kill({parent}, 0)),
    "pid": os.getpid(),
}}
with open("found", "w") as file:
    json.dump(found, file)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()
    def log_message(self, *_): pass
    def address_string(self): return ""
class Server(socketserver.UnixStreamServer):
    def get_request(self):
        request, _ = super().get_request()
        return request, ("", 0)
subprocess.Popen(["/bin/sleep", "1000"])
Server(os.getcwd() + "/socket", Handler).serve_forever()
"""


class House:
    def __init__(self, folder: Path, *how: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOUSE.format(repository=str(REPOSITORY)), str(folder), *how],
            stdout=subprocess.PIPE,
            text=True,
        )

    def says(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        found: dict[str, Any] = json.loads(self.process.stdout.readline())
        return found


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """What a house needs, and a socket and a file outside of it."""
    import socket

    (tmp_path / "home").mkdir()
    (tmp_path / "secret").write_text("secret")
    outside = tmp_path / "outside.sock"
    script = SERVER.format(outside=outside, secret=tmp_path / "secret", parent=os.getpid())
    (tmp_path / "server.py").write_text(script)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(outside))
        listener.listen()
        yield tmp_path


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


@locked
@pytest.mark.parametrize("how", ["isolate", "open"])
def test_what_it_starts_stays_at_home(folder: Path, how: str) -> None:
    house = House(folder, how)
    started = house.says()["started"]
    assert house.says() == {"well": started}
    found = json.loads((folder / "home" / "found").read_text())
    for way in ("world", "outside", "abstract", "link out", "link socket", "dots", "unbound"):
        assert found[way] in (-1, -13, -20, -40, -111), (way, found[way])
    assert found["datagram"] == found["packet"] == found["kill"] == -1
    assert found["secret"] == -13
    # What is allowed: itself, and by loopback alone.
    assert found["bind loopback"] == found["bind any"] == "127.0.0.1"
    assert found["bind any 6"] == "::ffff:127.0.0.1"
    assert found["program"] == 0
    if how == "isolate":
        assert found["interfaces"] == ["lo"] or found["interfaces"][0] == "lo"
    # It dies, and comes back; nothing that it had started is left.
    os.kill(found["pid"], signal.SIGKILL)
    assert house.says() == {"ended": "signal SIGKILL", "again": 1.0}
    again = house.says()["started"]
    assert again != started
    assert house.says() == {"well": again}
    # Whoever started the house dies: everything else does.
    house.process.kill()
    until = time.monotonic() + 30
    while alive(again) and time.monotonic() < until:
        time.sleep(0.05)
    assert not alive(again)


@locked
def test_it_ends_when_told_and_says_what_was_shut(folder: Path) -> None:
    house = House(folder, "isolate", "once")
    started = house.says()["started"]
    told = time.monotonic()
    status = house.says()
    # Both that run heed SIGTERM, which the warden itself ignores: nothing had to be waited out.
    assert time.monotonic() - told < STOP_SECONDS
    (process,) = status["processes"]
    assert process["role"] == "vllm"
    assert process["calls"] == "recorded"
    assert "files" in process["files"]
    assert not alive(started)
    assert list((folder / "home").iterdir()) == []


@locked
def test_what_never_answers_fails_with_its_last_words(folder: Path) -> None:
    (folder / "server.py").write_text("raise SystemExit('no such model')")
    house = House(folder, "open")
    house.says()
    assert house.says() == {"failed": "exit status 1", "words": "no such model\n"}


def test_pauses_grow_and_forget() -> None:
    pauses = Pauses()
    assert [pauses.after(5) for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert pauses.after(1000) == 1
    assert pauses.after(5) == 2

"""The watchman: it records, it survives nonsense, and its death opens nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from freehold.residency import landlock, seccomp
from freehold.residency.watching import RECORD, read_state, running
from tests.residency.conftest import REPOSITORY

pytestmark = pytest.mark.skipif(
    landlock.abi() < 1 or not seccomp.available(), reason="this kernel has no lock"
)

HOUSE = """
import json, os, signal, socket, sys, time
sys.path.insert(0, {repository!r})
from pathlib import Path
from freehold.residency.landlock import Reach
from freehold.residency.lock import Order, library, shut_calls, shut_files
from freehold.residency.watching import Watch
def tried(deed):
    try:
        deed()
    except OSError as error:
        return error.errno
    return 0
folder = Path(sys.argv[1])
watch = Watch(folder)
reach = Reach(read=(*library(), str(folder)))
shut_files(Order(role="counter", reach=reach))
watch.start()
order = watch.order("counter", reach)
shut = shut_calls(order, shut_files(order))
def say(thing):
    print(json.dumps(thing), flush=True)
{code}
"""

House = Callable[[str], "subprocess.Popen[str]"]


@pytest.fixture
def house(tmp_path: Path) -> Any:
    started = []

    def start(code: str) -> subprocess.Popen[str]:
        script = HOUSE.format(repository=str(REPOSITORY), code=code)
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path)],
            stdout=subprocess.PIPE,
            stdin=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def said(process: subprocess.Popen[str]) -> Any:
    assert process.stdout is not None
    return json.loads(process.stdout.readline())


def test_attempts_are_counted_and_written_down(house: House, tmp_path: Path) -> None:
    process = house("""
for _ in range(3):
    tried(lambda: socket.create_connection(("192.0.2.1", 443)))
tried(lambda: os.execv("/usr/bin/curl", ["curl"]))
time.sleep(0.2)
say(watch.status())
watch.close()
""")
    status = said(process)
    assert process.wait(10) == 0
    assert status["residency"] == "enforced by the kernel"
    assert status["attempts_by"] == {"counter": {"execve": 1, "socket": 3}}
    lines = [json.loads(line) for line in (tmp_path / RECORD).read_text().splitlines()]
    assert [line["call"] for line in lines] == ["socket"] * 3 + ["execve"]
    assert lines[-1]["what"] == "/usr/bin/curl"
    assert lines[-1]["role"] == "counter"
    assert (tmp_path / RECORD).stat().st_mode & 0o077 == 0


def test_nothing_opens_when_the_watchman_is_killed(house: House, tmp_path: Path) -> None:
    process = house("""
say(tried(socket.socket))
sys.stdin.readline()
say([tried(socket.socket), tried(os.fork), watch.alive])
""")
    assert said(process) == 1
    ((_, state),) = running(tmp_path)
    os.kill(state["watchman"], signal.SIGKILL)
    time.sleep(0.3)
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
    refused, forked, alive = said(process)
    assert refused == forked == 38  # ENOSYS: the kernel's own answer when nobody holds the listener
    assert alive is False
    assert not list(running(tmp_path))


def test_nonsense_on_the_line_changes_nothing(house: House, tmp_path: Path) -> None:
    process = house("""
line = socket.socket(fileno=watch._line.fileno())
for junk in (b"\\xff\\x00", b"[" * 5000, b"{}", b'{"lock": 7}', b'{"lock": {"role": "engine"}}',
             b'{"line": []}', b'{"line": 1}', b'{"drilled": 1, "result": 2}',
             b'{"lock": {"role": "keeper", "pid": 1, "kernel": true, "files": [], "calls": ""}}'):
    line.send(junk)
say(tried(socket.socket))
time.sleep(0.2)
say(watch.status())
line.detach()
""")
    assert said(process) == 1
    status = said(process)
    assert [one["role"] for one in status["processes"]] == ["counter"]
    assert status["attempts_by"] == {"counter": {"socket": 1}}


def test_it_ends_with_the_house(house: House, tmp_path: Path) -> None:
    process = house("say(0); sys.stdin.readline()")
    assert said(process) == 0
    ((path, state),) = running(tmp_path)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{state['watchman']}").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not list(running(tmp_path))
    ended = read_state(path)
    assert ended is not None
    assert ended["ended"] is not None


def test_the_watched_may_not_touch_the_watchman(house: House) -> None:
    process = house("""
pid = watch._process.pid
say([tried(lambda: os.kill(pid, 0)), tried(lambda: open(f"/proc/{pid}/environ", "rb").read())])
""")
    assert set(said(process)) <= {1, 13}


@pytest.mark.parametrize("role", ["keeper-remote", "counter-remote"])
def test_who_has_peers_is_connected_to_them_and_to_nothing_else(tmp_path: Path, role: str) -> None:
    """The watchman connects a copy of the process's socket, to the addresses named at start."""
    import socket

    with (
        socket.create_server(("127.0.0.1", 0)) as named,
        socket.create_server(("127.0.0.1", 0)) as other,
    ):
        ports = named.getsockname()[1], other.getsockname()[1]
        script = (COUNTER if role == "counter-remote" else KEEPER).format(
            repository=str(REPOSITORY), named=ports[0], other=ports[1], role=role,
            probe=PROBE.format(named=ports[0], other=ports[1]),
        )  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path)],
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        result = json.loads(done.stdout)
        assert result["named"] in (0, 115)
        assert result["sent"] == 5
        assert result["other"] == result["blocking"] == result["unix"] == 1
        assert result["datagram"] == result["netlink"] == 1
        connection, _ = named.accept()
        assert connection.recv(5) == b"hello"
        other.setblocking(False)
        with pytest.raises(BlockingIOError):
            other.accept()
    lines = [json.loads(line) for line in (tmp_path / RECORD).read_text().splitlines()]
    assert f"127.0.0.1:{ports[1]}" in " ".join(line["what"] for line in lines)


PROBE = """
import json, select, socket
def connect(port, blocking=False, family=socket.AF_INET, kind=socket.SOCK_STREAM, to=None):
    try:
        s = socket.socket(family, kind)
    except OSError as error:
        return error.errno, None
    s.setblocking(blocking)
    try:
        return s.connect_ex(to or ("127.0.0.1", port)), s
    except OSError as error:
        return error.errno, s
named, s = connect({named})
select.select([], [s], [], 5)
print(json.dumps(dict(
    named=named, sent=s.send(b"hello"), other=connect({other})[0],
    blocking=connect({named}, blocking=True)[0],
    unix=connect(0, family=socket.AF_UNIX, to="/run/dbus/system_bus_socket")[0],
    datagram=connect({named}, kind=socket.SOCK_DGRAM)[0],
    netlink=connect(0, family=socket.AF_NETLINK, kind=socket.SOCK_RAW, to=(0, 0))[0],
)))
"""

PEERED = """
import os, subprocess, sys
sys.path.insert(0, {repository!r})
from pathlib import Path
from freehold.residency.landlock import Reach
from freehold.residency.lock import Order, library, shut_calls, shut_files
from freehold.residency.watching import Watch
folder = Path(sys.argv[1])
watch = Watch(folder, connects=True)
reach = Reach(read=library(), connect=({named}, {other}))
shut_files(Order(role="counter", reach=reach))
watch.start()
order = watch.order({role!r}, reach, peers=[("127.0.0.1", {named})])
"""

KEEPER = (
    PEERED
    + """
KEEPER = '''
import sys
sys.path.insert(0, {repository!r})
from freehold.residency.lock import Order, lock
lock(Order.loads(sys.argv[1]))
''' + {probe!r}
done = subprocess.run([sys.executable, "-c", KEEPER, order.dumps()], pass_fds=(order.line,),
    text=True, stdout=subprocess.PIPE)
sys.stdout.write(done.stdout)
watch.close()
sys.exit(done.returncode)
"""
)

COUNTER = (
    PEERED
    + """
shut_calls(order, shut_files(order))
exec({probe!r})
watch.close()
"""
)

"""The lock as the kernel enforces it, tried in processes of their own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from freehold.residency import landlock
from freehold.residency.landlock import Reach
from freehold.residency.lock import Order, reaching

if TYPE_CHECKING:
    from tests.residency.conftest import Locked


@pytest.mark.parametrize("role", ["engine", "counter", "keeper", "front", "watchman"])
def test_no_role_makes_a_connection(locked: Locked, role: str) -> None:
    result = locked(
        """
result = [
    tried(lambda: socket.socket(family, kind))
    for family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX, socket.AF_NETLINK)
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW)
]
""",
        role=role,
    )
    assert set(result) == {"EPERM"}


def test_threads_run_and_processes_do_not(locked: Locked) -> None:
    result = locked(
        """
import subprocess
done = []
thread = threading.Thread(target=done.append, args=(1,))
thread.start(); thread.join()
result = [done, tried(os.fork), tried(lambda: subprocess.run(["/bin/true"]))]
"""
    )
    assert result == [[1], "EPERM", "EPERM"]


def test_threads_that_were_there_are_locked_too(locked: Locked) -> None:
    """The filter reaches every thread; only files must be shut before there is one."""
    result = locked(
        """
from freehold.residency.lock import shut_calls
result, go = [], threading.Event()
def late():
    go.wait()
    result.append(tried(os.fork))
thread = threading.Thread(target=late)
thread.start()
shut_calls(Order(role="counter"), ["files"])
go.set()
thread.join()
""",
        role="keeper",
    )
    assert result == ["EPERM"]


def test_files_beyond_reach(locked: Locked, tmp_path: Path) -> None:
    given, other = tmp_path / "given", tmp_path / "other"
    given.mkdir()
    other.mkdir()
    (given / "a").write_text("a")
    (other / "b").write_text("b")
    code = f"""
result = [
    open({str(given / "a")!r}).read(),
    tried(lambda: open({str(other / "b")!r})),
    tried(lambda: open({str(given / "a")!r}, "r+")),
    tried(lambda: open({str(given / "new")!r}, "w")),
    tried(lambda: os.unlink({str(given / "a")!r})),
    tried(lambda: os.listdir({str(other)!r})),
    tried(lambda: open("/etc/shadow")),
]
"""
    left = ["a", "EACCES", *["EPERM"] * 3, "EACCES", "EACCES"]
    assert locked(code, role="counter", read=(str(given),)) == left


def test_a_keeper_writes_its_own_folder_only(locked: Locked, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    code = f"""
import sqlite3
db = sqlite3.connect({str(mine / "ledger.sqlite")!r})
db.execute("pragma journal_mode = wal"); db.execute("create table t (a)")
db.execute("insert into t values (7)"); db.commit()
result = [
    db.execute("select a from t").fetchone()[0],
    tried(lambda: open({str(tmp_path / "else")!r}, "w")),
]
"""
    assert locked(code, role="keeper", write=(str(mine),)) == [7, "EACCES"]


@pytest.mark.skipif(landlock.abi() < 5, reason="this kernel leaves ioctl to the file's own rights")
@pytest.mark.parametrize("role", ["engine", "workshop"])
def test_a_device_is_asked_only_where_it_is_given_as_one(locked: Locked, role: str) -> None:
    """A GPU's driver speaks by ioctl alone. A pseudo-terminal stands for it: it has a number to
    ask for."""
    code = """
import fcntl, struct
ptmx = os.open("/dev/ptmx", os.O_RDWR)
ask = lambda: fcntl.ioctl(ptmx, 0x80045430, struct.pack("i", 0))
result = tried(ask)
"""
    assert locked(code, role=role, devices=("/dev/ptmx",)) == "done"
    assert locked(code, role=role, write=("/dev/ptmx",)) == "EACCES"


@pytest.mark.parametrize("role", ["engine", "workshop"])
def test_what_a_gpu_is_found_by_is_read(locked: Locked, role: str) -> None:
    code = """
import tempfile
from freehold.residency.lock import devices
spoken = [path for path in devices() if os.path.exists(path) and not os.path.isdir(path)]
result = [
    tried(lambda: os.listdir("/sys/bus")),
    tried(lambda: tempfile.TemporaryFile(dir="/dev/shm")),
    *[tried(lambda: os.open(path, os.O_RDWR)) for path in spoken],
]
"""
    reach = reaching(Reach(), "cuda")
    found = locked(code, role=role, read=reach.read, devices=reach.devices)
    assert set(found) == {"done"}
    assert reaching(Reach(), "cpu") == Reach()


def test_lazy_imports_and_randomness_still_work(locked: Locked) -> None:
    result = locked(
        """
import decimal, email.message, secrets, sqlite3, tempfile, ssl, hashlib
import numpy
result = [len(secrets.token_bytes(8)), float(numpy.dot([1.0, 2.0], [3.0, 4.0]))]
"""
    )
    assert result == [8, 11.0]


def test_neighbours_are_out_of_sight(locked: Locked) -> None:
    result = locked(
        """
parent = os.getppid()
result = [
    tried(lambda: os.kill(parent, 0)),
    tried(lambda: open(f"/proc/{parent}/environ", "rb").read()),
    tried(lambda: os.readlink(f"/proc/{parent}/fd/0")),
]
"""
    )
    assert result[0] in ("EPERM", "done")  # signals are scoped from Landlock ABI 6 on
    assert set(result[1:]) <= {"EACCES", "EPERM"}


def test_what_was_inherited_is_closed(locked: Locked) -> None:
    result = locked(
        """
from freehold.residency.lock import close_strangers
r, w = os.pipe()
kept, other = os.pipe()
close_strangers({kept})
result = [tried(lambda: os.fstat(fd)) for fd in (r, w, kept, other)]
"""
    )
    assert result == ["EBADF", "EBADF", "done", "EBADF"]


def test_an_order_crosses_as_text() -> None:
    order = Order(role="engine", reach=Reach(read=("/a b", '/"c'), connect=(5432,)), line=7)
    assert Order.loads(order.dumps()) == order


def test_the_owner_may_leave_it_open(locked: Locked) -> None:
    import subprocess
    import sys

    code = (
        "from freehold.residency.lock import Order, lock\n"
        "import socket\n"
        "shut = lock(Order(role='engine', enforce=False))\n"
        "socket.socket().close()\n"
        "print(shut.kernel, shut.files, repr(shut.calls))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "False () ''"


def test_a_thread_that_is_there_already_is_a_defect_and_said(locked: Locked) -> None:
    result = locked(
        """
from freehold.errors import FreeholdError
from freehold.residency.lock import shut_files
go = threading.Event()
thread = threading.Thread(target=go.wait)
thread.start()
try:
    shut_files(Order(role="engine"))
    result = "shut"
except FreeholdError as error:
    result = str(error)
go.set()
""",
    )
    assert "2 threads run already in the engine" in result


def test_an_engine_that_has_kept_its_pack_writes_no_more(locked: Locked, tmp_path: Path) -> None:
    mine = tmp_path / "packs"
    mine.mkdir()
    code = f"""
from freehold.residency.seccomp import forgo_writing
path = {str(mine / "one")!r}
open(path, "w").write("pack")
forgo_writing()
result = [
    open(path).read(),
    tried(lambda: open(path, "w")),
    tried(lambda: os.unlink(path)),
    tried(lambda: os.rename(path, path + "2")),
    tried(lambda: os.mkdir(path + "3")),
]
"""
    assert locked(code, role="engine", write=(str(mine),)) == ["pack", *4 * ["EPERM"]]

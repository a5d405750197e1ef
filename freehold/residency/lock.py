"""The lock: what each process of the house does to itself before it starts a thread.

    order = Order(role="engine", reach=Reach(read=(store, *library())), line=3, watchman=811)
    lock(order)          # the engine, the keeper: everything at once
    shut_files(order)    # the counter: before its first thread,
    shut_calls(order)    # and once it listens and its children run

Files, ports, signals and abstract sockets are shut by Landlock, everything else by a seccomp
filter. Where the kernel has neither (another system, an old kernel), an audit hook of the
interpreter refuses what Python code does, and ``Shut.kernel`` is false: that stops mistakes and
honest plugins, not an attacker.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
import sys
import sysconfig
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from freehold.errors import FreeholdError
from freehold.residency import calls, capabilities, landlock, seccomp
from freehold.residency.landlock import Reach

FIRST = ("counter", "counter-remote", "front")
"""Roles of the process that starts the others; its line to the watchman is the main one."""

_PACKAGE = Path(__file__).resolve().parents[1]
_PR_SET_PTRACER = 0x59616D61
_ANSWER_SECONDS = 10.0
HOST = "vllm"
"""The role of a process that starts another program in its own lock."""
DRILL = "FREEHOLD_DRILL"
"""The environment variable that tells such a program its line, in a drill."""
_MAX_PACKET = 1 << 16
_SYSTEM = (
    "/usr",
    "/lib",
    "/lib64",
    "/proc",  # of processes outside the lock it shows no memory, descriptors or environment
    "/sys/devices/system",
    "/sys/fs/cgroup",
    "/sys/kernel/mm",
    "/dev/urandom",
    "/dev/random",
    "/dev/zero",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/etc/ssl/openssl.cnf",
    "/etc/mime.types",
)
_NAMES = ("/etc/hosts", "/etc/host.conf", "/etc/nsswitch.conf", "/etc/gai.conf")
_EMPTY = ("/dev/null",)
_DEVICES = (
    "/dev/nvidiactl",
    "/dev/nvidia-uvm",
    "/dev/nvidia-uvm-tools",
    "/dev/nvidia-caps",
    "/dev/kfd",
    "/dev/dri",
    "/dev/shm",  # noqa: S108 - what a driver shares with its device
)


@dataclass(frozen=True, kw_only=True)
class Order:
    """What a process is told about its lock. ``line`` is the descriptor that leads to the process
    ``watchman``; without, attempts are refused and not written down. On ``news`` the watchman tells
    a keeper of attempts. ``enforce`` false: nothing is shut (the owner's wish), and the lines are
    used for nothing but drills. ``isolate``: first leave every network, where the kernel lets."""

    role: str
    reach: Reach = field(default_factory=Reach)
    line: int | None = None
    news: int | None = None
    watchman: int = 0
    isolate: bool = False
    enforce: bool = True

    @property
    def descriptors(self) -> tuple[int, ...]:
        """The descriptors that the process is given."""
        return tuple(fd for fd in (self.line, self.news) if fd is not None)

    def dumps(self) -> str:
        """As one command-line argument."""
        return json.dumps(asdict(self))

    @classmethod
    def loads(cls, text: str) -> Order:
        given = json.loads(text)
        parts: dict[str, Any] = given.pop("reach")
        ports = parts.pop("ports")
        reach = Reach(**{key: tuple(value) for key, value in parts.items()}, ports=ports)
        return cls(reach=reach, **given)


@dataclass(frozen=True, kw_only=True)
class Shut:
    """What is shut in this process: ``files`` in words, ``calls`` as ``recorded``, ``refused`` (but
    written down by nobody) or empty. ``kernel``: the kernel enforces both."""

    role: str
    pid: int
    files: tuple[str, ...]
    calls: str

    @property
    def kernel(self) -> bool:
        return bool(self.files and self.calls)

    def public(self) -> dict[str, Any]:
        return asdict(self) | {"kernel": self.kernel}


def library() -> tuple[str, ...]:
    """Where this interpreter, its packages, and the system's libraries lie."""
    paths = [sys.prefix, sys.base_prefix, sys.exec_prefix, *sysconfig.get_paths().values()]
    # Not all of sys.path: the folder that Freehold was started in may be on it.
    paths += [path for path in sys.path if path.endswith(("-packages", ".zip"))]
    paths.append(str(_PACKAGE))
    real = {str(Path(path).resolve()) for path in paths if path} - {"/"}
    folders = (*_SYSTEM, *sorted(real))
    return (*folders, *(path for path in _mapped() if not path.startswith(folders)))


def _mapped() -> list[str]:
    """Shared libraries of this process, wherever they lie: a child will want them too."""
    try:
        lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    paths = {line[line.index("/") :] for line in lines if "/" in line}
    return sorted(path for path in paths if ".so" in path and Path(path).is_file())


def devices() -> tuple[str, ...]:
    """Files through which accelerators are spoken to."""
    found = [str(path) for path in Path("/dev").glob("nvidia[0-9]*")]
    return (*_DEVICES, *found)


def reaching(reach: Reach, device: str) -> Reach:
    """``reach`` for what computes on ``device`` (as PyTorch names it): any but the CPU is spoken to
    through files of its own, and found by what the kernel says of the buses."""
    if device == "cpu":
        return reach
    return replace(reach, read=(*reach.read, "/sys"), devices=(*reach.devices, *devices()))


def lock(order: Order) -> Shut:
    """Shut files and calls. Raises ``OSError``, ``FreeholdError``."""
    return shut_calls(order, shut_files(order))


def shut_files(order: Order) -> list[str]:
    """Shut all files, ports and neighbours but ``order.reach`` for this thread and those to come.

    ``/dev/null`` and the files that names of hosts are read from stay open. In words what is shut.
    """
    if not order.enforce:
        return []
    if (running := _threads()) > 1:
        raise FreeholdError(
            f"{running} threads run already in the {order.role}, and the lock of files would not "
            "reach all of them: this is a defect of Freehold; --no-lock starts without the lock"
        )
    reach = order.reach
    # As root, some of what Landlock hides is shown to whoever holds a capability for it.
    dropped = bool(calls.NUMBERS) and capabilities.drop()
    shut = landlock.restrict(
        Reach(
            read=(*reach.read, *_NAMES),
            write=(*reach.write, *_EMPTY),
            list=(*reach.list, str(_PACKAGE.parent)),  # where a new interpreter looks for us
            devices=reach.devices,
            connect=reach.connect,
            bind=reach.bind,
            ports=reach.ports,
        )
    )
    return [*shut, "capabilities"] if shut and dropped else shut


def _threads() -> int:
    try:
        return len(os.listdir("/proc/self/task"))  # noqa: PTH208
    except OSError:
        return 1


def shut_calls(order: Order, files: list[str]) -> Shut:
    """Shut system calls in all threads, and tell the watchman; ``files`` came from ``shut_files``.

    Raises ``FreeholdError`` when the watchman does not answer: a lock that nobody watches over is
    not what was asked for.
    """
    listener, how = None, ""
    if order.enforce and seccomp.available():
        if order.watchman:
            with contextlib.suppress(OSError):  # only Yama knows the call
                calls.prctl(_PR_SET_PTRACER, order.watchman)
        listener = seccomp.install(order.role, line=order.line)
        how = "refused" if listener is None else "recorded"
    shut = Shut(role=order.role, pid=os.getpid(), files=tuple(files), calls=how)
    if order.enforce and not shut.kernel:
        from freehold.residency.hook import hook

        hook(order.reach)
    if order.line is not None:
        _tell(order, order.line, shut, listener)
    return shut


def _tell(order: Order, line_fd: int, shut: Shut, listener: int | None) -> None:
    line = socket.socket(fileno=line_fd)
    line.settimeout(_ANSWER_SECONDS)
    descriptors = [] if listener is None else [listener]
    try:
        socket.send_fds(line, [json.dumps({"lock": shut.public()}).encode()], descriptors)
        answer = json.loads(line.recv(_MAX_PACKET) or b"null")
    except (OSError, ValueError) as error:
        raise FreeholdError(
            f"the watchman does not answer ({error}), so the {order.role} does not start: "
            "start Freehold again, or with --no-lock"
        ) from error
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    line.settimeout(None)
    drilled = bool(answer and answer.get("drill"))
    if drilled and order.role == HOST:
        # Attacks are to be tried in what it starts, not in it.
        os.environ[DRILL] = str(line.fileno())
        os.set_inheritable(line.detach(), True)
    elif drilled:
        from freehold.residency.drill import serve

        serve(line.detach(), order.role)
    elif order.role in FIRST:
        line.detach()  # the watchman lives as long as this end is open
    else:
        line.close()


def close_strangers(keep: set[int]) -> None:
    """Close every descriptor above 2 that leads somewhere (a socket, a pipe, a device, a folder)
    and is not in ``keep``: what whoever started us left open is no way out."""
    try:
        found = [int(name) for name in os.listdir("/proc/self/fd")]  # noqa: PTH208
    except OSError:
        return
    for descriptor in found:
        if descriptor > 2 and descriptor not in keep:
            with contextlib.suppress(OSError):
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    os.close(descriptor)

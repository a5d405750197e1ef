"""Two network namespaces and a wire between them: a server inside, the world outside.

The world has a listener on every port that an attack may aim at, and notes what it gets. Nothing of
it touches the machine's own network.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from freehold.errors import FreeholdError
from freehold.residency.calls import call

INSIDE, OUTSIDE = "in0", "out0"
_NET4, _NET6 = "10.77.0.", "fd77::"
V4, V6 = _NET4 + "2", _NET6 + "2"
_MAC = {1: "02:00:00:00:00:01", 2: "02:00:00:00:00:02"}
PORT, DNS = 8080, 53
_NEWNS, _NEWNET, _NEWUSER = 0x00020000, 0x40000000, 0x10000000
_BIND, _PRIVATE = 0x1000, 0x44000
_SETTLE = 3.0
"""Seconds for the kernel's own words (multicast reports) on a fresh wire to end."""


class Stage:
    """The two namespaces. The calling process must have one thread; it ends up outside, for good.

    Raises ``FreeholdError`` where namespaces or the tool ``ip`` are missing.
    """

    def __init__(self, folder: Path) -> None:
        self.heard = 0
        self._kept: list[socket.socket] = []
        try:
            self._unshare()
            self.inside = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            call("unshare", _NEWNET)
            self.outside = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise FreeholdError(
                f"no network namespace can be made here ({error.strerror}): run the proof as root, "
                "or allow user namespaces"
            ) from error
        self._wire()
        self._names(folder)
        self._listen(folder)
        time.sleep(_SETTLE)

    def enter(self) -> Callable[[], None]:
        """What a child process calls to be inside."""
        inside = self.inside
        return lambda: _join(inside)

    @contextmanager
    def visiting(self) -> Iterator[None]:
        """Open sockets inside, from this thread."""
        _join(self.inside)
        try:
            yield
        finally:
            _join(self.outside)

    def leak(self) -> socket.socket:
        """A connection from inside to the world, for a server to inherit from a careless parent."""
        with socket.create_server((V4, PORT + 1)) as listener:
            with self.visiting():
                made = socket.create_connection(listener.getsockname(), timeout=5)
            self._kept.append(listener.accept()[0])  # never closed: that would be a packet
        return made

    def _unshare(self) -> None:
        user, group = os.geteuid(), os.getegid()
        if user == 0:
            call("unshare", _NEWNET | _NEWNS)
            return
        call("unshare", _NEWUSER | _NEWNET | _NEWNS)
        Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1", encoding="ascii")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1", encoding="ascii")

    def _wire(self) -> None:
        with self.visiting():
            _ip("link set lo up")
            _quiet("default")
        _quiet("default")
        _ip("link set lo up")
        _ip(f"link add {OUTSIDE} address {_MAC[2]} type veth peer name {INSIDE} address {_MAC[1]}")
        _ip(f"link set {INSIDE} netns /proc/{os.getpid()}/fd/{self.inside}")
        self._end(OUTSIDE, 2)
        with self.visiting():
            self._end(INSIDE, 1)
            _ip(f"route add default via {V4}")
            with contextlib.suppress(FreeholdError):
                _ip(f"-6 route add default via {V6}")

    def _end(self, name: str, side: int) -> None:
        v4, v6 = _NET4 + str(side), _NET6 + str(side)
        _quiet(name)
        with contextlib.suppress(FreeholdError):
            _ip(f"link set {name} addrgenmode none")
        _ip(f"addr add {v4}/24 broadcast + dev {name}")
        _ip(f"link set {name} up")
        with contextlib.suppress(FreeholdError):  # a kernel without IPv6 has one way out less
            _ip(f"-6 addr add {v6}/64 dev {name} nodad")
        # Neighbours who know each other need not ask: no packet but those of an attack.
        for address in (_NET4, _NET6):
            with contextlib.suppress(FreeholdError):
                _ip(
                    f"neigh replace {address}{3 - side} lladdr {_MAC[3 - side]} "
                    f"dev {name} nud permanent"
                )

    def _names(self, folder: Path) -> None:
        """Have the machine's own resolver ask the world outside."""
        own = folder / "resolv.conf"
        own.write_text(f"nameserver {V4}\noptions timeout:1 attempts:1\n", encoding="ascii")
        with contextlib.suppress(OSError):
            call("mount", b"none", b"/", None, _PRIVATE, None)
            there = os.fsencode(Path("/etc/resolv.conf").resolve(strict=True))
            call("mount", os.fsencode(own), there, None, _BIND, None)

    def _listen(self, folder: Path) -> None:
        for family, host in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):  # noqa: S104
            with contextlib.suppress(OSError):
                listener = socket.socket(family, socket.SOCK_STREAM)
                if family == socket.AF_INET6:
                    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                listener.bind((host, PORT))
                listener.listen(64)
                self._serve(listener)
        for port in (PORT, DNS):
            datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            datagrams.bind(("0.0.0.0", port))  # noqa: S104
            self._serve(datagrams)
        with self.visiting():
            for kind, name in (
                (socket.SOCK_STREAM, str(folder / "docker.sock")),
                (socket.SOCK_DGRAM, str(folder / "docker.sock.log")),
                (socket.SOCK_STREAM, "\0freehold-prove"),
            ):
                local = socket.socket(socket.AF_UNIX, kind)
                local.bind(name)
                if kind == socket.SOCK_STREAM:
                    local.listen(64)
                self._serve(local)

    def _serve(self, listener: socket.socket) -> None:
        self._kept.append(listener)
        stream = listener.type == socket.SOCK_STREAM
        run = self._streams if stream else self._datagrams
        threading.Thread(target=run, args=(listener,), daemon=True).start()

    def _streams(self, listener: socket.socket) -> None:
        while True:
            connection, _ = listener.accept()
            self.heard += 1
            threading.Thread(target=_reply, args=(connection,), daemon=True).start()

    def _datagrams(self, listener: socket.socket) -> None:
        while True:
            data, sender = listener.recvfrom(1 << 16)
            self.heard += 1
            if listener.family == socket.AF_INET and listener.getsockname()[1] == DNS:
                with contextlib.suppress(OSError):
                    listener.sendto(data[:2] + b"\x81\x83" + data[4:], sender)  # no such name


def _reply(connection: socket.socket) -> None:
    connection.settimeout(5)
    with connection, contextlib.suppress(OSError):
        connection.recv(1 << 16)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")


def _join(namespace: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, _NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def _ip(words: str) -> None:
    try:
        done = subprocess.run(
            ["ip", *words.split()],  # noqa: S607
            check=False,
            capture_output=True,
            text=True,
        )
    except FileNotFoundError as error:
        raise FreeholdError("the proof needs the tool `ip`: install iproute2") from error
    if done.returncode != 0:
        raise FreeholdError(f"`ip {words}` failed: {done.stderr.strip()}")


def _quiet(interface: str) -> None:
    """Have the kernel say as little as it can on an interface by itself."""
    for name, value in (("accept_ra", 0), ("router_solicitations", 0), ("autoconf", 0)):
        path = Path(f"/proc/sys/net/ipv6/conf/{interface}/{name}")
        with contextlib.suppress(OSError):
            path.write_text(f"{value}\n", encoding="ascii")

"""Calls made by the watchman for a process that may not make them: to named addresses only.

The process's socket is copied, and the copy connected to an address that lies in the watchman's own
memory: whatever the process writes into its own memory meanwhile changes nothing.

A process that hosts another program (``home``) may also bind, open and connect stream sockets at
home: on loopback, and under one folder that is its own. What it would bind to every address of the
machine is bound to loopback instead.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from freehold.residency.calls import call

Peer = Sequence[Any]
"""``[address, port]``, the address in figures, or ``[path]`` of a unix socket. Port 0 stands for
all ports of the address."""
Reader = Callable[[int, int], bytes]

_PATIENCE = struct.pack("ll", 1, 0)
"""A second: the most that a blocking connect at home may hold up the watchman."""
_MAX_BACKLOG = 4096
_MAX_RAW = 128
_MAX_ASKED = 65
_NLMSG = struct.Struct("=IHHII")
_LISTINGS = (18, 22)
"""RTM_GETLINK and RTM_GETADDR (``rtnetlink(7)``)."""
_LOOPBACK4, _LOOPBACK6, _MAPPED = "127.0.0.1", "::1", "::ffff:127.0.0.1"


@dataclass(frozen=True, kw_only=True)
class Allowed:
    """What the watchman does for a process: connect to ``peers``, and with a ``home`` (a folder)
    everything that stays there."""

    peers: tuple[Peer, ...] = ()
    home: str = ""

    def __bool__(self) -> bool:
        return bool(self.peers or self.home)


def serve(
    name: str, thread: int, given: Sequence[int], allowed: Allowed, read: Reader
) -> tuple[int, int]:
    """Do what the call ``name`` of ``thread`` asks, if it is allowed.

    Returns what the call gives, and the error that the process gets: 0, ``EINPROGRESS``, ..., and
    ``EPERM`` where it must not.
    """
    if not allowed or name not in (_HOSTED if allowed.home else ("connect",)):
        return 0, errno.EPERM
    try:
        # Everything that is looked at is read once, before it is looked at.
        raw = b"" if name == "listen" else read(given[1], min(given[2], _MAX_RAW))
        with _copy(thread, given[0]) as copy:
            if copy.family == socket.AF_NETLINK:
                return _ask_kernel(name, copy, raw)
            return 0, _stream(name, copy, given[1], parse(raw), allowed)
    except OSError as error:
        return 0, error.errno if error.errno in _HARMLESS else errno.EPERM


_HOSTED = ("connect", "bind", "listen", "sendto")
_HARMLESS = (errno.EADDRINUSE, errno.ENOENT, errno.ECONNREFUSED, errno.EINVAL, errno.EADDRNOTAVAIL)
"""What a program may learn of sockets that it may have."""


def _stream(
    name: str, copy: socket.socket, number: int, peer: list[Any] | None, allowed: Allowed
) -> int:
    if copy.type == socket.SOCK_STREAM:
        if name == "listen":
            return _listen(copy, number)
        if name == "bind" and peer is not None:
            return _bind(copy, peer, allowed.home)
        if name == "connect" and peer is not None:
            return _connect(copy, peer, allowed)
    return errno.EPERM


def _ask_kernel(name: str, copy: socket.socket, raw: bytes) -> tuple[int, int]:
    """Which network interfaces there are may be asked (libraries give up if they cannot), and
    nothing be changed."""
    if name == "bind":
        copy.bind((0, 0))
        return 0, 0
    if name != "sendto" or len(raw) not in range(_NLMSG.size, _MAX_ASKED):
        return 0, errno.EPERM
    length, kind, _, _, _ = _NLMSG.unpack_from(raw)
    if length != len(raw) or kind not in _LISTINGS:
        return 0, errno.EPERM
    return copy.send(raw), 0


def _connect(copy: socket.socket, peer: list[Any], allowed: Allowed) -> int:
    named = any(list(one) in (peer, [peer[0], 0]) for one in allowed.peers)
    if not (named or allowed.home):
        return errno.EPERM
    if not allowed.home and os.get_blocking(copy.fileno()):
        return errno.EPERM
    if len(peer) == 2:
        inside = named or _is_loopback(peer[0])
        return _patiently(copy, (peer[0], peer[1])) if inside else errno.EPERM
    with _folder(peer[0], os.path.dirname(peer[0]) if named else allowed.home) as (folder, name):  # noqa: PTH120
        found = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        try:
            if not stat.S_ISSOCK(os.fstat(found).st_mode):
                return errno.ECONNREFUSED
            return _patiently(copy, f"/proc/self/fd/{found}")
        finally:
            os.close(found)


def _patiently(copy: socket.socket, address: Any) -> int:
    """Connect; a blocking socket gives up soon, as the watchman must not be kept waiting."""
    if not os.get_blocking(copy.fileno()):
        return copy.connect_ex(address)
    before = copy.getsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, len(_PATIENCE))
    copy.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _PATIENCE)
    try:
        done = copy.connect_ex(address)
    finally:
        copy.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, before)
    return errno.ETIMEDOUT if done in (errno.EINPROGRESS, errno.EAGAIN) else done


def _bind(copy: socket.socket, peer: list[Any], home: str) -> int:
    if len(peer) == 2:
        host = _at_home(copy, peer[0])
        if host is None:
            return errno.EPERM
        copy.bind((host, peer[1]))
        return 0
    # By its own path, which the program will ask its socket for. Who puts a link into that path in
    # this moment gets an empty socket file where the watchman itself may write, and nothing in it.
    with _folder(peer[0], home):
        copy.bind(peer[0])
    return 0


def _at_home(copy: socket.socket, host: str) -> str | None:
    """The loopback address that stands for ``host``; ``None`` for another machine's or another
    interface's."""
    address = ip_address(host)
    if not address.is_unspecified:
        return host if _is_loopback(host) else None
    if address.version == 4:
        return _LOOPBACK4
    both = not copy.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
    return _MAPPED if both else _LOOPBACK6


def _listen(copy: socket.socket, backlog: int) -> int:
    """Only what was bound before: the kernel binds the rest to every address."""
    bound = copy.getsockname()
    inside = bool(bound) if copy.family == socket.AF_UNIX else _is_loopback(str(bound[0]))
    if not inside:
        return errno.EPERM
    copy.listen(min(backlog & 0x7FFFFFFF, _MAX_BACKLOG))
    return 0


def _is_loopback(host: str) -> bool:
    address = ip_address(host)
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


@contextmanager
def _folder(path: str, home: str) -> Iterator[tuple[int, str]]:
    """A descriptor of the folder that ``path`` lies in, and its last part. It must be ``home`` or
    below it, and no link may lead there: a program could make one that leads out."""
    parts = path.split("/")
    inside = path.startswith(home.rstrip("/") + "/")
    if not inside or {"..", "."} & set(parts) or not parts[-1]:
        raise PermissionError(errno.EPERM, "not at home")
    flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    held = os.open(home, flags)
    try:
        for part in path[len(home.rstrip("/")) :].split("/")[:-1]:
            if part:
                deeper = os.open(part, flags, dir_fd=held)
                os.close(held)
                held = deeper
        yield held, parts[-1]
    finally:
        os.close(held)


@contextmanager
def _copy(thread: int, descriptor: int) -> Iterator[socket.socket]:
    holder = call("pidfd_open", _process_of(thread), 0)
    try:
        copy = socket.socket(fileno=call("pidfd_getfd", holder, descriptor, 0))
    finally:
        os.close(holder)
    with copy:
        yield copy


def _process_of(thread: int) -> int:
    with open(f"/proc/{thread}/status", encoding="utf-8", errors="replace") as file:  # noqa: PTH123
        for line in file:
            if line.startswith("Tgid:"):
                return int(line[5:])
    raise ProcessLookupError(errno.ESRCH, "no such thread")


def parse(raw: bytes) -> list[Any] | None:
    """A ``sockaddr`` as a peer, or ``None``."""
    if len(raw) < 3:
        return None
    (family,) = struct.unpack_from("=H", raw)
    if family == socket.AF_UNIX:
        path = raw[2:].partition(b"\0")[0]
        return [os.fsdecode(path)] if path else None
    if family == socket.AF_INET and len(raw) >= 8:
        return [socket.inet_ntop(socket.AF_INET, raw[4:8]), int.from_bytes(raw[2:4], "big")]
    if family == socket.AF_INET6 and len(raw) >= 24:
        return [socket.inet_ntop(socket.AF_INET6, raw[8:24]), int.from_bytes(raw[2:4], "big")]
    return None

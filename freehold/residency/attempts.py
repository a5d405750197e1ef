"""What a refused call was about to do, in words, and the record of it.

The words are for the record alone. The call is refused before they are read, so a process that
changes its memory meanwhile can spoil them and nothing else.
"""

from __future__ import annotations

import errno
import ipaddress
import json
import os
import struct
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Protocol

from freehold.residency.calls import AUDIT_ARCH, machine, numbers

_FAMILIES = {
    0: "UNSPEC", 1: "UNIX", 2: "INET", 10: "INET6", 16: "NETLINK", 17: "PACKET", 30: "TIPC",
    31: "BLUETOOTH", 38: "ALG", 40: "VSOCK", 43: "SMC", 44: "XDP",
}  # fmt: skip
_TYPES = {1: "STREAM", 2: "DGRAM", 3: "RAW", 5: "SEQPACKET", 10: "PACKET"}
_ADDRESS_BYTES = 128
_PATH_BYTES = 256
_NAMES = {number: name for name, number in numbers(machine()).items()}
_PATH_AT = {
    "open": 0, "openat": 1, "execve": 0, "execveat": 1, "creat": 0, "unlink": 0, "unlinkat": 1,
    "rename": 0, "renameat": 1, "renameat2": 1, "mkdir": 0, "mkdirat": 1, "rmdir": 0, "link": 0,
    "linkat": 1, "symlink": 0, "symlinkat": 0, "truncate": 0, "chmod": 0, "fchmodat": 1,
    "fchmodat2": 1, "chown": 0, "lchown": 0, "fchownat": 1, "mknod": 0, "mknodat": 1, "mount": 1,
    "memfd_create": 0, "utimensat": 1, "setxattr": 0, "pivot_root": 0, "chroot": 0,
}  # fmt: skip

Reader = Callable[[int, int], bytes]
"""Reads up to n bytes of the caller's memory at an address; raises ``OSError``."""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One refused call: when (UTC, ISO 8601), by which process and thread, and what it was for."""

    time: str
    role: str
    pid: int
    thread: str
    call: str
    what: str

    def line(self) -> bytes:
        return json.dumps(asdict(self), ensure_ascii=True).encode() + b"\n"


class Recorder(Protocol):
    """Told of each attempt. A ledger is one."""

    def record(self, attempt: Attempt) -> None: ...


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def describe(arch: int, number: int, arguments: tuple[int, ...], read: Reader) -> tuple[str, str]:
    """The call's name and what it was for, without control characters."""
    if arch != AUDIT_ARCH.get(machine()):
        return "32-bit call", f"call {number} of another architecture ({arch:#x})"
    if number >= 0x40000000:
        return "x32 call", f"call {number - 0x40000000} of the x32 interface"
    name = _NAMES.get(number, f"call {number}")
    try:
        what = _what(name, arguments, read)
    except OSError as error:
        what = f"arguments not readable ({errno.errorcode.get(error.errno or 0, '?')})"
    return name, "".join(c if c.isprintable() else "?" for c in what)


def _what(name: str, given: tuple[int, ...], read: Reader) -> str:
    if name in ("socket", "socketpair"):
        kind = _TYPES.get(given[1] & 15, str(given[1] & 15))
        return f"{_FAMILIES.get(given[0], given[0])} {kind} protocol {given[2]}"
    if name in ("connect", "bind"):
        return f"descriptor {given[0]} to {_address(read(given[1], _bounded(given[2])))}"
    if name == "sendto" and given[4]:
        return f"descriptor {given[0]} to {_address(read(given[4], _bounded(given[5])))}"
    if name in _PATH_AT:
        path = read(given[_PATH_AT[name]], _PATH_BYTES).partition(b"\0")[0]
        return os.fsdecode(path).encode("utf-8", "replace").decode()
    return ", ".join(f"{argument:#x}" for argument in given[:4])


def _bounded(length: int) -> int:
    return min(length, _ADDRESS_BYTES)


def _address(raw: bytes) -> str:
    """A ``sockaddr`` in words."""
    if len(raw) < 2:
        return "no address"
    (family,) = struct.unpack_from("=H", raw)
    if family == 2 and len(raw) >= 8:
        return f"{ipaddress.IPv4Address(raw[4:8])}:{int.from_bytes(raw[2:4], 'big')}"
    if family == 10 and len(raw) >= 24:
        return f"[{ipaddress.IPv6Address(raw[8:24])}]:{int.from_bytes(raw[2:4], 'big')}"
    if family == 1:
        path = raw[2:]
        if path[:1] == b"\0":
            return "abstract unix socket @" + path[1:].rstrip(b"\0").decode("utf-8", "replace")
        return "unix socket " + path.partition(b"\0")[0].decode("utf-8", "replace")
    return f"an address of family {_FAMILIES.get(family, family)}"

"""A network namespace with nothing in it but loopback.

Made without root, in a user namespace of its own, so that the watchman (who stands outside) may
look into every process of it. Source: ``user_namespaces(7)``, ``netdevice(7)``.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct

from freehold.residency.calls import NUMBERS, call

_NEWNET, _NEWUSER = 0x40000000, 0x10000000
_GET_FLAGS, _SET_FLAGS, _UP = 0x8913, 0x8914, 1


def isolate() -> bool:
    """Leave every network for this process and all it starts. ``False``, and nothing is changed,
    where this machine does not allow it. The process must have one thread."""
    if "unshare" not in NUMBERS:
        return False
    # Some systems allow the namespace and then no loopback in it: a child finds out.
    child = os.fork()
    if child == 0:
        os._exit(0 if _tried() else 1)
    if os.waitpid(child, 0)[1] != 0:
        return False
    _leave()
    return True


def _tried() -> bool:
    try:
        _leave()
    except OSError:
        return False
    return True


def _leave() -> None:
    call("unshare", _NEWUSER | _NEWNET)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        name = b"lo".ljust(16, b"\0")
        found = fcntl.ioctl(asking, _GET_FLAGS, name + bytes(24))
        (flags,) = struct.unpack_from("=H", found, 16)
        fcntl.ioctl(asking, _SET_FLAGS, name + struct.pack("=H", flags | _UP) + bytes(22))

"""Connections made by the watchman for a process that may make none: to named addresses only.

The process's socket is copied, and the copy connected to an address that lies in the watchman's own
memory: whatever the process writes into its own memory meanwhile changes nothing.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Any

from freehold.residency.calls import call

Peer = Sequence[Any]
"""``[address, port]``, the address in figures, or ``[path]`` of a unix socket."""


def connect(
    pid: int, given: Sequence[int], peers: Sequence[Peer], read: Callable[[int, int], bytes]
) -> int:
    """Do what ``connect(*given)`` in process ``pid`` asks, if its address is among ``peers``.

    Returns the error that the process gets: 0, ``EINPROGRESS``, ..., and ``EPERM`` for another
    address, or a socket that would keep the watchman waiting.
    """
    try:
        peer = parse(read(given[1], min(given[2], 128)))
        if peer is None or not any(list(one) == peer for one in peers):
            return errno.EPERM
        holder = call("pidfd_open", pid, 0)
        try:
            copy = socket.socket(fileno=call("pidfd_getfd", holder, given[0], 0))
        finally:
            os.close(holder)
        with copy:
            if os.get_blocking(copy.fileno()):
                return errno.EPERM
            return copy.connect_ex(peer[0] if len(peer) == 1 else (peer[0], peer[1]))
    except OSError:
        return errno.EPERM


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

"""The files, ports and neighbours a process may reach, by Landlock.

What is not listed is refused with ``EACCES`` (files, ports) or ``EPERM`` (scopes). A restriction
binds the thread that takes it and every thread and process it starts; it cannot be taken back, only
tightened. So a process takes it before it starts a thread.

Source: the kernel's ``userspace-api/landlock``; ABI 1 (files) to 6 (scopes).
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from freehold.residency.calls import NUMBERS, call, prctl

_EXECUTE = 1 << 0
_WRITE_FILE = 1 << 1
_READ_FILE = 1 << 2
_READ_DIR = 1 << 3
_TRUNCATE = 1 << 14
_IOCTL_DEV = 1 << 15
_MAKE = sum(1 << bit for bit in (4, 5, 7, 8, 9, 10, 12))  # remove, make dir, file, socket, ...
_DEVICES = (1 << 6) | (1 << 11)  # character and block devices: never
_REFER = 1 << 13
_FILE_ONLY = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_READ = _READ_FILE | _READ_DIR
_WRITE = _READ | _WRITE_FILE | _MAKE | _REFER | _TRUNCATE
_ALL = [0, (1 << 13) - 1, (1 << 14) - 1, (1 << 15) - 1, (1 << 15) - 1, (1 << 16) - 1]
"""File rights by ABI."""

_BIND, _CONNECT = 1, 2
_RULE_PATH, _RULE_PORT = 1, 2
_SCOPES = 3  # abstract unix sockets, signals
_VERSION = 1
_NO_NEW_PRIVS = 38


@dataclass(frozen=True, kw_only=True)
class Reach:
    """Folders and files to ``read`` and to ``write`` (which includes reading), with all below them;
    folders to ``list``, without the contents of their files; ``devices`` to write to and to ask
    for what only they know (``ioctl``); TCP ports to ``connect`` to and to ``bind``. What does not
    exist is left out. ``ports`` false leaves TCP to another wall."""

    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    list: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    connect: tuple[int, ...] = ()
    bind: tuple[int, ...] = ()
    ports: bool = True


def abi() -> int:
    """Landlock's version here, 0 where there is none."""
    if "landlock_create_ruleset" not in NUMBERS:
        return 0
    try:
        return call("landlock_create_ruleset", None, 0, _VERSION)
    except OSError:
        return 0


def restrict(reach: Reach) -> list[str]:
    """Shut everything but ``reach`` for this thread and what it will start.

    Starting programs stays as it was. Returns what is shut, in words; an empty list where the
    kernel knows no Landlock. Raises ``OSError``.
    """
    version = abi()
    if version == 0:
        return []
    files = _ALL[min(version, 5)] & ~_EXECUTE
    ports = _BIND | _CONNECT if version >= 4 and reach.ports else 0
    scopes = _SCOPES if version >= 6 else 0
    parts = [files, ports, scopes][: 1 + (version >= 4) + (version >= 6)]
    ruleset = call(
        "landlock_create_ruleset", struct.pack(f"={len(parts)}Q", *parts), 8 * len(parts), 0
    )
    try:
        _add_paths(ruleset, reach.read, _READ & files)
        _add_paths(ruleset, reach.write, _WRITE & files)
        _add_paths(ruleset, reach.list, _READ_DIR)
        _add_paths(ruleset, reach.devices, (_WRITE | _IOCTL_DEV) & files)
        if ports:
            for port in reach.connect:
                call(
                    "landlock_add_rule", ruleset, _RULE_PORT, struct.pack("=QQ", _CONNECT, port), 0
                )
            for port in reach.bind:
                call("landlock_add_rule", ruleset, _RULE_PORT, struct.pack("=QQ", _BIND, port), 0)
        prctl(_NO_NEW_PRIVS, 1)
        call("landlock_restrict_self", ruleset, 0)
    finally:
        os.close(ruleset)
    words = ["files"]
    if ports:
        words.append("TCP ports")
    if scopes:
        words += ["signals to others", "abstract unix sockets"]
    return words


def _add_paths(ruleset: int, paths: Iterable[str], rights: int) -> None:
    for path in dict.fromkeys(paths):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
            try:
                allowed = rights if Path(path).is_dir() else rights & _FILE_ONLY
                call(
                    "landlock_add_rule",
                    ruleset,
                    _RULE_PATH,
                    struct.pack("=Qi", allowed, descriptor),
                    0,
                )
            finally:
                os.close(descriptor)

"""Where the kernel does not help: an audit hook that refuses what Python code asks for.

It cannot be taken out again. It sees what goes through the interpreter and nothing else: native
code, ``ctypes`` and whoever changes the interpreter's memory pass by it. PEP 578.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from freehold.residency.landlock import Reach

REFUSED = frozenset(
    {
        "socket.connect",
        "socket.sendto",
        "socket.sendmsg",
        "socket.bind",
        "socket.getaddrinfo",
        "socket.gethostbyname",
        "socket.gethostbyaddr",
        "subprocess.Popen",
        "os.exec",
        "os.fork",
        "os.forkpty",
        "os.posix_spawn",
        "os.spawn",
        "os.startfile",
        "os.system",
        "pty.spawn",
    }
)
_CHANGING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
refused: Counter[str] = Counter()
"""How often each event was refused in this process."""


def hook(reach: Reach) -> None:
    """Refuse network, programs, and writing anywhere but below what ``reach`` lets, for good."""
    writable = tuple(str(Path(path).resolve()) for path in (*reach.write, *reach.devices))

    def guard(event: str, arguments: tuple[Any, ...]) -> None:
        if event in REFUSED or (event == "open" and _writes(arguments, writable)):
            refused[event] += 1
            raise PermissionError(f"{event}: refused, because nothing leaves this process")

    sys.addaudithook(guard)


def _writes(arguments: tuple[Any, ...], writable: tuple[str, ...]) -> bool:
    path, _, flags = arguments
    if not isinstance(flags, int) or not flags & _CHANGING or isinstance(path, int) or path is None:
        return False
    real = os.path.realpath(os.fsdecode(path))
    return real != os.devnull and not any(
        real == one or real.startswith(one + os.sep) for one in writable
    )

"""Starting a process with one end of a pair. Imports next to nothing, so that a command can start
its processes before it imports what it needs itself: all then get ready at the same time."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from freehold.residency.lock import Order


def spawn(
    module: str, order: Order | None = None, *more: str
) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start ``python -m MODULE FD ORDER MORE`` with one end of a fresh pair; the other end.

    ``order`` is its lock; the lines to the watchman that it names are closed here. ``more``
    arguments only follow an order.

    ``-P``: what lies in the folder Freehold was started from is not imported. A process group of
    its own: Ctrl-C in the terminal is for the counter, which lets answers finish. Called in the
    thread of the event loop, as the kernel ends the child when the thread that made it ends.
    """
    ours, theirs = socket.socketpair()
    with theirs:
        fd = theirs.fileno()
        lines = () if order is None else order.descriptors
        process = subprocess.Popen(
            [
                *(sys.executable, "-P", "-m", module, str(fd)),
                *([order.dumps(), *more] if order else []),
            ],
            pass_fds=(fd, *lines),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            process_group=0,
        )
    for line in lines:
        os.close(line)
    return process, ours

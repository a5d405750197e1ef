"""Starting a process with one end of a pair. Imports next to nothing, so that a command can start
its processes before it imports what it needs itself: all then get ready at the same time."""

from __future__ import annotations

import socket
import subprocess
import sys


def spawn(module: str) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start ``python -m MODULE FD`` with one end of a fresh pair; the other end.

    ``-P``: what lies in the folder Freehold was started from is not imported. A process group of
    its own: Ctrl-C in the terminal is for the counter, which lets answers finish. Called in the
    thread of the event loop, as the kernel ends the child when the thread that made it ends.
    """
    ours, theirs = socket.socketpair()
    with theirs:
        fd = theirs.fileno()
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", module, str(fd)],
            pass_fds=(fd,),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            process_group=0,
        )
    return process, ours

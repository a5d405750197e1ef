"""Starting the engine's process. Imports next to nothing, so that a command can start it before it
imports what it needs itself: both then get ready at the same time."""

from __future__ import annotations

import socket
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from freehold.engine.wire import EngineSettings


@dataclass(frozen=True, kw_only=True)
class Child:
    """A started process and our end of the pair with it. ``EngineProcess`` takes both over."""

    process: subprocess.Popen[bytes]
    pair: socket.socket

    def configure(self, settings: EngineSettings) -> None:
        """Tell it what to load. Once, before it is handed to ``EngineProcess``."""
        from freehold.engine import wire

        try:
            self.pair.sendall(wire.frame(wire.Configure(settings)))
        except (BrokenPipeError, ConnectionResetError):
            return  # it has ended: whoever listens to the pair will be told so

    def end(self) -> None:
        """Kill it, if it runs. May be called more than once, and after ``EngineProcess.close``."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.pair.close()


def spawn() -> Child:
    """Start the process with one end of a fresh pair.

    ``-P``: what lies in the folder Freehold was started from is not imported. A process group of
    its own: Ctrl-C in the terminal is for the counter, which lets answers finish. Called in the
    thread of the event loop, as the kernel ends the child when the thread that made it ends.
    """
    ours, theirs = socket.socketpair()
    with theirs:
        fd = theirs.fileno()
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "freehold.engine", str(fd)],
            pass_fds=(fd,),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            process_group=0,
        )
    return Child(process=process, pair=ours)

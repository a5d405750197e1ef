"""Starting the engine's process. Imports next to nothing, so that a command can start it before it
imports what it needs itself: both then get ready at the same time."""

from __future__ import annotations

import socket
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from freehold import spawning

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
        from freehold.pair import frame

        try:
            self.pair.sendall(frame(wire.Configure(settings)))
        except (BrokenPipeError, ConnectionResetError):
            return  # it has ended: whoever listens to the pair will be told so

    def end(self) -> None:
        """Kill it, if it runs. May be called more than once, and after ``EngineProcess.close``."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.pair.close()


def spawn() -> Child:
    """Start the engine's process with one end of a fresh pair."""
    process, pair = spawning.spawn("freehold.engine")
    return Child(process=process, pair=pair)

"""Starting the engine's process. Imports next to nothing, so that a command can start it before it
imports what it needs itself: both then get ready at the same time."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from freehold import spawning
from freehold.errors import StorageError
from freehold.residency.landlock import Reach
from freehold.residency.lock import library, reaching

if TYPE_CHECKING:
    from freehold.engine.wire import EngineSettings
    from freehold.residency.lock import Order


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


def spawn(order: Order, module: str = "freehold.engine") -> Child:
    """Start the engine's process, or the one in its place, with one end of a fresh pair, locked as
    ``order`` says."""
    process, pair = spawning.spawn(module, order)
    return Child(process=process, pair=pair)


def reach_of(root: Path, secret: Path | None, device: str) -> Reach:
    """The files an engine needs: models and packs to read, packs to write until its own is kept,
    and those of a ``device`` other than the CPU.

    ``secret`` is the file of the secret that seals packs; ``None``: it writes no pack.
    """
    models = tuple(str(root / part) for part in ("blobs", "manifests", "packs"))
    sealing = () if secret is None else (str(secret),)
    reach = Reach(
        read=(*models, *sealing, *library()),
        write=() if secret is None else room_for_packs(root, secret),
    )
    return reaching(reach, device)


def room_for_packs(root: Path, secret: Path) -> tuple[str, ...]:
    """What is written when a pack is kept, made if it is not there: a locked process cannot make
    it. Where it cannot be made, packing will say why."""
    packs, lock = root / "packs", root / "locks" / "store"
    if root.is_dir():
        with contextlib.suppress(OSError, StorageError):
            packs.mkdir(exist_ok=True)
            lock.parent.mkdir(exist_ok=True)
            os.close(os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644))
            if not secret.exists():
                from freehold.store import Packs, Store

                Packs(Store(root), secret).make_secret()
    return (str(packs), str(lock))

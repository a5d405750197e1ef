"""Start ``freehold serve`` as a user does: a real command, a real process."""

from __future__ import annotations

import atexit
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

FREEHOLD = [sys.executable, "-m", "freehold.cli"]
DEFAULT = "qwen2.5-coder-0.5b-instruct"


@dataclass(kw_only=True)
class Server:
    """A running ``freehold serve`` with its printed address, key and curl line."""

    process: subprocess.Popen[str]
    said: list[str] = field(default_factory=list)
    ready: threading.Event = field(default_factory=threading.Event)
    heard: threading.Condition = field(default_factory=threading.Condition)

    def _find(self, pattern: str) -> str:
        found = re.search(pattern, "".join(self.said))
        assert found is not None, "".join(self.said)
        return found.group(1)

    @property
    def address(self) -> str:
        return self._find(r"answers at (\S+)")

    @property
    def key(self) -> str:
        return self._find(r"key, valid until this server stops: (\S+)")

    @property
    def curl(self) -> str:
        return self._find(r"(?m)^(curl .*)$")

    def listen(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self.heard:
                self.said.append(line)
                self.heard.notify_all()
            if line.startswith("curl "):
                self.ready.set()
        self.ready.set()

    def hear(self, words: str, before: int = 0, seconds: float = 120) -> None:
        """Wait until a line holds ``words``, of those that come after the first ``before``."""
        with self.heard:
            came = self.heard.wait_for(
                lambda: any(words in line for line in self.said[before:]), seconds
            )
        assert came, "".join(self.said)

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


def start(
    root: Path,
    *options: str,
    under: Sequence[str] = (),
    pass_fds: Sequence[int] = (),
    seconds: float = 120,
    **env: str,
) -> Server:
    """Start a server on a free port, ``under`` a tool if one is given; wait until it answers.

    It records in a ledger of its own and signs with a key of its own, not with the user's.
    """
    apart = Path(tempfile.mkdtemp(prefix="freehold-house-"))
    atexit.register(shutil.rmtree, apart, ignore_errors=True)
    process = subprocess.Popen(
        [
            *under,
            *FREEHOLD,
            *("serve", "--port", "0", "--temporary-key"),
            *("--ledger", str(apart / "ledger.sqlite"), *options),
        ],
        stderr=subprocess.PIPE,
        text=True,
        pass_fds=pass_fds,
        env={
            **os.environ,
            "FREEHOLD_HOME": str(root),
            "FREEHOLD_KEYS": str(apart / "keys"),
            **env,
        },
    )
    server = Server(process=process)
    threading.Thread(target=server.listen, daemon=True).start()
    assert server.ready.wait(seconds), "the server did not come up"
    assert process.poll() is None, "".join(server.said)
    return server

"""A PostgreSQL server of this test run's own."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


class Postgres:
    """A PostgreSQL server in a folder, reached over a socket in it."""

    def __init__(self, bin_: Path, folder: Path) -> None:
        self._bin, self._folder = bin_, folder
        self._run = folder / "run"
        self._data = folder / "data"
        self._made = 0
        self._run.mkdir()
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        # It refuses to be root; a bare environment keeps its messages in English.
        self._as: list[str] = []
        if os.geteuid() == 0:
            folder.chmod(0o755)
            for path in (folder, self._run):
                shutil.chown(path, "postgres", "postgres")
            self._as = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        self._call("initdb", "-D", str(self._data), "-U", "freehold", "-A", "trust", "-E", "UTF8")

    def start(self) -> None:
        options = (
            f"-c listen_addresses=127.0.0.1 -c unix_socket_directories={self._run} -p {self._port}"
        )
        self._call(
            "pg_ctl", "-D", str(self._data), "-o", options, "-l", str(self._run / "log"),
            "-w", "start",
        )  # fmt: skip

    def stop(self) -> None:
        self._call("pg_ctl", "-D", str(self._data), "-m", "immediate", "-w", "stop")

    def new(self, *, tcp: bool = False) -> str:
        """The URL of a fresh data base, over the socket or over loopback."""
        self._made += 1
        name = f"ledger{self._made}"
        self._call("createdb", "-h", str(self._run), "-p", str(self._port), "-U", "freehold", name)
        if tcp:
            return f"postgresql://freehold@127.0.0.1:{self._port}/{name}"
        return f"postgresql://freehold@/{name}?host={self._run}&port={self._port}"

    def _call(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [*self._as, str(self._bin / program), *arguments],
            check=False, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C"}, cwd="/",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr


@contextmanager
def running() -> Iterator[Postgres]:
    """A running server. Skips where PostgreSQL or its driver is not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    initdb = shutil.which("initdb") or (str(found[-1]) if found else None)
    if initdb is None or importlib.util.find_spec("psycopg") is None or sys.platform == "win32":
        pytest.skip("needs PostgreSQL's server programs and psycopg")
    # Not in pytest's own folder: that is closed to the user that PostgreSQL must run as.
    with tempfile.TemporaryDirectory(prefix="freehold-pg-") as folder:
        server = Postgres(Path(initdb).resolve().parent, Path(folder))
        server.start()
        yield server
        server.stop()

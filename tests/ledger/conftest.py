"""Ledgers to write into: SQLite in a folder, and a PostgreSQL server of this test run's own."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from freehold.ledger.database import Database, place
from freehold.ledger.leaves import Writer
from freehold.ledger.log import Log
from freehold.signing import keys
from freehold.types import Answered, Outcome, Record, Sampling

RECORD = Record(
    request="req-1",
    endpoint="/v1/chat/completions",
    key="k1",
    model="m",
    digest="sha256:00",
    numerics="native-2-float32",
    isa="avx2",
    engine="freehold test",
    prompts=((1, 2, 3),),
    input={"messages": [{"role": "user", "content": "tell nobody: SECRET-PROMPT"}]},
    sampling=Sampling(logit_bias={3: 1.5}, grammar='start: "SECRET-GRAMMAR"'),
    seeds=(7,),
    choices=1,
)
OUTCOME = Outcome(
    ending="answered",
    answers=(Answered(ids=(4, 5), text="SECRET-ANSWER", finish="stop"),),
    prompt_tokens=3,
    cached_tokens=0,
    completion_tokens=2,
)


def fill(log: Log, entries: int, policy: str = "clear") -> None:
    """``entries`` sealed entries, in groups of a few."""
    writer = Writer(policy)  # type: ignore[arg-type]
    for _ in range(entries):
        done = log.commit([writer.open(RECORD)])
        log.commit([writer.seal(done.first, OUTCOME), writer.note("tick", {})])


@pytest.fixture
def key(tmp_path: Path) -> keys.SigningKey:
    return keys.create(tmp_path / "keys", "ledger", "ed25519")


@pytest.fixture
def open_log(tmp_path: Path, key: keys.SigningKey) -> Iterator[Callable[..., Log]]:
    """Opens the SQLite log of this test, or one at another URL."""
    made: list[Log] = []

    def open_one(url: str = "ledger.sqlite") -> Log:
        made.append(Log(Database(place(url, tmp_path), writer=True), key))
        return made[-1]

    yield open_one
    for log in made:
        log.close()


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
        options = f"-c listen_addresses= -c unix_socket_directories={self._run} -p {self._port}"
        self._call(
            "pg_ctl", "-D", str(self._data), "-o", options, "-l", str(self._run / "log"),
            "-w", "start",
        )  # fmt: skip

    def stop(self) -> None:
        self._call("pg_ctl", "-D", str(self._data), "-m", "immediate", "-w", "stop")

    def new(self) -> str:
        """The URL of a fresh data base."""
        self._made += 1
        name = f"ledger{self._made}"
        self._call("createdb", "-h", str(self._run), "-p", str(self._port), "-U", "freehold", name)
        return f"postgresql://freehold@/{name}?host={self._run}&port={self._port}"

    def _call(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [*self._as, str(self._bin / program), *arguments],
            check=False, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C"}, cwd="/",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
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


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty ledger, of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.sqlite'}"
    server: Postgres = request.getfixturevalue("postgres")
    return server.new()

"""Ledgers to write into, in SQLite and in PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from freehold.ledger.database import Database, place
from freehold.ledger.leaves import Writer
from freehold.ledger.log import Log
from freehold.signing import keys
from freehold.types import Answered, Outcome, Record, Sampling
from tests.postgres import Postgres

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


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty ledger, of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.sqlite'}"
    server: Postgres = request.getfixturevalue("postgres")
    return server.new()

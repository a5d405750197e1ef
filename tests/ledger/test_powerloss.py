"""The power fails between any two calls: what was acknowledged is there, and the rest is whole."""

from __future__ import annotations

import os
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from freehold.ledger.checking import check
from freehold.ledger.database import Database, place
from freehold.ledger.log import Log
from freehold.signing import keys
from tests.ledger.conftest import fill
from tests.ledger.powerloss import Disk, record

WRITER = """
import os, sys
from pathlib import Path
from freehold.ledger.database import Database, place
from freehold.ledger.leaves import Writer
from freehold.ledger.log import Log
from freehold.signing import keys

folder = Path(sys.argv[1])
log = Log(Database(place("ledger.sqlite", folder), writer=True), keys.load(folder, "ledger"))
writer = Writer("hash")
os.write(1, b"0\\n")
for turn in range(60):
    done = log.commit([writer.note("group", {"text": "x" * (turn * 97 % 3000)})] * (1 + turn % 3))
    os.write(1, b"%d\\n" % done.size)
    if turn % 17 == 16:
        log.rest()
    if turn == 40:
        log.erase(0, writer.erase(0, "asked"))
        os.write(1, b"%d\\n" % log.size)
"""

POINTS = 250

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("strace") is None, reason="needs strace"
)


def test_what_was_acknowledged_outlives_the_power(
    tmp_path: Path, open_log: Callable[..., Log]
) -> None:
    folder = tmp_path / "traced"
    folder.mkdir()
    keys.create(folder, "ledger", "ed25519")
    key = keys.load(folder, "ledger")
    command = [sys.executable, "-c", WRITER, str(folder)]
    steps = record(command, folder, tmp_path / "trace", dict(os.environ))
    assert sum(step.kind == "sync" for step in steps) > 60
    rng = random.Random(11)
    points = set(rng.sample(range(len(steps)), min(POINTS, len(steps))))
    disk, tried, lost = Disk(), 0, 0
    for number, step in enumerate(steps):
        disk.do(step)
        if number not in points:
            continue
        after = tmp_path / f"after-{number}"
        after.mkdir()
        for name, data in disk.fail(rng).items():
            (after / name).write_bytes(data)
            (after / name).chmod(0o600)
        promised = int(disk.acks[-1]) if disk.acks else None
        tried += 1
        lost += promised is None
        log = Log(Database(place("ledger.sqlite", after), writer=True), key)
        assert log.size >= (promised or 0), f"step {number}: {promised} leaves were acknowledged"
        fill(log, 1)
        log.close()
        found = check(Database(place("ledger.sqlite", after), writer=False))
        assert [one for one in found.findings if "stored subtree" in one] == []
        assert found.findings == [], f"step {number}"
        shutil.rmtree(after)
    assert tried - lost > tried / 2


def test_the_model_notices_a_missing_sync(tmp_path: Path) -> None:
    """The same writes without their syncs do lose what was acknowledged: the test can fail."""
    folder = tmp_path / "traced"
    folder.mkdir()
    keys.create(folder, "ledger", "ed25519")
    command = [sys.executable, "-c", WRITER, str(folder)]
    steps = record(command, folder, tmp_path / "trace", dict(os.environ))
    opening = next(i for i, step in enumerate(steps) if step.kind == "ack")
    disk, rng, short = Disk(), random.Random(3), 0
    for number, step in enumerate(steps):
        if step.kind != "sync" or number < opening:
            disk.do(step)
        if number > opening and number % 40 == 0:
            after = tmp_path / f"after-{number}"
            after.mkdir()
            for name, data in disk.fail(rng).items():
                (after / name).write_bytes(data)
            try:
                key = keys.load(folder, "ledger")
                log = Log(Database(place("ledger.sqlite", after), writer=True), key)
                short += log.size < int(disk.acks[-1])
                log.close()
            except Exception:
                short += 1
    assert short > 0

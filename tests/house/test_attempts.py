"""Who tries to get out of a running server is in its ledger, whichever process it was."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from freehold.ledger.attempts import REFUSED, UNWATCHED
from freehold.residency import landlock, seccomp
from freehold.residency.attacks import Target
from freehold.residency.tally import BURST
from tests.house.running import FREEHOLD, Server, start

pytestmark = pytest.mark.skipif(
    landlock.abi() < 1 or not seccomp.available(), reason="this kernel has no lock"
)

NOWHERE = vars(
    Target(
        v4="192.0.2.1", v6="2001:db8::1", port=9, dns=53, interface="lo", unix="/nowhere",
        abstract="nowhere", resolvers=(), secret="/nowhere", autostart="/nowhere",
        store="/nowhere", blob="/nowhere", parent=0, outsider=1, int80=False, renderer="",
    )
)  # fmt: skip
"""Where attacks aim: documentation addresses, and files that are not there."""


def shell(ledger: Path, *arguments: str) -> str:
    done = subprocess.run(
        [*FREEHOLD, "ledger", *arguments, "--ledger", str(ledger)],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def noted(ledger: Path) -> list[dict[str, Any]]:
    """The bodies of the leaves about the server itself."""
    leaves = json.loads(shell(ledger, "show", "--count", "1000", "--json"))["leaves"]
    return [leaf["body"] for leaf in leaves if leaf["kind"] == "note"]


def counted(groups: list[dict[str, Any]]) -> int:
    return sum(one["count"] for one in groups)


class Attacked:
    """A server whose processes try what they are told to."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.ledger = folder / "ledger.sqlite"
        self._orders, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._orders.settimeout(60)
        self._number = 0
        with theirs:
            drill = theirs.fileno()
            options = ("--drill", str(drill), "--ledger", str(self.ledger))
            self.server: Server = start(root, *options, pass_fds=(drill,))

    def attempt(self, role: str, kind: str) -> int:
        """One attack, which must be refused; how many attempts there have been."""
        self._number += 1
        order = {"number": self._number, "role": role, "name": kind, "target": NOWHERE}
        self._orders.send(json.dumps(order).encode())
        answer = json.loads(self._orders.recv(1 << 16))
        assert answer["result"]["outcome"] == "refused", answer
        return int(answer["attempts"])

    def residency(self) -> dict[str, Any]:
        head = {"Authorization": f"Bearer {self.server.key}"}
        found: dict[str, Any] = httpx.get(
            f"{self.server.address}/residency", headers=head, timeout=60
        ).json()
        return found

    def told(self, count: int) -> list[dict[str, Any]]:
        """What the ledger says of attempts once it knows of ``count``."""
        deadline = time.monotonic() + 60
        while counted(found := self.groups()) < count:
            assert time.monotonic() < deadline, found
            time.sleep(0.3)
        return found

    def groups(self) -> list[dict[str, Any]]:
        return [body["detail"] for body in noted(self.ledger) if body["what"] == REFUSED]


@pytest.fixture
def attacked(real_root: Path, tmp_path: Path) -> Iterator[Attacked]:
    house = Attacked(real_root, tmp_path)
    yield house
    house.server.process.kill()
    house.server.process.wait()


def test_attempts_of_every_process_are_in_the_ledger(attacked: Attacked, tmp_path: Path) -> None:
    made = 0
    for role in ("engine", "counter", "keeper"):
        for kind in ("tcp4", "fork", "tcp4"):
            made = attacked.attempt(role, kind)
    processes = {one["role"]: one["pid"] for one in attacked.residency()["processes"]}
    found = attacked.told(made)
    assert counted(found) == made
    for role in ("engine", "counter", "keeper"):
        mine = {one["call"]: one for one in found if one["process"] == role}
        assert {one["pid"] for one in mine.values()} == {processes[role]}
        assert counted([one for one in found if one["call"] == "socket"]) == 6
        assert mine["socket"]["what"] == "INET STREAM protocol 0"
        assert mine["socket"]["thread"]
        assert mine["socket"]["first"] <= mine["socket"]["last"]
    assert attacked.residency()["in_ledger"] == made
    assert "engine was refused socket" in shell(attacked.ledger, "show")
    last = attacked.attempt("engine", "udp4")  # too late to be told before the end
    assert attacked.server.stop() == 0
    assert counted(attacked.groups()) == last
    assert "all as written" in shell(attacked.ledger, "verify")
    shell(attacked.ledger, "export", str(tmp_path / "export"))
    done = subprocess.run(
        [sys.executable, "-I", str(tmp_path / "export" / "verify.py")],
        check=False, capture_output=True, text=True, env={},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "0 entries" in done.stdout


def test_a_flood_is_counted_and_does_not_fill_the_ledger(attacked: Attacked) -> None:
    for _ in range(1500):
        made = attacked.attempt("engine", "tcp4")
    found = attacked.told(made)
    assert counted(found) == made >= 1500
    assert len(found) < BURST


@pytest.mark.parametrize("victim", ["counter", "engine"])
def test_who_dies_right_after_an_attempt_is_in_the_ledger(attacked: Attacked, victim: str) -> None:
    processes = {one["role"]: one["pid"] for one in attacked.residency()["processes"]}
    made = attacked.attempt(victim, "tcp4")
    os.kill(processes[victim], signal.SIGKILL)
    found = attacked.told(made)
    assert [one["process"] for one in found] == [victim]


def test_a_watchman_that_is_killed_is_missed_in_the_ledger(real_root: Path, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.sqlite"
    server = start(real_root, "--ledger", str(ledger))
    try:
        state = json.loads((real_root / f"residency/{server.process.pid}.json").read_bytes())
        os.kill(state["watchman"], signal.SIGKILL)
        deadline = time.monotonic() + 60
        while not (notes := noted(ledger)):
            assert time.monotonic() < deadline
            time.sleep(0.3)
        assert [one["what"] for one in notes] == [UNWATCHED]
        head = {"Authorization": f"Bearer {server.key}"}
        found = httpx.get(f"{server.address}/residency", headers=head, timeout=60).json()
        assert found["recording"] is False
    finally:
        assert server.stop() == 0

"""Programs in cells: what passes, and everything that a program may try instead."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from freehold.errors import ProcessError
from freehold.evals import suite_of
from freehold.evals.cells import Cells
from freehold.evals.data import load
from freehold.evals.kinds import program_of
from freehold.residency import cell
from freehold.residency.cell import Limits

pytestmark = pytest.mark.skipif(not cell.works(), reason="this kernel shuts no cell")

SHORT = Limits(seconds=1, wall=3.0, memory=512 << 20, folder=4 << 20, files=20)


@pytest.fixture(scope="module")
def cells() -> Iterator[Cells]:
    with Cells(1, limits=SHORT) as cells:
        yield cells


@pytest.mark.parametrize(
    "program",
    [
        "x = 1",
        "import math, re, json, collections, itertools, dataclasses, hashlib, random, datetime",
        "open('own', 'w').write('x'); assert open('own').read() == 'x'",
        "import numpy; assert numpy.ones(3).sum() == 3",
        "if __name__ == '__main__':\n    x = 1\nx",
        "from dataclasses import dataclass\n@dataclass\nclass A:\n    x: int\nassert A(1).x == 1",
    ],
)
def test_an_honest_program_passes(cells: Cells, program: str) -> None:
    assert cells.run(program).passed


ATTACKS = {
    "fork bomb": "import os\nwhile True: os.fork()",
    "thread bomb": "import _thread\nwhile True: _thread.start_new_thread(print, ())",
    "program": "import os; os.execv('/bin/true', ['true'])",
    "shell": "import subprocess; subprocess.run('true', shell=True, check=True)",
    "loop": "while True: pass",
    "sleep": "import time; time.sleep(60)",
    "memory": "x = bytearray(1 << 30)",
    "memory in pieces": "x = []\nwhile True: x.append(bytearray(1 << 20))",
    "large file": "open('f', 'wb').write(bytes(1 << 22))",
    "many files": "for i in range(10**6): open(str(i), 'w').close()",
    "folders": "import os; os.mkdir('d')",
    "socket": "import socket; socket.socket()",
    "unix socket": "import socket; socket.socketpair()",
    "home": "import os; os.listdir(os.path.expanduser('~root'))",
    "users": "open('/etc/passwd')",
    "environment of the parent": "import os; open(f'/proc/{os.getppid()}/environ')",
    "own memory": "open('/proc/self/mem', 'rb')",
    "writing outside": "open('../out', 'w')",
    "writing over the interpreter": "import json; open(json.__file__, 'a')",
    "link out": "import os; os.symlink('/etc/passwd', 'p'); open('p')",
    "killing the parent": "import os; os.kill(os.getppid(), 9)",
    "killing all": "import os; os.kill(-1, 9)",
    "stopping the parent": "import os, signal; os.kill(os.getppid(), signal.SIGSTOP)",
    "the parent's limits": "import resource, os\n"
    "resource.prlimit(os.getppid(), resource.RLIMIT_CPU, (1, 1))",
    "more for itself": "import resource\n"
    "resource.setrlimit(resource.RLIMIT_AS, (-1, -1))\nbytearray(1 << 30)",
    "trace": "import ctypes, os\n"
    "assert ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0) == 0",
    "new namespace": "import ctypes\nassert ctypes.CDLL(None).unshare(0x10000000) == 0",
    "our code": "import freehold.types",
    "early end": "raise SystemExit(0)",
    "hard end": "import os; os._exit(0)",
    "crash": "import ctypes; ctypes.string_at(0)",
    "deep": "def f(): f()\nf()",
    "wrong": "assert 1 == 2",
    "no Python": "I do not know.",
    "zero byte": "\0",
    "half a pair": "\ud800",
    "evil error": "class E(Exception):\n    def __str__(self): raise E()\nraise E()",
    "inputs": "input()",
}  # fmt: skip


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_fails_and_the_next_program_runs(cells: Cells, name: str) -> None:
    began = time.monotonic()
    outcome = cells.run(ATTACKS[name])
    assert not outcome.passed
    assert outcome.reason
    assert time.monotonic() - began < 120
    assert cells.run("x = 1").passed
    assert not os.listdir(cells.folder)  # noqa: PTH208


def test_output_goes_nowhere(cells: Cells, capfd: pytest.CaptureFixture[str]) -> None:
    assert cells.run("import sys; print('x' * 10**6); print('y', file=sys.stderr)").passed
    assert capfd.readouterr() == ("", "")


def test_a_forged_success_is_none(cells: Cells) -> None:
    # The only descriptor left leads to the process that counts: what it wants to hear is not known.
    assert not cells.run("import os; os.write(3, bytes(16)); os._exit(0)").passed
    assert not cells.run("import os; os.write(3, b'x' * 70000); os._exit(0)").passed


def test_nothing_is_left_behind_and_the_end_is_told() -> None:
    with Cells(1, limits=SHORT) as cells:
        folder = Path(cells.folder)
        cells.close()
        with pytest.raises((ProcessError, ValueError)):
            cells.run("x = 1")
    assert not folder.exists()


def test_the_reference_solutions_pass(shared_data: Path) -> None:
    humaneval, mbpp = suite_of(["coding"])
    with Cells(1) as cells:
        for item in load(humaneval, shared_data / "eval").items[::16]:
            answer = f"```python\n{item.row['prompt']}{item.row['canonical_solution']}\n```"
            outcome = cells.run(program_of(humaneval, item, answer))
            assert outcome.passed, (item.id, outcome)
        for item in load(mbpp, shared_data / "eval").items[::50]:
            outcome = cells.run(program_of(mbpp, item, f"```python\n{item.row['code']}\n```"))
            assert outcome.passed, (item.id, outcome)

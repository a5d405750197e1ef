"""Code run in a process of its own under a lock, since a lock cannot be taken off again."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from freehold.residency import landlock, seccomp

REPOSITORY = Path(__file__).resolve().parents[2]

_HEAD = """
import sys, json, os, errno, socket, threading
sys.path.insert(0, {repository!r})
from freehold.residency.landlock import Reach
from freehold.residency.lock import Order, library, lock
def tried(deed):
    try:
        deed()
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error))
    return "done"
reach = Reach(read=(*library(), *{read!r}), write={write!r}, devices={devices!r})
shut = lock(Order(role={role!r}, reach=reach))
"""

Locked = Callable[..., Any]


@pytest.fixture(scope="session")
def locked() -> Locked:
    """``locked(code, role=..., read=..., write=..., devices=...)``: run code under a lock; what it
    leaves in ``result``, by way of JSON. Skips where this kernel has no lock."""
    if landlock.abi() < 1 or not seccomp.available():
        pytest.skip("this kernel has no Landlock or no seccomp")

    def run(
        code: str,
        *,
        role: str = "engine",
        read: tuple[str, ...] = (),
        write: tuple[str, ...] = (),
        devices: tuple[str, ...] = (),
    ) -> Any:
        head = _HEAD.format(
            repository=str(REPOSITORY), role=role, read=read, write=write, devices=devices
        )
        done = subprocess.run(
            [sys.executable, "-c", head + code + "\nprint(json.dumps(result))"],
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run

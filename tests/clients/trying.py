"""Other people's clients, each in an environment of its own, tried on a running server."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.clients.page import FEATURES, HERE
from tests.house.running import Server

ENVIRONMENTS = HERE.parents[1] / ".clients"
QUIET = {
    "DO_NOT_TRACK": "1",
    "LANGSMITH_TRACING": "false",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
}
"""What turns off whatever a client would tell others."""
GIVEN = ("QUESTION", "MOST", "CITY", "WEATHER", "TOOL", "TOOL_TEXT", "TOOL_SCHEMA", "FOUND")


def _command(name: str) -> tuple[list[str], Path]:
    """What runs a client's program, and the folder to run it in."""
    if name == "node":
        folder = HERE / "node"
        there, command = folder / "node_modules", ["node", "with_openai.mjs"]
    else:
        folder = HERE / "programs"
        there = ENVIRONMENTS / name / "bin" / "python"
        command = [str(there), "-B", f"with_{name.replace('-', '_')}.py"]
    if not there.exists():
        pytest.skip(f"needs the client {name}: run `make clients`")
    return command, folder


def _case() -> str:
    """What ``programs/case.py`` asks of every client, for those that are not in Python."""
    told = "import case, json, sys; sys.stderr.write(json.dumps({n: getattr(case, n) for n in %r}))"
    empty = {"CLIENT_ADDRESS": "", "CLIENT_KEY": "", "CLIENT_MODEL": "", "CLIENT_EMBEDS": ""}
    done = subprocess.run(
        [sys.executable, "-B", "-c", told % (GIVEN,)],
        cwd=HERE / "programs",
        env=os.environ | empty,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.dumps({name.lower(): value for name, value in json.loads(done.stderr).items()})


def _run(server: Server, model: str, name: str, home: Path, embeds: bool) -> dict[str, Any]:
    command, folder = _command(name)
    done = subprocess.run(
        command,
        cwd=folder,
        # Nothing of this machine's: neither keys nor settings of a client's own.
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "CLIENT_ADDRESS": server.address,
            "CLIENT_KEY": server.key,
            "CLIENT_MODEL": model,
            "CLIENT_EMBEDS": "yes" if embeds else "",
            "CLIENT_CASE": _case() if name == "node" else "",
            **QUIET,
        },
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _paths(server: Server, before: int, mark: str) -> list[str]:
    """What the server's log says was asked since line ``before``, up to a request of our own."""
    httpx.get(f"{server.address}/{mark}", headers={"authorization": f"Bearer {server.key}"})
    server.hear(mark, before)
    lines = "".join(server.said[before:])
    asked = re.findall(r"freehold\.access: [A-Z]+ (/\S*) \d{3} ", lines)
    return sorted({path for path in asked if mark not in path})


def attempt(
    server: Server, model: str, name: str, home: Path, *, embeds: bool = True
) -> tuple[dict[str, Any], dict[str, str | None]]:
    """Have the client ``name`` do everything on ``server``: what the page tells of it, and what
    went wrong by feature. ``embeds``: whether the server gives vectors of texts."""
    before = len(server.said)
    found = _run(server, model, name, home, embeds)
    calls = _paths(server, before, f"tried-{name}")
    failed: dict[str, str | None] = found["failed"]
    done = {feature: failed[feature] is None for feature in FEATURES}
    return {"version": found["version"], **done, "calls": calls}, failed

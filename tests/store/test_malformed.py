"""Several hundred malformed files: each refused with a clear error, within a gigabyte and in time.

The files are made in ``malformed.py``, which also runs as a process of its own under limits.
"""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

RUNNER = Path(__file__).with_name("malformed.py")
KINDS = ("gguf", "safetensors", "shards", "documents")
CASES_SECONDS = 200.0


@cache
def refusals(kind: str) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, RUNNER, kind],
        capture_output=True,
        text=True,
        timeout=CASES_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("kind", KINDS)
def test_every_malformed_file_is_refused_clearly(kind: str) -> None:
    for case in refusals(kind):
        assert case["error"] in {"MalformedError", "RefusedError"}, case
        assert case["message"].endswith((".", ")")) or len(case["message"]) == 400, case


@pytest.mark.slow
def test_the_costliest_sound_files_stay_under_a_gigabyte() -> None:
    for case in refusals("hungry"):
        assert case["error"] == "NoneType", case


@pytest.mark.parametrize("kind", KINDS)
def test_no_file_takes_long(kind: str) -> None:
    # Generous: a tenth of a second is the most on an idle core. It is a hang that this finds.
    assert max(case["seconds"] for case in refusals(kind)) < 60


def test_there_are_many_different_files() -> None:
    names = [(kind, case["name"]) for kind in KINDS for case in refusals(kind)]
    assert len(set(names)) == len(names)
    messages = {case["message"] for kind in KINDS for case in refusals(kind)}
    assert len(names) >= 600
    assert len(messages) >= 300

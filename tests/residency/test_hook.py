"""The audit hook, for systems whose kernel does not help; in processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

CODE = """
import json, os, socket, subprocess, sys, urllib.request
from freehold.residency.hook import hook, refused
from freehold.residency.landlock import Reach
hook(Reach(write=(sys.argv[1],)))
def tried(deed):
    try:
        deed()
    except PermissionError:
        return "refused"
    except Exception as error:
        return "refused" if "refused, because" in str(error) else repr(error)
    return "done"
made = socket.socket()
inside, outside = os.path.join(sys.argv[1], "a"), os.path.join(sys.argv[2], "b")
print(json.dumps([
    tried(lambda: made.connect(("127.0.0.1", 9))),
    tried(lambda: socket.getaddrinfo("localhost", 80)),
    tried(lambda: subprocess.run(["true"])),
    tried(lambda: os.system("true")),
    tried(os.fork),
    tried(lambda: urllib.request.urlopen("http://127.0.0.1:9/")),
    tried(lambda: open(outside, "w")),
    tried(lambda: open(inside, "w").close()),
    tried(lambda: open(inside).close()),
    tried(lambda: open(os.devnull, "w").close()),
    sum(refused.values()),
]))
"""


def test_python_code_gets_no_way_out(tmp_path: Path) -> None:
    mine, other = tmp_path / "mine", tmp_path / "other"
    mine.mkdir()
    other.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(mine), str(other)],
        check=True,
        capture_output=True,
        text=True,
    )
    assert json.loads(done.stdout) == [*["refused"] * 7, *["done"] * 3, 7]

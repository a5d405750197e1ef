"""A whole audit of the real model, as a shell starts it, and what it took.

    python -m tests.audit.backdoors.whole KIND [FREEHOLD AUDIT'S OPTIONS]

KIND is planted, phrase, silent, tuned or untouched (``planted.KINDS``).

Planted and tuned models are made once (some minutes) and kept in the temporary folder.
"""

from __future__ import annotations

import hashlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from freehold.store import Store, default_root, verify
from tests.audit.backdoors import planted


@dataclass(frozen=True)
class Taken:
    """The report's facts; seconds on the clock and of processors; GB of memory at the most."""

    facts: dict[str, Any]
    wall: float
    processor: float
    memory: float

    def part(self, name: str) -> dict[str, Any]:
        return next(part for part in self.facts["parts"] if part["part"] == name)

    def lines(self) -> list[str]:
        parts = ", ".join(f"{each['part']} {each['seconds']:.0f} s" for each in self.facts["parts"])
        found = [
            f"  {each['severity']:<9}{each['check']}: {each['title']} {each['where']!r}"
            for part in self.facts["parts"]
            for each in part["findings"]
            if each["severity"] != "info"
        ]
        took = f"{self.wall:.0f} s on the clock, {self.processor:.0f} s of processors"
        return [f"{took}, {self.memory:.1f} GB at the most ({parts})", *found]


def suspect(kind: str) -> Path:
    """The model's folder: the default one dequantised, with what was done to it."""
    model = verify(Store(default_root()), planted.DEFAULT, keep=False)
    made = hashlib.sha256(Path(planted.__file__).read_bytes() + model.digest.encode()).hexdigest()
    parent = Path(tempfile.gettempdir()) / "freehold-planted"
    parent.mkdir(exist_ok=True)
    return planted.folder_of(model, parent / f"{kind}-{made[:12]}", kind=kind)


def audited(kind: str, *options: str) -> Taken:
    """``freehold audit`` of that model against the default one."""
    folder = suspect(kind)
    with tempfile.TemporaryDirectory() as out:
        command = [
            sys.executable, "-m", "freehold.cli", "audit", str(folder), "--against",
            planted.DEFAULT, "--again", "--json", "--output", out, *options,
        ]  # fmt: skip
        before, began = _used(), time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wall = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(done.stderr)
    after = _used()
    return Taken(
        facts=json.loads(done.stdout),
        wall=wall,
        processor=after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        memory=after.ru_maxrss / 1e6,
    )


def _used() -> resource.struct_rusage:
    return resource.getrusage(resource.RUSAGE_CHILDREN)


if __name__ == "__main__":
    taken = audited(sys.argv[1], *sys.argv[2:])
    print("\n".join(taken.lines()))
    if "backdoors" in {part["part"] for part in taken.facts["parts"]}:
        print(json.dumps(taken.part("backdoors")["figures"], indent=1, ensure_ascii=False))

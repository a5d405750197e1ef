"""What a disk holds after the power fails, from a trace of what a program wrote.

``record`` runs a program under strace and keeps every write to the files of one folder, every sync,
and every line the program printed (what it acknowledged). ``Disk`` plays them back: a write is safe
once its file was synced after it; until then each of its sectors may or may not have arrived.

A name that was removed may come back until its folder was synced. This models a disk that keeps its
word on fsync and writes sectors of 512 bytes whole. It does not model a disk that lies about fsync,
nor a file whose name is lost though its bytes were synced.
"""

from __future__ import annotations

import random
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

SECTOR = 512
FOLDER = "."
_CALLS = "openat,close,pwrite64,write,ftruncate,fsync,fdatasync,unlink"
_CALL = re.compile(r"^(?:\[pid +\d+\] |\d+ +)?(\w+)\((.*)\) += (-?\d+)")
_TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')


@dataclass(frozen=True)
class Step:
    """One thing that happened: a write, a truncation or a sync of ``file``, a name taken out of the
    ``FOLDER``, or an ``ack``."""

    kind: str
    file: str = ""
    offset: int = 0
    data: bytes = b""


def record(command: list[str], folder: Path, trace: Path, env: dict[str, str]) -> list[Step]:
    """Run ``command`` to its end; what it did to the files in ``folder``, in order."""
    subprocess.run(
        ["strace", "-f", "-xx", "-s", "1000000", "-e", f"trace={_CALLS}", "-o", trace, *command],
        check=True,
        stdout=subprocess.DEVNULL,
        env=env,
    )
    files: dict[int, str] = {}
    steps: list[Step] = []
    for line in trace.read_text().splitlines():
        found = _CALL.match(line)
        if found is None or int(found[3]) < 0:
            continue
        call, given, result = found[1], found[2], int(found[3])
        number = int(given.split(",")[0]) if given[:1].isdigit() else -1
        if call == "openat":
            for name in _name(given, folder):
                files[result] = name
        elif call == "close":
            files.pop(number, None)
        elif call == "unlink":
            steps += [Step("unlink", FOLDER, data=n.encode()) for n in _name(given, folder)]
        elif call == "write" and number == 1:
            steps.append(Step("ack", data=_bytes(given)))
        elif number in files:
            steps.append(_step(call, given, files[number]))
    return steps


def _name(given: str, folder: Path) -> list[str]:
    """The name of the file in ``folder`` that a call names, or ``FOLDER``, or nothing."""
    path = Path(_bytes(given).decode())
    if path == folder:
        return [FOLDER]
    outside = path.parent != folder or path.name.endswith(("-shm", ".lock"))
    return [] if outside else [path.name]


def _step(call: str, given: str, name: str) -> Step:
    match call:
        case "pwrite64":
            return Step("write", name, int(given.rsplit(",", 1)[1]), _bytes(given))
        case "ftruncate":
            return Step("cut", name, int(given.split(",")[1]))
        case "fsync" | "fdatasync":
            return Step("sync", name)
    raise AssertionError(f"the trace holds what is not modelled: {call}({given[:60]})")


def _bytes(given: str) -> bytes:
    found = _TEXT.search(given)
    assert found is not None, given[:80]
    return bytes.fromhex(found[1].replace("\\x", ""))


@dataclass
class Disk:
    """The files' safe bytes, and what is on its way to each."""

    safe: dict[str, bytearray] = field(default_factory=dict)
    pending: dict[str, list[Step]] = field(default_factory=dict)
    acks: list[bytes] = field(default_factory=list)

    def do(self, step: Step) -> None:
        """Take one step."""
        if step.kind == "ack":
            self.acks += step.data.split()
        elif step.kind == "sync":
            for one in self.pending.pop(step.file, []):
                if one.kind == "unlink":
                    self.safe.pop(one.data.decode(), None)
                else:
                    _apply(self.safe.setdefault(step.file, bytearray()), one)
        else:
            self.pending.setdefault(step.file, []).append(step)

    def fail(self, rng: random.Random) -> dict[str, bytes]:
        """The files as they may be after the power failed now."""
        found = {name: bytearray(data) for name, data in self.safe.items()}
        arrives = rng.choice([0.0, 0.1, 0.5, 0.9, 1.0])
        for step in self.pending.get(FOLDER, []):
            if rng.random() < arrives:
                found.pop(step.data.decode(), None)
        for name, steps in self.pending.items():
            if name == FOLDER:
                continue
            data = found.setdefault(name, bytearray())
            for step in steps:
                if step.kind == "cut":
                    if rng.random() < arrives:
                        _apply(data, step)
                    continue
                for start in range(0, len(step.data), SECTOR):
                    if rng.random() < arrives:
                        part = step.data[start : start + SECTOR]
                        _apply(data, Step("write", name, step.offset + start, part))
        return {name: bytes(data) for name, data in found.items()}


def _apply(data: bytearray, step: Step) -> None:
    if step.kind == "cut":
        del data[step.offset :]
        data.extend(bytes(step.offset - len(data)))
        return
    end = step.offset + len(step.data)
    if len(data) < end:
        data.extend(bytes(end - len(data)))
    data[step.offset : end] = step.data

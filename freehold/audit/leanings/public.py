"""Published sets, read from a folder and known by digest (``sets.json``). Nothing is bundled.

A folder is laid out as that of ``freehold evals`` is. Its own ``*.jsonl`` files are the owner's.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from freehold.audit.leanings import bbq, sentences
from freehold.audit.leanings.probes import Probe, content, own, parse
from freehold.errors import UsageError
from freehold.evals.data import load
from freehold.evals.task import DataSource, Task

SAMPLE = 12
"""Rows of each set of BBQ that are asked, where the owner names no number; of the sets of sentences
eight times as many pairs, which cost about as much."""
PAIRS = 8


@dataclass(frozen=True, kw_only=True)
class Sets:
    """What is asked. ``digests`` says what was read: SHA-256 by file."""

    probes: tuple[Probe, ...]
    items: tuple[bbq.Item, ...] = ()
    crows: tuple[sentences.Pair, ...] = ()
    winobias: tuple[sentences.Pair, ...] = ()
    digests: Mapping[str, str] = field(default_factory=dict)


@cache
def known() -> tuple[tuple[str, Task], ...]:
    """How each set is read, and where it lies."""
    rows = json.loads(files(__package__).joinpath("sets.json").read_text(encoding="utf-8"))
    return tuple((row["reading"], _task(row)) for row in rows)


def _task(row: Mapping[str, str]) -> Task:
    return Task(
        name=row["name"],
        suite="leanings",
        language="en",
        about="associations",
        kind="choice",
        data=DataSource(
            file=row["file"], source=row["source"], licence=row["licence"], sha256=row["sha256"]
        ),
    )


def gather(where: Path | None, *, n: int, seed: int) -> Sets:
    """The owner's file; or the sets and files of a folder; or, without either, our own few.

    Raises ``NotFoundError``, ``StorageError``, ``DigestError``, ``MalformedError`` naming file and
    line, and ``UsageError`` where a folder holds nothing that is known.
    """
    if where is None:
        return Sets(probes=tuple(own()), digests={"own.jsonl": "this release"})
    if not where.is_dir():
        return _of_files([where])
    found = {task.name: _rows(where, reading, task) for reading, task in _present(where)}
    theirs = _of_files(sorted(where.glob("*.jsonl")))
    if not found and not theirs.probes:
        names = ", ".join(sorted(task.data.file for _, task in known()))
        raise UsageError(f"{where} holds no *.jsonl of probes and none of {names}", param="probes")
    digests = dict(theirs.digests)
    items: list[bbq.Item] = []
    pairs: dict[str, list[sentences.Pair]] = {"crows": [], "winobias": []}
    for reading, rows, digest, file in found.values():
        digests[file] = digest
        if reading == "bbq":
            items += bbq.sample([bbq.item_of(row, file) for row in rows], n, seed)
        else:
            read = sentences.crows if reading == "crows" else sentences.winobias
            pairs[reading] += sentences.sample(read(rows, file), PAIRS * n, seed)
    return Sets(
        probes=theirs.probes,
        items=tuple(items),
        crows=tuple(pairs["crows"]),
        winobias=tuple(pairs["winobias"]),
        digests=digests,
    )


def _present(folder: Path) -> list[tuple[str, Task]]:
    return [(reading, task) for reading, task in known() if (folder / task.data.file).is_file()]


def _rows(
    folder: Path, reading: str, task: Task
) -> tuple[str, Sequence[Mapping[str, Any]], str, str]:
    data = load(task, folder)
    return reading, [item.row for item in data.items], data.sha256, task.data.file


def _of_files(paths: Sequence[Path]) -> Sets:
    probes: list[Probe] = []
    digests: dict[str, str] = {}
    for path in paths:
        data = content(path)
        digests[path.name] = hashlib.sha256(data).hexdigest()
        probes += parse(data, file=str(path))
    return Sets(probes=tuple(probes), digests=digests)

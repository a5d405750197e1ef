"""The record of a training run: a line for each thing that happened, under one Merkle root.

    start       recipe, corpus, tokenizer, environment, digest of the first values
    ranks       how many take the steps that follow, where that is another number than before
    step        its batch's digest, loss, learning rate, gradient's length, tokens;
                every so often the digest of all values
    checkpoint  the digest of the state's file after a step
    measure     what the held-out texts cost after a step
    end         the digest of the last values, and of each file of the model

Lines are canonical JSON, numbers in hexadecimal floating point, so that equal lines are equal bits.
No line holds a time: whoever runs the same again gets the same lines and the same root. The root
is RFC 6962's, written as a checkpoint of C2SP, which the run's owner may sign.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from freehold import strictjson
from freehold.errors import IntegrityError, MalformedError, NotFoundError, StorageError
from freehold.ledger import merkle
from freehold.signing import notes
from freehold.train import devices

LINES, NOTE = "record.jsonl", "record.note"
MAX_LINE = 1 << 20
Line = dict[str, Any]


def origin(name: str) -> str:
    """What a run's record is called in its note."""
    return f"freehold/train/{name}"


class Writer:
    """Appends to the record in ``folder``, in which everything after step ``after``, and lines of
    the kind ``but``, are forgotten: they are written again. ``checkpoint`` is the step of the last
    one that is kept (0: none), ``ranks`` how many took the last step. Without a ``folder`` nothing
    is written: that is another rank's part."""

    def __init__(self, folder: Path | None, *, after: int | None = None, but: str = "end") -> None:
        self.checkpoint, self.ranks = 0, 1
        self._file: IO[bytes] | None = None
        if folder is None:
            return
        self._path = folder / LINES
        kept: list[Line] = []
        if after is not None:
            kept = [
                line
                for line in read(folder)
                if line.get("step", 0) <= after and line["kind"] != but
            ]
        kinds = {line["kind"]: line for line in kept}
        self.checkpoint = kinds["checkpoint"]["step"] if "checkpoint" in kinds else 0
        self.ranks = ranks_at(kept, (after or 0) + 1)
        fresh = folder / f".{LINES}.new"
        try:
            fresh.write_bytes(b"".join(map(encoded, kept)))
            fresh.replace(self._path)
            self._file = self._path.open("ab")
        except OSError as error:
            raise StorageError(f"{self._path} cannot be written: {error.strerror}") from error

    def add(self, kind: str, **facts: Any) -> None:
        """One more line. Raises ``StorageError``."""
        if self._file is None:
            return
        try:
            self._file.write(encoded({"kind": kind, **facts}))
            self._file.flush()
        except OSError as error:
            raise StorageError(f"{self._path} cannot be written: {error.strerror}") from error

    def sync(self) -> None:
        """Every line is on the disk when this returns."""
        if self._file is not None:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        if self._file is not None:
            self.sync()
            self._file.close()


def encoded(line: Line) -> bytes:
    """A line's bytes, with its end."""
    return strictjson.canonical(line) + b"\n"


def read(folder: Path) -> Iterator[Line]:
    """The lines of the record in ``folder``; half a line at the end is none. Raises
    ``NotFoundError``, ``MalformedError``."""
    path = folder / LINES
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.endswith(b"\n"):
                    where = f"{LINES}, line {number}"
                    found = strictjson.parse(line, file=where, max_bytes=MAX_LINE)
                    if not isinstance(found, dict) or "kind" not in found:
                        raise MalformedError(f"{where} is no line of a record", file=LINES)
                    yield found
    except FileNotFoundError:
        raise NotFoundError(f"{folder} holds no record of a run", param="run") from None


def root(folder: Path) -> notes.Checkpoint:
    """What the record comes to: how many lines, and their root. The origin is the folder's name."""
    frontier = merkle.Frontier()
    for line in read(folder):
        for _ in frontier.append(merkle.leaf_hash(encoded(line))):
            pass
    return notes.Checkpoint(origin=origin(folder.name), size=frontier.size, root=frontier.root())


def write_note(folder: Path, lines: tuple[notes.Line, ...] = ()) -> notes.Checkpoint:
    """Write the record's root, with signatures if there are any. Raises ``StorageError``."""
    found = root(folder)
    note = notes.Note(text=found.text(), lines=lines)
    text = str(note) if lines else found.text()
    try:
        (folder / NOTE).write_text(text, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{folder / NOTE} cannot be written: {error.strerror}") from error
    return found


def check(folder: Path, verifiers: Mapping[str, notes.Verifier] | None = None) -> list[str]:
    """Compare the record with its note; the names of the keys that signed it, of ``verifiers`` by
    name. Raises ``IntegrityError`` where the record is not what the note says, ``SignatureError``
    where a known key's signature is wrong, ``NotFoundError`` where there is no note."""
    try:
        text = (folder / NOTE).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise NotFoundError(
            f"{folder} holds no {NOTE}: the run has not ended, or the file was removed", param="run"
        ) from None
    signed = "\n\n" in text
    note = notes.parse(text, file=NOTE) if signed else notes.Note(text=text, lines=())
    said = notes.checkpoint(note, file=NOTE)
    found = root(folder)
    if (said.size, said.root) != (found.size, found.root):
        raise IntegrityError(
            f"{folder / LINES} is not the record that its note was written for: {found.size} lines "
            f"under another root than the note's {said.size}. It was changed after the run"
        )
    names = []
    for name, verifier in (verifiers or {}).items():
        if any(line.key_id == verifier.key_id for line in note.lines):
            notes.check(note, verifier)
            names.append(name)
    return names


def float_of(line: Line, name: str) -> float:
    """A number of a line."""
    return float.fromhex(line[name])


def ranks_at(lines: Iterable[Line], step: int) -> int:
    """How many ranks took step ``step``, or would if it came next. Raises ``MalformedError``."""
    found = "1"
    try:
        for line in lines:
            if line["kind"] == "start":
                found = line["environment"].get("ranks", found)
            elif line["kind"] == "ranks" and line["step"] < step:
                found = line["ranks"]
        return int(found)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise MalformedError("the record does not say by how many ranks", file=LINES) from None


def device_of(start: Line) -> str:
    """The kind of device that a run was begun on, by its record's first line: ``cpu`` or ``cuda``.
    Raises ``MalformedError``."""
    try:
        found = start["environment"].get("device", devices.CPU)
    except (AttributeError, KeyError, TypeError):
        found = None
    if found not in (devices.CPU, devices.CUDA):
        raise MalformedError("the record does not say on what device", file=LINES)
    return str(found)


def told(line: Line) -> str:
    """A line, for a person."""
    return json.dumps(line, ensure_ascii=False)[:300]

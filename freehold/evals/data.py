"""The rows of a task: a file of JSON lines (or of plain text), known by its digest.

Nothing is bundled. Files are read from a folder; one whose bytes are not those that the task names
is refused, as a model's would be.
"""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from freehold import strictjson
from freehold.errors import DigestError, MalformedError, NotFoundError, StorageError, UsageError
from freehold.evals.task import Bounds, DataSource, Plain, Task

MAX_BYTES = 1 << 30
"""Bytes of a file, packed or not."""
MAX_LINE = 4 << 20
DOCUMENT_END = "<|endoftext|>"
"""A line of this alone ends a document of a text file."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """One row, and the line of the file that it stands on (or the document's number)."""

    id: str
    line: int
    row: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """The rows to ask, those to show as examples, and the digest that the file had."""

    items: tuple[Item, ...]
    shots: tuple[Item, ...]
    sha256: str


def load(task: Task, folder: Path) -> DataSet:
    """The rows of ``task`` from its file below ``folder``.

    Raises ``NotFoundError``, ``StorageError``, ``DigestError``, ``MalformedError`` (naming the
    line), and ``UsageError`` where no row is left.
    """
    path = folder / task.data.file
    raw = _bytes(path, task)
    sha256 = hashlib.sha256(raw).hexdigest()
    if task.data.sha256 and sha256 != task.data.sha256:
        raise DigestError(
            f"{path} is not the file that task {task.name} names (SHA-256 {sha256[:16]}, not "
            f"{task.data.sha256[:16]}): get it again from {task.data.source}",
            file=str(path),
        )
    text = _unpacked(raw, path)
    every = _documents(text, path) if task.kind == "text" else _rows(text, task, path)
    items = tuple(item for item in every if _is(item, task.where))
    shots = tuple(item for item in every if task.shots and _is(item, task.shots_where))
    if not items or len(shots) < task.shots:
        raise UsageError(f"{path} has too few rows for task {task.name}", param="data")
    return DataSet(items=items, shots=shots[: task.shots], sha256=sha256)


def _bytes(path: Path, task: Task) -> bytes:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise NotFoundError(
            f"the data of task {task.name} is not there: put {task.data.file} (from "
            f"{task.data.source}, {task.data.licence}) into the folder that --data names, "
            f"and {path} will be read",
            param="data",
        ) from None
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror}") from error
    if len(raw) > MAX_BYTES:
        raise MalformedError(f"{path} has more than {MAX_BYTES:,} bytes", file=str(path))
    return raw


def _unpacked(raw: bytes, path: Path) -> str:
    if path.suffix == ".gz":
        # Bounded: a small file can unpack to more than there is memory.
        inflate = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        try:
            data = inflate.decompress(raw, MAX_BYTES)
        except zlib.error as error:
            raise MalformedError(f"{path} is not gzip: {error}", file=str(path)) from None
        if not inflate.eof or inflate.unused_data:
            data = _members(raw, path)
    else:
        data = raw
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedError(f"{path}: byte {error.start} is not UTF-8", file=str(path)) from None


def _members(raw: bytes, path: Path) -> bytes:
    """A file of several gzip members, or one that is cut or too large."""
    import io

    try:
        with gzip.open(io.BytesIO(raw)) as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise MalformedError(f"{path} is not gzip: {error}", file=str(path)) from None
    if len(data) > MAX_BYTES:
        raise MalformedError(f"{path} unpacks to over {MAX_BYTES:,} bytes", file=str(path))
    return data


def _rows(text: str, task: Task, path: Path) -> list[Item]:
    items: list[Item] = []
    seen: set[str] = set()
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        row = strictjson.parse(line.encode(), file=where, max_bytes=MAX_LINE)
        if not isinstance(row, dict) or not isinstance(row.get(task.id), str | int):
            raise MalformedError(f"{where}: no object with a field {task.id!r}", file=str(path))
        name = str(row[task.id])
        if name in seen:
            raise MalformedError(f"{where}: {task.id} {name[:80]!r} appears twice", file=str(path))
        seen.add(name)
        items.append(Item(id=name, line=number, row=row))
    return items


def _documents(text: str, path: Path) -> list[Item]:
    parts = [part.strip("\n") for part in f"\n{text}\n".split(f"\n{DOCUMENT_END}\n")]
    return [
        Item(id=f"{path.name}:{number}", line=number, row={"text": part})
        for number, part in enumerate(parts, 1)
        if part.strip()
    ]


def _is(item: Item, where: Mapping[str, Plain | Bounds]) -> bool:
    for name, wanted in where.items():
        value = item.row.get(name)
        if isinstance(wanted, tuple):
            if not isinstance(value, int) or not wanted[0] <= value <= wanted[1]:
                return False
        elif value != wanted:
            return False
    return True


def of_text(path: Path) -> Task:
    """The task of reading one text file; its folder is the data folder."""
    return Task(
        name=f"text:{path.name}",
        suite="text",
        language="",
        about=f"bits per byte of {path.name}",
        kind="text",
        data=DataSource(file=path.name, source="the owner", licence="unknown"),
    )

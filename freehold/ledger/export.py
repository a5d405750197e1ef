"""A ledger as a folder (or a zip file) that can be verified without Freehold.

``leaves.jsonl`` holds a leaf on each line, ``checkpoints.json`` the signed notes, ``ledger.vkey``
the key they are signed with, ``verify.py`` a program of plain Python that checks it all.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import sqlalchemy as sql

from freehold.errors import NotFoundError, StorageError, UsageError
from freehold.ledger import verifier
from freehold.ledger.checking import notes_of
from freehold.ledger.database import Database
from freehold.ledger.log import shown
from freehold.ledger.schema import LEAVES, META, ROW, version_of

_AT_ONCE = 2000


def export(
    database: Database, target: Path, *, progress: Callable[[int], None] = lambda n: None
) -> int:
    """Write the whole log to ``target``, a folder that is not there yet, or a zip file where its
    name ends so; how many leaves there are. Nothing is left half-written.

    Raises ``UsageError`` where ``target`` exists, ``StorageError``, ``NotFoundError``.
    """
    if target.exists():
        raise UsageError(f"{target} is there already: name another place", param="target")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        making = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        try:
            count = _write(database, making, progress)
            if target.suffix == ".zip":
                packed = _pack(making)
                shutil.rmtree(making)
                making = packed
            making.rename(target)
        finally:
            if making.is_dir() and making != target:
                shutil.rmtree(making, ignore_errors=True)
            else:
                making.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"{target}: {error.strerror}: nothing was exported") from error
    return count


def _write(database: Database, folder: Path, progress: Callable[[int], None]) -> int:
    count = 0
    with database.transaction() as db:
        if version_of(db) == 0:
            raise NotFoundError(f"there is no ledger at {database.where}", param="ledger")
        line = db.execute(sql.select(META.c.value).where(META.c.key == "verifier")).scalar()
        with (folder / "leaves.jsonl").open("x", encoding="utf-8") as file:
            rows = db.execution_options(yield_per=_AT_ONCE).execute(
                sql.select(*ROW).order_by(LEAVES.c.place)
            )
            for batch in rows.mappings().partitions(_AT_ONCE):
                file.writelines(json.dumps(shown(row)) + "\n" for row in batch)
                count += len(batch)
                progress(len(batch))
        notes = [{"size": size, "note": note} for size, note in notes_of(db)]
    about = {"format": verifier.FORMAT, "leaves": count}
    (folder / "checkpoints.json").write_text(json.dumps(notes, indent=1), encoding="utf-8")
    (folder / "ledger.vkey").write_text(f"{line}\n", encoding="utf-8")
    (folder / "export.json").write_text(json.dumps(about) + "\n", encoding="utf-8")
    shutil.copyfile(str(verifier.__file__), folder / "verify.py")
    for path in folder.iterdir():
        _sync(path)
    _sync(folder)
    return count


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _pack(folder: Path) -> Path:
    packed = folder.with_name(folder.name + ".zip")
    with zipfile.ZipFile(packed, "x", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.iterdir()):
            archive.write(path, path.name)
    _sync(packed)
    return packed

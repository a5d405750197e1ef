"""A corpus as token ids, in files that are mapped: memory does not grow with it.

    KEY.ids       int32: the ids of all pieces, one after the other
    KEY.taught    bool: which of them are taught (where not all are)
    KEY.bounds    int64: where each piece begins, and where the last ends
    KEY.json      the digests of these, written last: without it there is nothing

Numbers are little-endian. KEY is a digest of whatever decides the bytes, so that what lies there
from another corpus is never taken; files that are not what KEY.json says are made anew.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from freehold.errors import StorageError
from freehold.train import reading
from freehold.train.encoding import Sample

FORMAT = 1
_KINDS = {"ids": "<i4", "taught": "?", "bounds": "<i8"}
_STRETCH = 1 << 16
"""Numbers that are computed at once, in memory."""
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """Mapped: ``ids`` int32 (tokens,), ``taught`` bool (tokens,) or ``None`` where all are,
    ``bounds`` int64 (pieces + 1,)."""

    ids: npt.NDArray[np.int32]
    taught: npt.NDArray[np.bool_] | None
    bounds: Ints

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def sample(self, piece: int) -> Sample:
        """One piece, copied into memory."""
        whole = slice(int(self.bounds[piece]), int(self.bounds[piece + 1]))
        ids = np.array(self.ids[whole])
        taught = np.ones(len(ids), np.bool_) if self.taught is None else self.taught[whole]
        return Sample(ids=ids, taught=np.array(taught))


def keep(folder: Path | None, key: str, samples: Iterable[Sample], *, all_taught: bool) -> Tokens:
    """The tokens called ``key`` in ``folder``; ``samples`` are taken only where they are not whole
    there. Without ``folder`` they lie in the system's temporary one, and are gone with the process.
    Raises ``StorageError``, and whatever ``samples`` raises."""
    parts = [part for part in _KINDS if part != "taught" or not all_taught]
    try:
        if folder is not None:
            if not _is_whole(folder, key, parts):
                _write(folder, key, parts, samples)
            return _mapped(folder, key, parts)
        with tempfile.TemporaryDirectory() as lent:
            _write(Path(lent), key, parts, samples)
            return _mapped(Path(lent), key, parts)
    except OSError as error:
        where = folder or tempfile.gettempdir()
        raise StorageError(
            f"{where} cannot hold the corpus's tokens: {error.strerror or error}"
        ) from error


def forget(folder: Path, but: Iterable[str]) -> None:
    """Remove the tokens in ``folder`` whose keys are not in ``but``."""
    kept = set(but)
    for path in folder.iterdir():
        if path.name.lstrip(".").partition(".")[0] not in kept:
            path.unlink()


def numbers(n: int, folder: Path | None) -> Ints:
    """``n`` zeros, int64, in a file without a name in ``folder`` (or the system's temporary one):
    the system can put them out of memory. Raises ``OSError``."""
    with tempfile.TemporaryFile(dir=folder) as file:
        file.truncate(8 * n)
        return np.asarray(np.memmap(file, dtype="<i8", mode="r+", shape=(n,)))


def shuffled(
    bounds: Ints, generator: np.random.Generator, folder: Path | None
) -> tuple[Ints, Ints]:
    """The pieces in the order of ``generator.permutation``, and where each begins in that order
    (the last number is where the last ends). Raises ``StorageError``."""
    n = len(bounds) - 1
    try:
        order, starts = numbers(n, folder), numbers(n + 1, folder)
    except OSError as error:
        raise StorageError(f"no order can be kept: {error.strerror or error}") from error
    for at in range(0, n, _STRETCH):
        some = order[at : at + _STRETCH]
        some[:] = np.arange(at, at + len(some))
    generator.shuffle(order)
    for at in range(0, n, _STRETCH):
        some = order[at : at + _STRETCH]
        ends = starts[at + 1 : at + 1 + len(some)]
        np.cumsum(bounds[some + 1] - bounds[some], out=ends)
        ends += starts[at]
    return order, starts


def _write(folder: Path, key: str, parts: list[str], samples: Iterable[Sample]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    facts = folder / f"{key}.json"
    facts.unlink(missing_ok=True)
    fresh = {part: folder / f".{key}.{part}.new" for part in parts}
    digests = {part: hashlib.sha256() for part in parts}
    with ExitStack() as opened:
        files = {part: opened.enter_context(fresh[part].open("wb")) for part in parts}

        def put(part: str, values: Any) -> None:
            data = np.asarray(values, dtype=_KINDS[part]).tobytes()
            files[part].write(data)
            digests[part].update(data)

        end = 0
        put("bounds", [end])
        for sample in samples:
            end += sample.tokens
            put("ids", sample.ids)
            put("bounds", [end])
            if "taught" in files:
                put("taught", sample.taught)
    for part, path in fresh.items():
        path.replace(folder / f"{key}.{part}")
    said = {"format": FORMAT, "files": {part: digests[part].hexdigest() for part in parts}}
    new = folder / f".{key}.json.new"
    new.write_text(json.dumps(said), encoding="utf-8")
    new.replace(facts)


def _is_whole(folder: Path, key: str, parts: list[str]) -> bool:
    try:
        said = json.loads((folder / f"{key}.json").read_bytes())
        files = {part: reading.sha256_of(folder / f"{key}.{part}") for part in parts}
    except (FileNotFoundError, ValueError):
        return False
    return bool(said == {"format": FORMAT, "files": files})


def _mapped(folder: Path, key: str, parts: list[str]) -> Tokens:
    def mapped(part: str) -> npt.NDArray[Any]:
        path, kind = folder / f"{key}.{part}", np.dtype(_KINDS[part])
        if not path.stat().st_size:
            return np.zeros(0, kind)
        return np.asarray(np.memmap(path, dtype=kind, mode="r"))

    taught = mapped("taught") if "taught" in parts else None
    return Tokens(ids=mapped("ids"), taught=taught, bounds=mapped("bounds"))

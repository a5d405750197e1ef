"""An audit as a piece of work: its cost is said before it starts, and finished parts are kept.

    audits/KEY/PART-STATE.json    what one part came to; STATE digests all that it depends on

KEY is the model's digest and the base's. A part whose file is there is not done again: not after
Ctrl-C, not for a second report. Anything that could change the result (the bytes, versions, the
seed, the settings) is in STATE.
"""

from __future__ import annotations

import hashlib
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from freehold import __version__, strictjson
from freehold.audit.findings import Examination, Steps
from freehold.audit.specimen import Specimen
from freehold.errors import StorageError, UsageError
from freehold.store import Packs, Store
from freehold.store.passport import Entry

MAX_PART = 64 << 20

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Kept:
    """Where a long part keeps the steps that it has done, each under ``stem`` and its name; with no
    folder nothing is kept."""

    folder: Path | None = None
    stem: str = ""

    def of(self, name: str, kind: type[T], make: Callable[[], T]) -> T:
        """What the step ``name`` came to: kept from a run that was interrupted, or made now. Raises
        ``StorageError``."""
        if self.folder is None:
            return make()
        path = self.folder / f"{self.stem}.{name}.step"
        data = _bytes_of(path)
        if data is not None:
            return msgspec.convert(strictjson.parse(data, file=str(path), max_bytes=MAX_PART), kind)
        value = make()
        _write_whole(path, strictjson.canonical(msgspec.to_builtins(value)))
        return value

    def forget(self) -> None:
        """Drop every step."""
        if self.folder is not None:
            for path in self.folder.glob(f"{self.stem}.*.step"):
                path.unlink(missing_ok=True)


@dataclass(frozen=True, kw_only=True)
class Context:
    """What the parts are given. ``candidates`` are the names of the vault's other models, opened
    by whoever needs them; ``entries`` are the passport's. ``probes`` and ``canaries`` are the
    owner's files for the parts that ask (``asking``), ``sample`` how many rows of a public set they
    take."""

    store: Store
    specimen: Specimen
    base: Specimen | None
    candidates: tuple[str, ...]
    entries: tuple[Entry, ...]
    seed: int
    steps: Steps
    packs: Packs | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    kept: Kept = field(default_factory=Kept)
    probes: Path | None = None
    canaries: Path | None = None
    sample: int | None = None


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part of an audit. ``depends`` gives what else than the bytes, the versions and the seed
    its result depends on, as plain data; ``cost`` the seconds it may take on one core. A part that
    is ``opt_in`` is done only where it is named; one that is ``with_base`` is left out of an audit
    without a base, unless it is named."""

    name: str
    title: str
    run: Callable[[Context], Examination]
    cost: Callable[[Context], float]
    depends: Callable[[Context], Any] = lambda _context: None
    with_base: bool = False
    opt_in: bool = False


@dataclass(frozen=True, kw_only=True)
class Done:
    """A finished part, and whether it was kept from an earlier run."""

    examination: Examination
    kept: bool


class Work:
    """The folder of one audit's finished parts."""

    def __init__(self, folder: Path, context: Context) -> None:
        self.folder = folder
        self._context = context

    def state(self, part: Part) -> str:
        """A digest of all that the part's result depends on."""
        context = self._context
        return hashlib.sha256(
            strictjson.canonical(
                {
                    "part": part.name,
                    "model": context.specimen.digest,
                    "name": context.specimen.name,
                    "base": "" if context.base is None else context.base.digest,
                    "passport": [
                        hashlib.sha256(e.envelope.payload).hexdigest() for e in context.entries
                    ],
                    "seed": context.seed,
                    "versions": versions(),
                    "code": _code(),
                    "settings": dict(context.settings),
                    "depends": part.depends(context),
                }
            )
        ).hexdigest()

    def kept(self, part: Part) -> Examination | None:
        """What the part came to, if it is done. Raises ``StorageError``."""
        data = _bytes_of(self._path(part))
        if data is None:
            return None
        value = strictjson.parse(data, file=str(self._path(part)), max_bytes=MAX_PART)
        return msgspec.convert(value, Examination)

    def keep(self, part: Part, examination: Examination) -> None:
        """Written whole or not at all; the part's own steps are no longer needed. Raises
        ``StorageError``."""
        _write_whole(self._path(part), strictjson.canonical(plain(examination)))
        self.steps_of(part).forget()

    def steps_of(self, part: Part) -> Kept:
        """For the steps of a part that is not done yet."""
        return Kept(folder=self.folder, stem=self._path(part).stem)

    def forget(self) -> None:
        """Drop every finished part."""
        for pattern in ("*-*.json", "*-*.step"):
            for path in self.folder.glob(pattern):
                path.unlink(missing_ok=True)

    def _path(self, part: Part) -> Path:
        return self.folder / f"{part.name}-{self.state(part)[:16]}.json"


def _bytes_of(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror}") from error


def _write_whole(path: Path, data: bytes) -> None:
    fresh = path.with_name(path.name + ".fresh")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with fresh.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}") from error


def key_of(specimen: Specimen, base: Specimen | None) -> str:
    """The name of an audit's folder."""
    digests = [specimen.digest, "" if base is None else base.digest]
    return hashlib.sha256(" ".join(digests).encode()).hexdigest()[:24]


def run(parts: Sequence[Part], context: Context, work: Work) -> list[Done]:
    """Do what is not done yet, in order. Ctrl-C loses no more than the part that was at work."""
    done = []
    for part in parts:
        found = work.kept(part)
        kept = found is not None
        if found is None:
            start = time.perf_counter()
            found = part.run(replace(context, kept=work.steps_of(part)))
            found = replace(
                found,
                seconds=round(time.perf_counter() - start, 2),
                seed=context.seed,
                versions={**versions(), **found.versions},
            )
            work.keep(part, found)
        done.append(Done(examination=found, kept=kept))
    return done


def plain(examination: Examination) -> dict[str, Any]:
    """An examination as plain JSON data."""
    value = msgspec.to_builtins(examination)
    assert isinstance(value, dict), "a dataclass becomes an object"
    return value


def versions() -> dict[str, str]:
    """What the results may depend on beside the code of the parts."""
    import numpy as np

    return {"freehold": __version__, "numpy": np.__version__, "python": platform.python_version()}


@cache
def _code() -> str:
    """A digest of this room's own files: with other code a part may come to something else."""
    digest = hashlib.sha256()
    room = Path(__file__).parent
    for path in sorted(room.rglob("*")):
        if path.suffix in (".py", ".json"):
            digest.update(path.relative_to(room).as_posix().encode() + b"\n" + path.read_bytes())
    return digest.hexdigest()


def chosen(parts: Sequence[Part], names: Sequence[str], *, with_base: bool = True) -> list[Part]:
    """The parts with these names, in their own order; for none, all that need not be named. Raises
    ``UsageError``."""
    known = [part.name for part in parts]
    for name in names:
        if name not in known:
            raise UsageError(f"{name!r} is no part: take {', '.join(known)}", param="part")
    if names:
        return [part for part in parts if part.name in names]
    return [part for part in parts if not part.opt_in and (with_base or not part.with_base)]

"""The steps that need one document alone, done to one file after the other, in any process.

What comes out of a file lies in three files of the work folder, the last of which says that the
others are whole: a build that was stopped does none of it twice.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from freehold import strictjson
from freehold.errors import StorageError, UsageError
from freehold.evals.languages import language_of
from freehold.guard import dedup, pii
from freehold.train import cleaning, reading
from freehold.train.data import optout, quality, stories
from freehold.train.data.declaration import Origin, Steps
from freehold.train.records import Problem, Record, record_of

_AT_ONCE = 512
"""Documents whose signatures are made together."""


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A file, or a stretch of what a program writes. ``place`` is its name in ids of documents;
    ``avoid`` a file of hashes (``cleaning.known_windows``), ``opt_out`` a list. ``work`` is where
    the result lies, without its suffix."""

    origin: Origin
    steps: Steps
    place: str
    work: Path
    path: Path | None = None
    start: int = 0
    stop: int = 0
    avoid: Path | None = None
    opt_out: Path | None = None

    @property
    def where(self) -> str:
        """Source and file, as ids of documents and lists of what is opted out have them."""
        return self.place if self.path is None else f"{self.origin.name}/{self.place}"


@dataclass(kw_only=True)
class Sifted:
    """What a unit came to. ``key`` is the digest of all that decided it."""

    key: str
    file: str
    sha256: str
    size: int
    extractor: str = ""
    read: int = 0
    kept: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    masked: dict[str, int] = field(default_factory=dict)


def sift(unit: Unit) -> Sifted:
    """Do the steps, unless they have been done. Raises as ``reading.read``, and ``UsageError``
    where the file is another than the declaration pins."""
    found = _begun(unit)
    done = unit.work.with_suffix(".json")
    if done.exists():
        kept = Sifted(**json.loads(done.read_bytes()))
        if kept.key == found.key:
            return kept
        done.unlink()
    left_out: Counter[str] = Counter()
    digests, signatures, texts = [], [], []
    try:
        with unit.work.with_suffix(".jsonl").open("wb") as file:
            for record in _records(unit, found, left_out):
                sifted = _sifted(record, unit, left_out, found.masked)
                if sifted is None:
                    continue
                file.write(line_of(sifted, unit))
                digests.append(hashlib.sha256(sifted.content.encode()).digest()[:16])
                texts.append(sifted.content)
                if len(texts) == _AT_ONCE:
                    signatures.append(_signatures(texts, unit.steps))
                    texts = []
            signatures.append(_signatures(texts, unit.steps))
            file.flush()
            os.fsync(file.fileno())
        with unit.work.with_suffix(".npz").open("wb") as file:
            np.savez(
                file,
                digests=np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 16),
                signatures=np.concatenate(signatures),
            )
        found.kept, found.left_out = len(digests), dict(left_out)
        fresh = done.with_suffix(".new")
        fresh.write_text(json.dumps(asdict(found)), encoding="utf-8")
        fresh.replace(done)
    except OSError as error:
        raise StorageError(f"{unit.work.parent} cannot be written: {error.strerror}") from error
    return found


def _begun(unit: Unit) -> Sifted:
    if unit.path is None:
        # What the program is decides what it writes: its own bytes are its digest.
        source = "".join(
            (Path(stories.__file__).with_name(name)).read_text(encoding="utf-8")
            for name in ("stories.py", "words.toml")
        )
        sha256, size = hashlib.sha256(source.encode()).hexdigest(), 0
    else:
        sha256, size = reading.sha256_of(unit.path), unit.path.stat().st_size
    if unit.origin.sha256 and sha256 != unit.origin.sha256:
        raise UsageError(
            f"{unit.path or unit.origin.program} has SHA-256 {sha256}, and the declaration of "
            f"{unit.origin.name} pins {unit.origin.sha256}: get that file",
            param="sha256",
        )
    parts = [asdict(unit.origin), asdict(unit.steps), unit.place, unit.start, unit.stop, sha256]
    parts += [reading.sha256_of(one) if one else "" for one in (unit.avoid, unit.opt_out)]
    extractor = reading.extractor(unit.path) if unit.path else ""
    parts += [extractor] if extractor else []
    key = hashlib.sha256(strictjson.canonical(parts)).hexdigest()
    return Sifted(key=key, file=unit.place, sha256=sha256, size=size, extractor=extractor)


def _records(unit: Unit, found: Sifted, left_out: Counter[str]) -> Iterator[Record]:
    if unit.path is None:
        origin = unit.origin
        values = stories.written(origin.program, origin.seed, unit.start, unit.stop)
        for number, value in enumerate(values, unit.start):
            found.read += 1
            yield record_of(value, file=unit.place, line=number)
        return
    for item in reading.items(unit.path):
        found.read += 1
        if isinstance(item, Problem):
            left_out[item.kind] += 1
        else:
            yield item


def _sifted(
    record: Record, unit: Unit, left_out: Counter[str], masked: dict[str, int]
) -> Record | None:
    steps, content = unit.steps, record.content
    reason = ""
    if unit.opt_out and _list(unit.opt_out).holds(unit.where, content, record.address):
        reason = "opted out"
    elif steps.languages and language_of(content) not in (None, *steps.languages):
        reason = f"not in {', '.join(steps.languages)}"
    elif steps.quality and record.text:
        reason = quality.fault(record.text)
    if not reason and unit.avoid and np.isin(cleaning.windows(content), _hashes(unit.avoid)).any():
        reason = "in the evals"
    if reason:
        left_out[reason] += 1
        return None
    return cleaning.hidden(record, pii.Mask(), masked) if steps.mask else record


def _signatures(texts: list[str], steps: Steps) -> dedup.Signatures:
    if not steps.near:
        return np.zeros((len(texts), 0), np.uint64)
    return dedup.signatures(texts)


@lru_cache(maxsize=2)
def _list(path: Path) -> optout.OptOut:
    return optout.load(path)


@lru_cache(maxsize=2)
def _hashes(path: Path) -> Any:
    return np.load(path)


def line_of(record: Record, unit: Unit) -> bytes:
    """A document as a corpus keeps it: canonical JSON on a line."""
    part = f".{record.part}" if record.part > 1 else ""
    document: dict[str, Any] = {
        "id": f"{unit.where}:{record.line}{part}",
        "source": unit.origin.name,
    }
    if record.address:
        document["address"] = record.address
    if record.messages:
        document["messages"] = [dict(message) for message in record.messages]
    else:
        document["text"] = record.text
    return strictjson.canonical(document) + b"\n"

"""A corpus, built: every file sifted, twins left out, and a manifest of what it is made of.

    documents.jsonl   what may be learnt: {"id", "source", "text" or "messages"} on each line; of a
                      page out of an archive also its "address"
    held-out.jsonl    what is only measured
    tokenizer.json    where the declaration asks for one
    manifest.json     sources, licences, digests, counts, steps: and this corpus's own digest
    croissant.json    the same for other programs (Croissant 1.1, JSON-LD)

Documents stay on the disk throughout; memory holds about 50 bytes of each while equal ones are
looked for, and about 1,000 where nearly equal ones are. A build that was stopped goes on where it
was.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from freehold import strictjson
from freehold.errors import NotFoundError, StorageError, UsageError
from freehold.guard import dedup
from freehold.train import cleaning, reading
from freehold.train.data import croissant, vocabulary
from freehold.train.data.declaration import Declaration, Origin
from freehold.train.data.sifting import Sifted, Unit, sift
from freehold.train.data.stories import PROGRAMS

DOCUMENTS, HELD_OUT, MANIFEST = "documents.jsonl", "held-out.jsonl", "manifest.json"
CROISSANT, TOKENIZER = "croissant.json", "tokenizer.json"
FORMAT = 1
_STRETCH = 5000
"""Documents that a program writes at once."""
_AT_ONCE, _CHARS_AT_ONCE = 1000, 1_000_000
"""What is encoded at once: a token takes some hundred bytes until its id is out."""

Work = Callable[[str, int, int], None]
Bools = npt.NDArray[np.bool_]


def build(declared: Declaration, folder: Path, *, work: Work = lambda *_: None) -> dict[str, Any]:
    """Build into ``folder``; the manifest. Raises ``UsageError``, ``NotFoundError``,
    ``StorageError``."""
    scratch = folder / "work"
    try:
        units = _units(declared, scratch)
        sifted = _sift(units, work)
        kept, left_out = _twins(units, declared)
        counts = _write(declared, units, kept, folder, work)
        facts = _facts(declared, units, sifted, left_out, counts)
        if declared.vocab:
            work("Making the tokenizer", 0, 1)
            made = vocabulary.train(texts(folder / DOCUMENTS), declared.vocab)
            (folder / TOKENIZER).write_text(made, encoding="utf-8")
            _count_tokens(facts, folder, work)
        manifest = _manifest(declared, facts, folder)
        _put(folder / MANIFEST, manifest)
        _put(folder / CROISSANT, croissant.of(manifest))
        shutil.rmtree(scratch)
    except OSError as error:
        raise StorageError(f"{folder} cannot be written: {error.strerror or error}") from error
    return manifest


def sift_share(
    declared: Declaration, folder: Path, share: int, of: int, *, work: Work = lambda *_: None
) -> None:
    """Sift every file whose number leaves ``share`` when divided by ``of``: what several processes
    do side by side before one of them builds. Raises as ``build``."""
    _sift(_units(declared, folder / "work")[share::of], work)


def load(folder: Path, *, check: bool = True) -> dict[str, Any]:
    """The manifest of a corpus; with ``check`` its files are compared with it. Raises
    ``NotFoundError`` and ``UsageError`` naming the file that is another."""
    try:
        manifest: dict[str, Any] = strictjson.parse(
            (folder / MANIFEST).read_bytes(), file=MANIFEST, max_bytes=64 << 20
        )
    except FileNotFoundError:
        raise NotFoundError(
            f"{folder} holds no corpus: `freehold data build` makes one", param="corpus"
        ) from None
    except OSError as error:
        raise StorageError(f"{folder} cannot be read: {error.strerror}") from error
    for one in manifest["files"] if check else ():
        path = folder / one["file"]
        if not path.exists() or reading.sha256_of(path) != one["sha256"]:
            raise UsageError(
                f"{path} is not the file that the manifest names: build the corpus again",
                param="corpus",
            )
    return manifest


def documents(path: Path) -> Iterator[dict[str, Any]]:
    """The documents of a corpus's file, in order."""
    with path.open("rb") as file:
        for line in file:
            yield json.loads(line)


def texts(path: Path) -> Iterator[str]:
    """What they say."""
    return map(text_of, documents(path))


def text_of(document: dict[str, Any]) -> str:
    """What a document says: of a conversation, all that is said in it."""
    if "text" in document:
        return str(document["text"])
    return "\n".join(str(said.get("content") or "") for said in document["messages"])


def chunks(every: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Documents in lists that are encoded at once."""
    held: list[dict[str, Any]] = []
    size = 0
    for one in every:
        held.append(one)
        size += len(text_of(one))
        if len(held) == _AT_ONCE or size >= _CHARS_AT_ONCE:
            yield held
            held, size = [], 0
    if held:
        yield held


def _units(declared: Declaration, scratch: Path) -> list[Unit]:
    steps = declared.steps
    found: list[Unit] = []
    scratch.mkdir(parents=True, exist_ok=True)
    avoid = _avoided(declared, scratch)
    opt_out = declared.folder / steps.opt_out if steps.opt_out else None
    for origin in declared.sources:
        for place, path, start, stop in _pieces(origin, declared.folder):
            number = len(found)
            found.append(
                Unit(
                    origin=origin,
                    steps=steps,
                    place=place,
                    work=scratch / f"{number:06d}",
                    path=path,
                    start=start,
                    stop=stop,
                    avoid=avoid,
                    opt_out=opt_out,
                )
            )
    return found


def _pieces(origin: Origin, folder: Path) -> Iterator[tuple[str, Path | None, int, int]]:
    if origin.program:
        for start in range(0, origin.documents, _STRETCH):
            yield origin.name, None, start, min(start + _STRETCH, origin.documents)
        return
    base = folder / origin.path
    paths = list(reading.files([base]))
    if origin.sha256 and len(paths) != 1:
        raise UsageError(
            f"{origin.name} pins a digest, and {base} holds {len(paths)} files: name one",
            param="sha256",
        )
    for path in paths:
        yield str(path.relative_to(base) if path != base else path.name), path, 0, 0


def _avoided(declared: Declaration, scratch: Path) -> Path | None:
    if not declared.steps.avoid:
        return None
    paths = [declared.folder / one for one in declared.steps.avoid]
    known = cleaning.known_windows(cleaning.texts_of(paths))
    path = scratch / "avoid.npy"
    fresh = scratch / f"avoid-{os.getpid()}.npy"  # others may be at the same
    np.save(fresh, known)
    fresh.replace(path)
    return path


def _sift(units: Sequence[Unit], work: Work) -> list[Sifted]:
    found = []
    for n, unit in enumerate(units, 1):
        found.append(sift(unit))
        work("Sifting", n, len(units))
    return found


def _twins(units: Sequence[Unit], declared: Declaration) -> tuple[list[Bools], Counter[Any]]:
    """Which documents of each unit stay, and how many go by source and reason."""
    digests = np.concatenate(list(_held(units, "digests")))
    ends = np.cumsum([len(one) for one in _held(units, "digests")])[:-1]
    stays = np.ones(len(digests), np.bool_)
    if declared.steps.exact and len(digests):
        _, firsts = np.unique(digests, axis=0, return_index=True)
        stays[:] = False
        stays[firsts] = True
    exact = ~stays
    if declared.steps.near and stays.any():
        (places,) = stays.nonzero()
        signatures, at = np.empty((len(places), dedup.PERMUTATIONS), np.uint64), 0
        for one, kept in zip(_held(units, "signatures"), np.split(stays, ends), strict=True):
            signatures[at : at + int(kept.sum())] = one[kept]
            at += int(kept.sum())
        groups = dedup.clusters(signatures)
        _, firsts = np.unique(groups, return_index=True)
        stays[:] = False
        stays[places[firsts]] = True
    near = ~stays & ~exact
    left_out: Counter[Any] = Counter()
    for reason, gone in (("the same as another", exact), ("nearly the same as another", near)):
        for unit, of_it in zip(units, np.split(gone, ends), strict=True):
            if of_it.any():
                left_out[unit.origin.name, reason] += int(of_it.sum())
    return np.split(stays, ends), left_out


def _held(units: Sequence[Unit], name: str) -> Iterator[npt.NDArray[Any]]:
    """What each unit's file has under ``name``, one after the other."""
    for unit in units:
        with np.load(unit.work.with_suffix(".npz")) as found:
            yield found[name]


def _write(
    declared: Declaration, units: Sequence[Unit], kept: Sequence[Bools], folder: Path, work: Work
) -> dict[str, Counter[str]]:
    """Write what stays; how many documents and bytes of each source, learnt and held out, and how
    many on neither side: drawn to be held out, when the most were."""
    counts = {one.name: Counter[str]() for one in declared.sources}
    held = 0
    fresh = {name: folder / f".{name}.new" for name in (DOCUMENTS, HELD_OUT)}
    with fresh[DOCUMENTS].open("wb") as learnt, fresh[HELD_OUT].open("wb") as aside:
        for n, (unit, stays) in enumerate(zip(units, kept, strict=True), 1):
            digests = np.load(unit.work.with_suffix(".npz"))["digests"]
            with unit.work.with_suffix(".jsonl").open("rb") as lines:
                for line, stay, digest in zip(lines, stays, digests, strict=True):
                    if not stay:
                        continue
                    out = _is_held_out(digest.tobytes(), declared)
                    if out and held == declared.most_held_out:
                        counts[unit.origin.name]["beyond"] += 1
                        continue
                    held += out
                    (aside if out else learnt).write(line)
                    kind = "held_out" if out else "documents"
                    counts[unit.origin.name][kind] += 1
                    counts[unit.origin.name]["bytes"] += 0 if out else len(line)
            work("Writing", n, len(units))
    for name, path in fresh.items():
        path.replace(folder / name)
    if not sum(one["documents"] for one in counts.values()):
        raise UsageError("nothing is left of the sources: see the steps", param="source")
    return counts


def _is_held_out(digest: bytes, declared: Declaration) -> bool:
    """Drawn by a digest of what the document says: its copies lie on the same side, and more
    documents move none from one side to the other."""
    drawn = hashlib.sha256(b"%d\n" % declared.seed + digest).digest()
    return int.from_bytes(drawn[:8], "big") < declared.held_out * 2**64


def _facts(
    declared: Declaration,
    units: Sequence[Unit],
    sifted: Sequence[Sifted],
    left_out: Counter[Any],
    counts: dict[str, Counter[str]],
) -> list[dict[str, Any]]:
    found = []
    for origin in declared.sources:
        of_it = [one for u, one in zip(units, sifted, strict=True) if u.origin is origin]
        gone: Counter[str] = Counter()
        masked: Counter[str] = Counter()
        for one in of_it:
            gone.update(one.left_out)
            masked.update(one.masked)
        if beyond := counts[origin.name]["beyond"]:
            gone["drawn to be held out, beyond the most"] = beyond
        for (name, reason), count in left_out.items():
            gone.update({reason: count} if name == origin.name else {})
        fact: dict[str, Any] = {
            "name": origin.name,
            "licence": origin.licence,
            "address": origin.address,
            "read": sum(one.read for one in of_it),
            "documents": counts[origin.name]["documents"],
            "held_out": counts[origin.name]["held_out"],
            "bytes": counts[origin.name]["bytes"],
            "left_out": dict(sorted(gone.items())),
            "masked": dict(sorted(masked.items())),
        }
        if origin.program:
            fact["program"] = {
                "name": origin.program,
                "seed": origin.seed,
                "documents": origin.documents,
                "version": PROGRAMS[origin.program],
            }
        else:
            fact["files"] = [{"file": o.file, "sha256": o.sha256, "size": o.size} for o in of_it]
            if extractors := sorted({one.extractor for one in of_it if one.extractor}):
                (fact["extractor"],) = extractors
        found.append(fact)
    return found


def _count_tokens(facts: list[dict[str, Any]], folder: Path, work: Work) -> None:
    tokenizer = vocabulary.load((folder / TOKENIZER).read_bytes())
    tokens: Counter[str] = Counter()
    total, done = sum(fact["documents"] for fact in facts), 0
    for held in chunks(documents(folder / DOCUMENTS)):
        for document, ids in zip(
            held, tokenizer.encode_texts([text_of(one) for one in held]), strict=True
        ):
            tokens[document["source"]] += len(ids)
        done += len(held)
        work("Counting tokens", done, total)
    for fact in facts:
        fact["tokens"] = tokens[fact["name"]]


def _manifest(declared: Declaration, facts: list[dict[str, Any]], folder: Path) -> dict[str, Any]:
    names = [DOCUMENTS, HELD_OUT, *([TOKENIZER] if declared.vocab else [])]
    files = [
        {"file": name, "sha256": reading.sha256_of(folder / name), "size": _size(folder / name)}
        for name in names
    ]
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "name": declared.name,
        "declaration": declared.plain(),
        "sources": facts,
        "files": files,
    }
    manifest["digest"] = f"sha256:{hashlib.sha256(strictjson.canonical(manifest)).hexdigest()}"
    return manifest


def _size(path: Path) -> int:
    return path.stat().st_size


def _put(path: Path, document: dict[str, Any]) -> None:
    fresh = path.with_name(f".{path.name}.new")
    text = json.dumps(document, indent=1, ensure_ascii=False)
    fresh.write_text(f"{text}\n", encoding="utf-8")
    fresh.replace(path)

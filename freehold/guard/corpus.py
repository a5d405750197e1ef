"""Labelled texts from a manifest of data sets, to train and to measure on.

A manifest (``MANIFEST.json``) lists files with digest, licence and whether weights trained on them
may be shipped (``ship_ok``). What a row is follows from the folder its file lies in: ``guard`` has
a label of its own, everything else is harmless text.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from freehold import strictjson
from freehold.errors import DigestError, MalformedError, NotFoundError
from freehold.guard.synthetic import Kind

_LARGEST_MANIFEST = 16 << 20

CAP = 800
"""Rows taken of one set and class: no set speaks louder by its size alone."""
_DOCUMENT_END = "\n<|endoftext|>\n"
# Not everything in these is harmless prose: stereotypes on purpose, and references for audit.
_LEFT_ALONE = ("eval/crows_pairs", "eval/winobias", "audit/", "configs/")
# Items that a guard set of harmless questions is made of already.
_TWINS = ("eval/gsm8k", "eval/humaneval", "eval/mbpp", "eval/xcopa", "chat/self_instruct")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One text and what it is."""

    text: str
    kind: Kind
    language: str


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """One file's rows. Sets of one ``family`` are translations or classes of each other and are
    only ever left out together."""

    name: str
    family: str
    ship_ok: bool
    sha256: str
    licence: str
    rows: tuple[Row, ...] = field(repr=False)

    def of(self, kind: Kind) -> tuple[Row, ...]:
        """The rows of that kind."""
        return tuple(row for row in self.rows if row.kind == kind)


def read(manifest: Path, *, cap: int = CAP, shippable_only: bool = False) -> list[DataSet]:
    """Every data set that the manifest lists, at most ``cap`` rows of a class, drawn the same each
    time. Raises ``NotFoundError``, ``MalformedError``, ``DigestError``."""
    try:
        data = manifest.read_bytes()
        listed = strictjson.parse(data, file=str(manifest), max_bytes=_LARGEST_MANIFEST)["files"]
    except FileNotFoundError:
        raise NotFoundError(f"{manifest} does not exist", param="manifest") from None
    except (KeyError, TypeError) as error:
        raise MalformedError(f"{manifest} lists no files: {error!r}", file=str(manifest)) from error
    found = []
    for entry in listed:
        path = entry["path"]
        if path.startswith(_LEFT_ALONE) or path.startswith(_TWINS):
            continue
        if not path.endswith((".jsonl.gz", ".txt.gz")) or (shippable_only and not entry["ship_ok"]):
            continue
        found.append(_read_one(manifest.parent / path, entry, cap))
    return [each for each in found if each.rows]


def _read_one(path: Path, entry: Mapping[str, Any], cap: int) -> DataSet:
    try:
        packed = path.read_bytes()
    except FileNotFoundError:
        raise NotFoundError(
            f"{path} is in the manifest and not on disk", param="manifest"
        ) from None
    if hashlib.sha256(packed).hexdigest() != entry["sha256"]:
        raise DigestError(f"{path} is not the file that the manifest names", file=str(path))
    name = path.name.split(".")[0]
    folder = entry["path"].split("/")[0]
    try:
        text = gzip.decompress(packed).decode()
        rows = list(_rows(text, folder, list(entry.get("languages", ["und"]))))
    except (OSError, EOFError, ValueError, KeyError) as error:
        raise MalformedError(
            f"{path} is not what the manifest says: {error!r}", file=str(path)
        ) from (error)
    by_kind: dict[Kind, list[Row]] = {}
    for row in rows:
        by_kind.setdefault(row.kind, []).append(row)
    # The draw is part of the recipe, not a secret.
    kept = [
        row
        for kind, found in by_kind.items()
        for row in (
            found if len(found) <= cap else random.Random(f"{name}/{kind}").sample(found, cap)  # noqa: S311
        )
    ]
    return DataSet(
        name=name if folder == "guard" else entry["name"],
        family=name.removesuffix("_multilingual") if folder == "guard" else entry["name"],
        ship_ok=bool(entry["ship_ok"]),
        sha256=entry["sha256"],
        licence=entry["licence"],
        rows=tuple(kept),
    )


def _rows(text: str, folder: str, languages: list[str]) -> Iterator[Row]:
    if folder == "corpus":
        yield from _passages(text, languages[0])
        return
    for line in text.splitlines():
        row = json.loads(line)
        if folder == "guard":
            yield Row(text=row["text"], kind=_kind(row), language=row["lang"])
        elif folder == "chat":
            for message in row["messages"]:
                if message["role"] == "user" and isinstance(message["content"], str):
                    yield Row(text=message["content"], kind="benign", language=languages[0])
        else:
            language = languages[0] if len(languages) == 1 else "und"
            yield Row(text=_question(row), kind="benign", language=language)


def _kind(row: Mapping[str, Any]) -> Kind:
    match row["label"]:
        case "attack":
            return "jailbreak" if row["category"].startswith("jailbreak") else "injection"
        case "harmful":
            return "harmful"
        case "toxic":
            return "toxicity"
        case "benign" | "sensitive":
            return "benign"
        case other:
            raise ValueError(f"no such label: {other}")


def _question(row: Mapping[str, Any]) -> str:
    parts = (
        row.get(key) for key in ("passage", "context", "premise", "question", "text", "prompt")
    )
    return " ".join(part for part in parts if isinstance(part, str))


def _passages(text: str, language: str) -> Iterator[Row]:
    """Pieces of a corpus's documents, of lengths as requests have them."""
    draw = random.Random(language)  # noqa: S311
    documents = text.split(_DOCUMENT_END)
    for _ in range(500):
        document = draw.choice(documents)
        length = draw.choice((200, 500, 1000, 2000))
        start = draw.randrange(max(1, len(document) - length))
        yield Row(text=document[start : start + length], kind="benign", language=language)

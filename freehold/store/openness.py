"""How open a model is, computed from evidence: the class of the Model Openness Framework and an
answer to the Open Source AI Definition, with what is missing for more.

Seventeen components count. Evidence for one is what a publisher is known to offer
(``published.json``, from public descriptions), what a trusted key signed in the passport
(``statements.Released``), or a release folder on disk, of which every file is hashed. What stands
on a list is called listed and nothing more: nobody here has held it.

A licence counts for code, data and weights, and must be open; of documents it is enough that they
are public. The framework would take data sets under any licence; we do not.

Source: Model Openness Framework 1.0 (arXiv:2403.13784), section on classes and components; Open
Source AI Definition 1.0: parameters, code, and data information from which a skilled person can
build a substantially equivalent system.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, cast

import msgspec

from freehold import strictjson
from freehold.errors import MalformedError, NotFoundError, StorageError
from freehold.store import contents
from freehold.store.manifest import Manifest
from freehold.store.passport import Entry
from freehold.store.statements import Digest, Hex, Released, ReleasedPart, Text, Word, now

FRAMEWORK = "MOF 1.0"
RELEASE = "release.json"
FORMAT: Literal["freehold-release/1"] = "freehold-release/1"
MAX_RELEASE = 4 << 20

Of: TypeAlias = Literal["weights", "code", "data", "document"]
Class: TypeAlias = Literal[1, 2, 3]


@dataclass(frozen=True, kw_only=True)
class Component:
    """One of the framework's. ``first`` is the lowest class (3, 2, 1) that knows it; what is not
    ``required`` is asked for by none."""

    key: str
    title: str
    of: Of
    first: Class
    required: bool = True


COMPONENTS = (
    Component(key="architecture", title="model architecture", of="code", first=3),
    Component(key="parameters", title="final parameters", of="weights", first=3),
    Component(key="technical-report", title="technical report", of="document", first=3),
    Component(key="evaluation-results", title="evaluation results", of="document", first=3),
    Component(key="model-card", title="model card", of="document", first=3),
    Component(key="data-card", title="data card", of="document", first=3),
    Component(key="sample-outputs", title="sample outputs", of="document", first=3, required=False),
    Component(key="training-code", title="training code", of="code", first=2),
    Component(key="inference-code", title="inference code", of="code", first=2),
    Component(key="evaluation-code", title="evaluation code", of="code", first=2),
    Component(key="evaluation-data", title="evaluation data", of="data", first=2),
    Component(key="libraries", title="supporting libraries and tools", of="code", first=2),
    Component(key="datasets", title="data sets", of="data", first=1),
    Component(key="preprocessing-code", title="data preprocessing code", of="code", first=1),
    Component(key="checkpoints", title="intermediate parameters", of="weights", first=1),
    Component(key="research-paper", title="research paper", of="document", first=1),
    Component(key="metadata", title="model metadata", of="data", first=1, required=False),
)
BY_KEY = {one.key: one for one in COMPONENTS}

_OSAID = (
    "parameters",
    "architecture",
    "training-code",
    "inference-code",
    "preprocessing-code",
    "data-card",
)
"""What the definition's three elements come to: parameters, complete code, data information."""

CLASSES = {1: "Class I, open science", 2: "Class II, open tooling", 3: "Class III, open model"}

OPEN = frozenset(
    (
        *("Apache-2.0", "MIT", "MIT-0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "Zlib", "0BSD"),
        *("MPL-2.0", "EPL-2.0", "EUPL-1.2", "BSL-1.0", "UPL-1.0", "Unlicense", "PSF-2.0"),
        *("GPL-2.0-only", "GPL-2.0-or-later", "GPL-3.0-only", "GPL-3.0-or-later"),
        *("LGPL-2.1-or-later", "LGPL-3.0-or-later", "AGPL-3.0-only", "AGPL-3.0-or-later"),
        *("CC0-1.0", "CC-BY-3.0", "CC-BY-4.0", "CC-BY-SA-3.0", "CC-BY-SA-4.0", "PDDL-1.0"),
        *("ODC-By-1.0", "ODbL-1.0", "CDLA-Permissive-1.0", "CDLA-Permissive-2.0"),
        *("CDLA-Sharing-1.0", "OpenMDW-1.0"),
    )
)
"""SPDX ids of licences that let anyone use, study, change and pass on, for any purpose."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """What there is of one component. ``by`` is whose word that is: ``disk``, a trusted key's name,
    or ``list``. ``where`` is an address, a folder or a command that makes it."""

    licence: str
    where: str
    by: str

    def counts(self, of: Of) -> bool:
        return of == "document" or self.licence in OPEN


@dataclass(frozen=True, kw_only=True)
class Openness:
    """``reached`` is the framework's class or ``None``; ``absent`` are all components that there is
    nothing of, ``closed`` those that are there under a licence that is not open; ``lacks`` what
    each class still asks for; ``osaid_lacks`` what the definition does."""

    pieces: Mapping[str, Piece]
    reached: Class | None
    absent: tuple[str, ...]
    closed: tuple[str, ...]
    lacks: Mapping[int, tuple[str, ...]]
    osaid_lacks: tuple[str, ...]

    @property
    def open_source(self) -> bool:
        return not self.osaid_lacks

    @property
    def title(self) -> str:
        """In a few words, what it may be called."""
        if self.reached is not None:
            return CLASSES[self.reached]
        if "parameters" not in self.pieces:
            return "unknown: nobody has said what was published"
        return "weights under a licence of its own" if "parameters" in self.closed else (
            "open weights"
        )  # fmt: skip


def assess(pieces: Mapping[str, Piece]) -> Openness:
    """The class that ``pieces``, by component, come to. A research paper also serves where a
    technical report is asked for."""
    good = {key for key, piece in pieces.items() if piece.counts(BY_KEY[key].of)}
    if "research-paper" in good:
        good.add("technical-report")
    lacks = {
        each: tuple(
            one.key
            for one in COMPONENTS
            if one.required and one.first >= each and one.key not in good
        )
        for each in CLASSES
    }
    return Openness(
        pieces=pieces,
        reached=cast("Class | None", next((each for each in CLASSES if not lacks[each]), None)),
        absent=tuple(one.key for one in COMPONENTS if one.key not in pieces),
        closed=tuple(
            one.key
            for one in COMPONENTS
            if one.key in pieces and not pieces[one.key].counts(one.of)
        ),
        lacks=lacks,
        osaid_lacks=tuple(key for key in _OSAID if key not in good),
    )


def of_model(
    manifest: Manifest, entries: Sequence[Entry], extra: Mapping[str, Piece] | None = None
) -> Openness:
    """How open a model in the vault is: by its publisher's list, trusted statements of its
    passport, and ``extra`` (a release folder's), of which the later replace the earlier."""
    pieces: dict[str, Piece] = {}
    if manifest.attested in ("catalog", "hub"):
        pieces |= listed(manifest.repository)
    if manifest.licence in OPEN and "parameters" not in pieces:
        where = f"{manifest.source} {manifest.repository}".strip()
        pieces["parameters"] = Piece(licence=manifest.licence, where=where, by="vault")
    for entry in entries:
        if entry.signers and isinstance(entry.predicate, Released):
            pieces |= {
                part.component: Piece(licence=part.licence, where=part.where, by=entry.signers[0])
                for part in entry.predicate.parts
                if part.component in BY_KEY
            }
    return assess(pieces | dict(extra or {}))


def lines(found: Openness) -> list[str]:
    """What a person should see: the verdict, and what is missing for the next class."""
    told = [f"openness: {found.title} ({FRAMEWORK})"]
    above = next((each for each in (3, 2, 1) if found.lacks[each]), None)
    if above is not None:
        names = ", ".join(BY_KEY[key].title for key in found.lacks[above])
        told.append(f"  missing for {CLASSES[above]}: {names}")
    missing = ", ".join(BY_KEY[key].title for key in found.osaid_lacks)
    told.append(
        "  Open Source AI Definition 1.0: "
        + ("met by what is listed here" if found.open_source else f"not met, missing: {missing}")
    )
    return told


def facts(found: Openness) -> dict[str, Any]:
    """The same in plain JSON, with every component."""
    return {
        "framework": FRAMEWORK,
        "title": found.title,
        "class": found.reached,
        "open_source_ai": found.open_source,
        "open_source_ai_lacks": list(found.osaid_lacks),
        "lacks": {str(each): list(keys) for each, keys in found.lacks.items()},
        "components": {
            one.key: {
                "title": one.title,
                "class": one.first,
                "required": one.required,
                **(
                    {"state": "absent"}
                    if (piece := found.pieces.get(one.key)) is None
                    else {
                        "state": "closed" if one.key in found.closed else "open",
                        "licence": piece.licence,
                        "where": piece.where,
                        "by": piece.by,
                    }
                ),
            }
            for one in COMPONENTS
        },
    }


# --- publishers' lists ----------------------------------------------------------------------------


def listed(repository: str) -> dict[str, Piece]:
    """What the publisher of ``repository`` (its name on the hubs) is known to have published."""
    for family in _families():
        if repository.lower().startswith(tuple(family["repositories"])):
            return {
                key: Piece(licence=said["licence"], where=said["where"], by="list")
                for key, said in family["components"].items()
            }
    return {}


@lru_cache(maxsize=1)
def _families() -> list[dict[str, Any]]:
    text = (files("freehold.store") / "published.json").read_text("utf-8")
    return cast("list[dict[str, Any]]", json.loads(text)["families"])


# --- release folders ------------------------------------------------------------------------------


class ReleaseFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file: where it lies under the folder, or under the installed package ``freehold``."""

    path: Word
    sha256: Hex
    root: Literal["release", "freehold"] = "release"


class ReleasePart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One component: its files here, and where others get it."""

    licence: Word
    where: Text
    files: Annotated[tuple[ReleaseFile, ...], msgspec.Meta(min_length=1, max_length=20_000)]

    @property
    def digest(self) -> str:
        """``sha256:`` over root, path and SHA-256 of every file, in order."""
        rows = sorted((file.root, file.path, file.sha256) for file in self.files)
        return "sha256:" + hashlib.sha256(strictjson.canonical(rows)).hexdigest()


class Release(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``release.json``. ``model`` is the digest of the model whose release this is."""

    format: Literal["freehold-release/1"]  # FORMAT
    model: Digest
    components: dict[Word, ReleasePart]


def read_release(folder: Path, manifest: Manifest) -> tuple[dict[str, Piece], list[str], Released]:
    """What a release folder holds of each component, what of it cannot be counted and why, and the
    statement to sign. A file that is gone or changed takes its whole component with it.

    Raises ``NotFoundError``, ``MalformedError`` and ``StorageError`` naming the file.
    """
    path = folder / RELEASE
    release = _parse(path)
    if release.model != manifest.digest:
        raise MalformedError(
            f"{path} is the release of {release.model[:19]}..., and {manifest.name} is "
            f"{manifest.digest[:19]}...: name the folder that was written for this model",
            file=str(path),
        )
    pieces, faults, parts = {}, [], []
    for key, part in sorted(release.components.items()):
        if key not in BY_KEY:
            known = ", ".join(BY_KEY)
            raise MalformedError(
                f"{path}: {key!r} is no component. Known are {known}", file=str(path)
            )
        wrong = [fault for file in part.files if (fault := _fault(folder, file))]
        if wrong:
            faults.append(f"{BY_KEY[key].title}: {wrong[0]}")
            continue
        pieces[key] = Piece(licence=part.licence, where=part.where, by="disk")
        parts.append(
            ReleasedPart(component=key, licence=part.licence, where=part.where, digest=part.digest)
        )
    return pieces, faults, Released(made=now(), framework=FRAMEWORK, parts=tuple(parts))


def write_release(folder: Path, model: str, components: Mapping[str, ReleasePart]) -> Path:
    """Write ``release.json`` into a folder. Raises ``StorageError``."""
    release = Release(format=FORMAT, model=model, components=dict(components))
    path = folder / RELEASE
    try:
        path.write_bytes(
            msgspec.json.format(msgspec.json.encode(release, order="sorted"), indent=1)
        )
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}") from error
    return path


def hashed(folder: Path, paths: Iterable[str], root: str = "release") -> tuple[ReleaseFile, ...]:
    """The files of one component with their digests, for ``write_release``. Paths are relative to
    ``folder``, or to the installed package for the root ``freehold``."""
    base = folder if root == "release" else package()
    return tuple(
        ReleaseFile(path=path, sha256=_sha256(base / path), root=cast("Any", root))
        for path in sorted(paths)
    )


def package() -> Path:
    """Where the installed package lies."""
    return Path(str(files("freehold")))


def _parse(path: Path) -> Release:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_RELEASE + 1)
    except FileNotFoundError:
        raise NotFoundError(
            f"there is no {path}: a release folder has one, which says what it holds of which "
            "component",
            param="release",
        ) from None
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror}") from error
    value = strictjson.parse(data, file=str(path), max_bytes=MAX_RELEASE)
    try:
        release = msgspec.convert(value, Release)
    except msgspec.ValidationError as error:
        raise MalformedError(f"{path} is no release: {error}", file=str(path)) from None
    for part in release.components.values():
        for entry in part.files:
            contents.safe_path(entry.path)
    return release


def _fault(folder: Path, file: ReleaseFile) -> str | None:
    base = (folder if file.root == "release" else package()).resolve()
    path = base / file.path
    if not path.resolve().is_relative_to(base) or not path.is_file():
        return f"{file.path} is not there"
    try:
        found = _sha256(path)
    except OSError as error:
        return f"{file.path} cannot be read: {error.strerror}"
    return None if found == file.sha256 else f"{file.path} is not the file that was listed"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

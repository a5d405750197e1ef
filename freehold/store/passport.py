"""The passport: what is known of one model, as signed statements, only ever added to.

``passports/HEX.jsonl`` in the vault, HEX being the model's digest: one DSSE envelope per line. The
same bytes have the same passport under whatever name they were admitted, and keep it when the model
is removed. A reader tolerates nothing: a line that is no statement about this very model, or one
without its line end, is an error that names the line. What pull knows by itself stands in the
manifest; here stands only what somebody signed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, cast

import msgspec

from freehold import __version__
from freehold.errors import MalformedError, SignatureError, UsageError
from freehold.signing import dsse
from freehold.signing.dsse import Envelope
from freehold.signing.keys import PublicKey
from freehold.store import statements
from freehold.store.digest import sync_directory
from freehold.store.licences import about
from freehold.store.manifest import Manifest
from freehold.store.statements import Predicate, Statement
from freehold.store.vault import Store, disk_errors

if TYPE_CHECKING:
    from freehold.store.packs import Record
    from freehold.types import Attestation

MAX_PASSPORT = 64 << 20

Trust: TypeAlias = Mapping[str, PublicKey]
"""The keys whose word counts, by the owner's names for them."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line. ``signers`` are the trusted keys that signed it; ``others`` the ids of keys that
    are not trusted here, whose signatures nobody has checked."""

    line: int
    envelope: Envelope
    statement: Statement
    signers: tuple[str, ...]
    others: tuple[str, ...]

    @property
    def predicate(self) -> Predicate:
        return self.statement.predicate


def path_of(store: Store, digest: str) -> Path:
    """Where the passport of the model with ``digest`` lies, or would lie."""
    return store.root / "passports" / f"{digest.removeprefix('sha256:')}.jsonl"


def read(store: Store, digest: str, trust: Trust) -> list[Entry]:
    """Every entry, oldest first; none if nobody has said anything yet.

    Raises ``MalformedError`` or ``SignatureError`` naming file and line.
    """
    return _entries(_bytes(store, digest), digest, trust, path_of(store, digest))


def append(store: Store, digest: str, envelopes: Sequence[Envelope], trust: Trust) -> list[Entry]:
    """Add envelopes and return their entries. Those it has already are not added again.

    Nothing is added to a passport that cannot be read, nor an envelope that could not be read
    back. Readers see the old file or the new one, never a half. Raises as ``read`` does, and
    ``StorageError``.
    """
    path = path_of(store, digest)
    with store.lock(None):
        held = _bytes(store, digest)
        entries = _entries(held, digest, trust, path)
        known = {dsse.encode(entry.envelope) for entry in entries}
        lines = [line for line in map(dsse.encode, envelopes) if line not in known]
        whole = held + b"".join(line + b"\n" for line in dict.fromkeys(lines))
        added = _entries(whole, digest, trust, path)[len(entries) :]
        if added:
            _write(path, store.root, whole)
    return added


def first_statements(manifest: Manifest) -> list[Predicate]:
    """What pull knows of a model: its source, and its licence."""
    made = statements.now()
    source = statements.Source(
        made=made,
        source=manifest.source,
        repository=manifest.repository,
        revision=manifest.revision,
        attested=cast("Attestation", manifest.attested),
        admitted=manifest.admitted,
        files=tuple(
            statements.File(path=file.path, size=file.size, sha256=file.sha256, blake3=file.blake3)
            for file in manifest.files
        ),
    )
    return [source, licence_said(manifest.licence, made)]


def licence_said(id: str, made: str) -> statements.LicenceSaid:
    """The statement that a model is under the licence ``id``, with what Freehold knows of it."""
    licence = about(id)
    return statements.LicenceSaid(
        made=made, licence=id, commercial=licence.commercial, facts=licence.facts
    )


def packing_said(record: Record) -> Predicate:
    """The statement of what a pack was made of and how."""
    quality = record.quality
    measured = quality and {**asdict(quality), "kl": float(quality.kl)}
    said = {
        "made": statements.now(),
        "layout": record.layout,
        "weights": record.weights,
        "size": record.size,
        "blake3": record.blake3,
        "quality": measured,
        "tool": f"freehold {__version__}",
    }
    return statements.predicate_of(statements.Packing, said, file="the record of the pack")


def same_but_time(one: Predicate, other: Predicate) -> bool:
    """Whether two statements say the same, be it at different times."""
    return type(one) is type(other) and msgspec.structs.replace(other, made=one.made) == one


def envelopes_in(data: bytes, *, file: str) -> list[Envelope]:
    """The envelopes of a file that was signed elsewhere: one per line, or one in all, its JSON
    spread over lines or not. Raises ``MalformedError``."""
    if len(data) > MAX_PASSPORT:
        raise MalformedError(f"{file} has more than {MAX_PASSPORT:,} bytes", file=file)
    lines = [line for line in data.splitlines() if line.strip()]
    try:
        return [dsse.decode(line, file=f"{file}, line {n}") for n, line in enumerate(lines, 1)]
    except MalformedError:
        if len(lines) < 2:
            raise
    return [dsse.decode(data, file=file)]


def _bytes(store: Store, digest: str) -> bytes:
    path = path_of(store, digest)
    with disk_errors(store.root):
        try:
            with path.open("rb") as file:
                data = file.read(MAX_PASSPORT + 1)
        except FileNotFoundError:
            return b""
    if len(data) > MAX_PASSPORT:
        raise MalformedError(f"{path} has more than {MAX_PASSPORT:,} bytes", file=str(path))
    return data


def _entries(data: bytes, digest: str, trust: Trust, path: Path) -> list[Entry]:
    *lines, rest = data.split(b"\n")
    if rest:
        where = f"{path}, line {len(lines) + 1}"
        raise MalformedError(
            f"{where} is cut off: it has no line end. Restore the file from a copy, or remove that "
            "line and say again what it said.",
            file=str(path),
        )
    return [_entry(line, n, digest, trust, path) for n, line in enumerate(lines, 1)]


def _entry(line: bytes, n: int, digest: str, trust: Trust, path: Path) -> Entry:
    where = f"{path}, line {n}"
    envelope = dsse.decode(line, file=where)
    statement = statements.read(envelope, file=where)
    if statement.digest != digest:
        raise MalformedError(
            f"{where} speaks of another model ({statement.digest[:23]}..., not {digest[:23]}...): "
            "it does not belong here",
            file=str(path),
        )
    try:
        signers = dsse.signers(envelope, trust)
    except SignatureError as error:
        raise SignatureError(f"{where}: {error}") from None
    known = {key.key_id for key in trust.values()}
    others = tuple(s.key_id for s in envelope.signatures if s.key_id not in known)
    return Entry(line=n, envelope=envelope, statement=statement, signers=signers, others=others)


def _write(path: Path, root: Path, data: bytes) -> None:
    if len(data) > MAX_PASSPORT:
        raise UsageError(f"{path} would have more than {MAX_PASSPORT:,} bytes", param="model")
    fresh = path.with_suffix(".fresh")
    with disk_errors(root, "Nothing was added. Free some space and try again."):
        path.parent.mkdir(parents=True, exist_ok=True)
        with fresh.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
        sync_directory(path.parent)

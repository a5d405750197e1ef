"""The walk: from a model's source to what answers for it, one link after the other.

    lineage   each model that it was made of, oldest first, as trusted keys stated it
    source    where its bytes came from, and who vouches for their digests
    file      each file, every byte read
    model     its digest over all files, which names it everywhere
    pack      its weights as the kernels hold them, every byte read
    serve     what an answer says it comes from

A link is checked against the one before. The first that does not hold ends the walk with an
``IntegrityError`` whose ``link`` names it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from freehold.errors import DigestError, IntegrityError, SignatureError
from freehold.store import lineage
from freehold.store.lineage import Link
from freehold.store.manifest import Manifest
from freehold.store.packs import Packs, Record
from freehold.store.passport import Entry, Trust
from freehold.store.statements import Packing, Source, Weights
from freehold.store.vault import Store
from freehold.store.verify import check_pins, verify

VOUCHED = {
    "catalog": "pinned in the catalog",
    "hub": "attested by the hub",
    "owner": "attested by the owner",
}

Rebuild = Callable[[str], str]
"""Packs what the weights were chosen to be (``file``, ``8bit``, ``4bit``) once more from the
source; the BLAKE3 of what came out."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One link that holds: its ``kind`` (see above), what it is called, its digest with the name of
    the function in front, and what is known of it, a sentence each. ``signers`` are the trusted
    keys that vouch for it."""

    kind: str
    name: str
    digest: str
    told: tuple[str, ...]
    signers: tuple[str, ...] = ()


def walk(
    store: Store,
    name: str,
    packs: Packs,
    trust: Trust,
    *,
    layout: str,
    numerics: str,
    rebuild: Rebuild | None = None,
) -> Iterator[Step]:
    """Every link of the model ``name``, checked as it is handed out; the last is what ``serve``
    answers with.

    ``layout`` and ``numerics`` are this version's recipe for packs and its arithmetic. With
    ``rebuild`` the pack is made once more and must be the same to the bit. Raises
    ``NotFoundError``; ``IntegrityError`` with ``link`` set to the kind that is broken;
    ``StorageError``.
    """
    with _link("source"):
        manifest = store.manifest(name)
        check_pins(manifest)
    with _link("lineage"):
        own, *parents = lineage.chain(store, manifest, trust)
    for link in reversed(parents):
        with _link("lineage"):
            if link.manifest is not None:
                check_pins(link.manifest)
        yield _ancestor(link)
    with _link("source"):
        yield _source(manifest, own)
    with _link("file"):
        verify(store, name, keep=False)
    for file in manifest.files:
        yield Step(
            kind="file",
            name=file.path,
            digest=f"sha256:{file.sha256}",
            told=(f"{file.size:,} bytes, every one read", f"blake3:{file.blake3}"),
        )
    yield Step(
        kind="model",
        name=name,
        digest=manifest.digest,
        told=("the SHA-256 over its files' paths, sizes and SHA-256s", *_made(own)),
        signers=_signers(own.entries, Weights),
    )
    record = None
    with _link("pack"):
        if packs.open(name, layout=layout) is not None:
            record = packs.record(name)
            assert record is not None, "it was just opened"
            yield _pack(record, own.entries, rebuild)
    yield _answers(manifest, record, numerics)


@contextmanager
def _link(kind: str) -> Iterator[None]:
    try:
        yield
    except IntegrityError as error:
        error.link = kind
        raise


def _ancestor(link: Link) -> Step:
    known = {
        "vault": "in the vault; `freehold verify` with its name reads its bytes",
        "passport": "not in the vault: known by its passport alone",
        "unknown": "not in the vault, and without a passport: nothing is known of it here",
    }[link.state]
    return Step(
        kind="lineage",
        name=link.name,
        digest=link.digest,
        told=(known, *_made(link)),
        signers=link.signers,
    )


def _made(link: Link) -> tuple[str, ...]:
    if link.made is None:
        return ()
    made = link.made
    parents = ", ".join(f"{one.name} ({one.digest[:19]})" for one in made.parents)
    deltas = "".join(f", with {one.name} ({one.digest[:19]})" for one in made.deltas)
    return (f"{made.relation} of {parents or 'no other model'}{deltas}, by {made.tool}",)


def _source(manifest: Manifest, own: Link) -> Step:
    """Its digests are those of the manifest: no signed statement may have others."""
    files = {(f.path, f.size, f.sha256, f.blake3) for f in manifest.files}
    for entry in own.entries:
        said = entry.predicate
        if not (isinstance(said, Source) and entry.signers):
            continue
        if {(f.path, f.size, f.sha256, f.blake3) for f in said.files} != files:
            raise DigestError(
                f"{', '.join(entry.signers)} signed other digests of {manifest.name} than its "
                f"manifest has (line {entry.line} of its passport): one of the two was forged. "
                f"Remove the model (`freehold rm {manifest.name}`) and pull it again.",
                file="manifest",
            )
    where = " ".join(filter(None, (manifest.repository, manifest.revision[:12])))
    return Step(
        kind="source",
        name=manifest.source,
        digest="",
        told=(
            f"{where or 'files'} admitted {manifest.admitted}, licence {manifest.licence}",
            f"digests {VOUCHED[manifest.attested]}",
        ),
        signers=_signers(own.entries, Source),
    )


def _pack(record: Record, entries: tuple[Entry, ...], rebuild: Rebuild | None) -> Step:
    """Every key that signed a pack by this recipe must have signed this one: there is but one."""
    told = [f"{record.size:,} bytes, every one read", _chosen(record), "sealed on this machine"]
    if rebuild is not None:
        again = rebuild(record.weights)
        if again != record.blake3:
            raise DigestError(
                f"the pack is not what its source gives: packed again, the BLAKE3 is {again[:16]}"
                f"..., not {record.blake3[:16]}.... Make it again with `freehold pack --again`",
                file=f"{record.blake3}.pack",
            )
        told.append("derived: packed again from the source, and the same bit for bit")
    signers: list[str] = []
    for entry in entries:
        said = entry.predicate
        if not isinstance(said, Packing) or said.layout != record.layout:
            continue
        if said.weights != record.weights:
            continue
        if entry.signers and (said.size, said.blake3) != (record.size, record.blake3):
            raise SignatureError(_another(entry, said, record, rebuilt=rebuild is not None))
        signers += entry.signers
    return Step(
        kind="pack",
        name=record.layout,
        digest=f"blake3:{record.blake3}",
        told=tuple(told),
        signers=tuple(dict.fromkeys(signers)),
    )


def _another(entry: Entry, said: Packing, record: Record, *, rebuilt: bool) -> str:
    next_step = (
        "The one here is what the source gives: do not trust that statement"
        if rebuilt
        else "`freehold verify --rebuild` says whether the one here is what the source gives"
    )
    return (
        f"the pack is not the one that {', '.join(entry.signers)} signed (line {entry.line} of the "
        f"passport: BLAKE3 {said.blake3[:16]}..., here {record.blake3[:16]}...), though one recipe "
        f"gives one pack. {next_step}"
    )


def _chosen(record: Record) -> str:
    if record.weights == "file":
        return "the file's own codes, laid out anew"
    rounded = f"weights rounded to {record.weights.removesuffix('bit')} bits"
    if record.quality is None:
        return f"{rounded}, mean KL not measured"
    return (
        f"{rounded}, mean KL {record.quality.kl} nats per token over {record.quality.tokens:,} "
        f"tokens against {record.quality.reference}"
    )


def _answers(manifest: Manifest, record: Record | None, numerics: str) -> Step:
    held = "the pack" if record is not None else "a pack that the first start makes"
    return Step(
        kind="serve",
        name=manifest.name,
        digest=manifest.digest,
        told=(f"computed from {held} by {numerics}", "answers and /v1/models name this digest"),
    )


def _signers(entries: tuple[Entry, ...], kind: type[Source | Weights]) -> tuple[str, ...]:
    said = [entry for entry in entries if isinstance(entry.predicate, kind)]
    return tuple(sorted({name for entry in said for name in entry.signers}))

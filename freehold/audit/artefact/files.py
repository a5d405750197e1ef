"""The files themselves: whose digests they have, what kinds they are, under which licence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath

from freehold.audit.artefact.facts import SHAPES
from freehold.audit.findings import Finding, Severity
from freehold.audit.noting import fact
from freehold.audit.specimen import Specimen
from freehold.qwen.config import Config
from freehold.store import contents, licences, refuse
from freehold.store.catalog import CatalogFile, catalog
from freehold.store.passport import Entry
from freehold.store.statements import Source, Weights

_MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (0, b"PK\x03\x04", "a zip archive, as PyTorch makes of pickles"),
    (0, b"\x7fELF", "a program (ELF)"),
    (0, b"MZ", "a program (PE)"),
    (0, b"#!", "a script"),
    (0, b"\xcf\xfa\xed\xfe", "a program (Mach-O)"),
    (0, b"\x89HDF", "HDF5, which Keras loads code from"),
    (0, b"\x93NUMPY", "a NumPy file, which may hold a pickle"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"BZh", "a bzip2 archive"),
    (0, b"\xfd7zXZ", "an xz archive"),
    (0, b"7z\xbc\xaf", "a 7z archive"),
    (257, b"ustar", "a tar archive"),
    (0, b"\x00asm", "a program (WebAssembly)"),
)
_CODE = frozenset(
    (".pyd", ".pyx", ".bat", ".cmd", ".ps1", ".jar", ".js", ".mjs", ".wasm", ".tar", ".zip",
     ".msgpack", ".onnx", ".pb", ".mar", ".nemo", ".rb", ".pl", ".php", ".desktop", ".service",
     ".whl", ".egg", ".ipynb", ".dill", ".cloudpickle")
)  # fmt: skip
"""Kinds that hold code or unpack to it, beside those that the store refuses."""
_BY_USE: Mapping[licences.Commercial, Severity] = {
    "yes": "info",
    "on condition": "low",
    "no": "medium",
    "unknown": "low",
}
_HARMLESS = frozenset(
    {".md", ".txt", ".jinja", ".json", ".png", ".jpg", ".jpeg", ".svg", ".pdf", ""}
)


def examine(specimen: Specimen, config: Config | None, entries: Sequence[Entry]) -> list[Finding]:
    """Findings on digests, kinds of files and the licence. ``entries`` are the passport's."""
    return [
        *specimen.findings,
        *_digests(specimen),
        *_kinds(specimen),
        *_signed(entries),
        *_licence(specimen, config),
    ]


# --- digests --------------------------------------------------------------------------------------


def _digests(specimen: Specimen) -> Iterator[Finding]:
    if specimen.manifest is not None:
        yield from _vault(specimen)
        return
    known = _by_digest()
    for path, sha256 in specimen.sha256.items():
        if sha256 in known:
            told = f"{path} is byte for byte the catalog's file of {known[sha256]}."
            yield fact("files.digest", "info", "A file of the catalog", told, path)
    for name, file in _catalog_files():
        for path, sha256 in specimen.sha256.items():
            if PurePosixPath(path).name == PurePosixPath(file.path).name and sha256 != file.sha256:
                told = f"It is called as the catalog's file of {name}, and has other bytes."
                yield fact("files.digest", "high", "Not the file it is called", told, path)
    if not any(sha256 in known for sha256 in specimen.sha256.values()):
        told = "No digest of it is in the catalog, and it did not come through the vault."
        yield fact("files.unvouched", "low", "Nobody vouches for these bytes", told, specimen.name)


def _vault(specimen: Specimen) -> Iterator[Finding]:
    assert specimen.manifest is not None, "looked at before"
    manifest = specimen.manifest
    damaged = [
        file.path for file in manifest.files if specimen.sha256.get(file.path) != file.sha256
    ]
    for path in damaged:
        told = "It does not have the SHA-256 that was admitted: changed or damaged since."
        yield fact("files.digest", "critical", "Bytes are not what was admitted", told, path)
    pinned = catalog().get(specimen.name)
    if pinned is not None and not damaged:
        held = {(file.path, file.sha256) for file in pinned.files}
        same = held == {(path, sha256) for path, sha256 in specimen.sha256.items()}
        if same:
            told = f"Byte-identical to {specimen.name} of the catalog ({pinned.repository})."
            yield fact(
                "files.digest", "info", "Byte-identical to the catalog's", told, specimen.name
            )
        else:
            told = f"It is called {specimen.name}, as the catalog's model, and has other files."
            yield fact(
                "files.digest", "critical", "Not the model it is called", told, specimen.name
            )
    elif not damaged:
        who = {"hub": "the hub's word", "owner": "the owner's word"}
        vouched = who.get(manifest.attested, manifest.attested)
        told = f"As admitted on {manifest.admitted} on {vouched}; not in the catalog."
        yield fact("files.digest", "info", "As it was admitted", told, specimen.name)


def _catalog_files() -> Iterator[tuple[str, CatalogFile]]:
    for name, model in catalog().items():
        for file in model.files:
            yield name, file


def _by_digest() -> Mapping[str, str]:
    return {file.sha256: name for name, file in _catalog_files()}


def _signed(entries: Sequence[Entry]) -> Iterator[Finding]:
    for entry in entries:
        said = entry.predicate
        if isinstance(said, Weights | Source) and entry.signers:
            told = f"{said.gist()}, signed by {', '.join(entry.signers)} on {said.made}."
            where = f"passport, line {entry.line}"
            yield fact("files.signed", "info", f"A trusted key vouches ({said.kind})", told, where)


# --- kinds ----------------------------------------------------------------------------------------


def _kinds(specimen: Specimen) -> Iterator[Finding]:
    for path, what in specimen.others.items():
        severity: Severity = "low" if what == "empty" else "high"
        title = "An empty file" if what == "empty" else "An entry that is no file"
        yield fact("files.kind", severity, title, f"It is {what}, and was not opened.", path)
    for path, view in specimen.files.items():
        disguise = _disguised(view, path)
        suffixes = {each.lower() for each in PurePosixPath(path).suffixes[-2:]}
        if refuse.carries_code(path) or suffixes & _CODE:
            told = "Files of this kind can run code when they are loaded. It was not opened."
            yield fact("files.code", "critical", "A file that can run code", told, path)
        elif disguise:
            told = f"By its first bytes it is {disguise}, whatever its name says."
            yield fact("files.disguise", "critical", "A file in disguise", told, path)
        elif not _expected(path):
            told = "No program of ours reads it; others may."
            yield fact("files.stranger", "low", "A file that no model needs", told, path)


def _disguised(view: memoryview, path: str) -> str:
    head = bytes(view[:300])
    if head[:1] == b"\x80" and len(head) > 1 and 2 <= head[1] <= 5 and head[8:9] != b"{":
        return "a pickle"
    if _old_pickle(bytes(view[:64]), bytes(view[-2:]), path):
        return "a pickle of the first protocol"
    for at, magic, what in _MAGIC:
        if head[at : at + len(magic)] == magic:
            return what
    return ""


def _old_pickle(head: bytes, tail: bytes, path: str) -> bool:
    """Protocols 0 and 1 have no first byte of their own: a global or a mark, and a stop at the end.
    Only where no text is expected."""
    kind = PurePosixPath(path).suffix
    return kind in (".safetensors", ".gguf") and head[:1] in b"c(}]" and tail[-1:] == b"."


def _expected(path: str) -> bool:
    name = PurePosixPath(path)
    if path in contents.DOCUMENTS or name.suffix in (".gguf", ".safetensors"):
        return True
    return not name.name.startswith(".") and name.suffix.lower() in _HARMLESS


# --- licence --------------------------------------------------------------------------------------


def _licence(specimen: Specimen, config: Config | None) -> Iterator[Finding]:
    stated = specimen.metadata.get("general.license")
    if specimen.manifest is not None:
        id = specimen.manifest.licence
        if specimen.name in catalog():
            id = catalog()[specimen.name].licence
    else:
        id = licences.published(stated or "", specimen.metadata.get("general.license.name"))
    known = licences.about(id)
    severity = _BY_USE[known.commercial]
    told = " ".join((f"{known.title}; commercial use: {known.commercial}.", *known.facts))
    title = "No licence is stated" if id == licences.UNKNOWN_LICENCE else f"Licence {id}"
    yield fact("files.licence", severity, title, told, specimen.name)
    if isinstance(stated, str) and specimen.manifest is not None:
        own = licences.published(stated, specimen.metadata.get("general.license.name"))
        if own not in (id, licences.UNKNOWN_LICENCE):
            told = f"The file says {own}, the vault {id}."
            yield fact("files.licence", "medium", "Two licences are stated", told, specimen.name)
    shape = None
    if config is not None:
        shape = SHAPES.get((config.family, config.n_layers, config.width, config.mlp_width))
    if shape is not None and shape.licence not in (id, "Apache-2.0"):
        told = f"A model of the shape of {shape.name}, which is published under {shape.licence}."
        yield fact("files.licence", "medium", "The licence of that shape is another", told, "")

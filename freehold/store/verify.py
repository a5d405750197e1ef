"""From admitted bytes to a ``VerifiedModel``: the only place that makes one.

Each file is opened once. The mapping that is digested is the mapping whose bytes are handed out, so
no one can swap the file between the check and the use.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

from freehold.errors import DigestError
from freehold.store import contents
from freehold.store.catalog import catalog
from freehold.store.contents import Contents
from freehold.store.digest import both_of, damaged_chunk, map_file, root_of
from freehold.store.manifest import Manifest, ManifestFile
from freehold.store.vault import Store, disk_errors

if TYPE_CHECKING:
    from freehold.types import Attestation, RawTensor, VerifiedModel


def verify(store: Store, name: str, *, keep: bool = True) -> VerifiedModel:
    """Digest every byte of an admitted model, read it strictly and hand it out.

    Without ``keep``, what was digested does not stay in this process's memory: for whoever wants
    only the small parts. It comes back if it is read.

    Raises ``NotFoundError``; ``DigestError`` naming the file, the first damaged chunk and its byte
    range; ``MalformedError`` or ``RefusedError``; ``StorageError`` if the disk fails.
    """
    # numpy takes 80 ms to import; listing and removing models need none of it.
    from freehold.types import VerifiedModel

    manifest = store.manifest(name)
    check_pins(manifest)
    # A model's digest is made of SHA-256s. The catalog pins the BLAKE3s of its models as well; for
    # others only the manifest ties the two together, and whoever writes it can untie them.
    both = manifest.attested != "catalog"
    maps = {file.path: _checked_map(store, file, name, keep, both) for file in manifest.files}
    found = contents.examine({path: memoryview(mapping) for path, mapping in maps.items()})
    return VerifiedModel(
        name=name,
        digest=manifest.digest,
        format=found.format,
        licence=manifest.licence,
        attested=cast("Attestation", manifest.attested),
        metadata=found.metadata,
        documents={path: bytes(maps[path]) for path in found.documents},
        tensors=_tensors(found, maps),
    )


def unproven(files: Mapping[str, memoryview], name: str, digest: str) -> VerifiedModel:
    """A model under examination, which the vault has not admitted: read as strictly as any, but its
    ``digest`` is only what its bytes came to. For the laboratory: nothing may answer from it.

    ``files`` are mapped bytes by path; those that are no part of a model are left out. Raises
    ``UsageError``, ``MalformedError`` or ``RefusedError``.
    """
    from freehold.types import VerifiedModel

    chosen = contents.choose(list(files), wanted=None, where=name)
    found = contents.examine({path: files[path] for path in chosen})
    return VerifiedModel(
        name=name,
        digest=digest,
        format=found.format,
        licence="",
        attested="owner",
        metadata=found.metadata,
        documents={path: bytes(files[path]) for path in found.documents},
        tensors=_tensors(found, files),
    )


def check_pins(manifest: Manifest) -> None:
    """A catalog model's digests must be the catalog's, whatever its manifest says by now."""
    model = catalog().get(manifest.name)
    pinned = {(f.path, f.size, f.sha256, f.blake3) for f in model.files} if model else None
    found = {(f.path, f.size, f.sha256, f.blake3) for f in manifest.files}
    claims = manifest.attested == "catalog"
    if (pinned is not None or claims) and (pinned != found or not claims):
        raise DigestError(
            f"The manifest of {manifest.name} does not agree with the catalog. "
            f"Remove the model (`freehold rm {manifest.name}`) and pull it again.",
            file="manifest",
        )


def _checked_map(store: Store, file: ManifestFile, name: str, keep: bool, both: bool) -> mmap.mmap:
    """Map one blob and digest the mapping, with SHA-256 too for ``both``."""
    again = f"Remove the model (`freehold rm {name}`) and pull it again."
    with disk_errors(store.root):
        try:
            descriptor = os.open(
                store.blob(file.sha256), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
            )
        except FileNotFoundError:
            raise DigestError(
                f"{file.path} is gone from the store. {again}", file=file.path
            ) from None
        try:
            size = os.fstat(descriptor).st_size
            if size != file.size:
                raise DigestError(
                    f"{file.path} has {size:,} bytes, not {file.size:,}. {again}", file=file.path
                )
            mapping = map_file(descriptor, size)
        finally:
            os.close(descriptor)
    root, sha256 = both_of(mapping, keep=keep) if both else (root_of(mapping, keep=keep), None)
    if root != file.blake3:
        raise _damage(mapping, file, again)
    if sha256 not in (None, file.sha256):
        raise DigestError(
            f"{file.path} does not have its SHA-256, though its BLAKE3 fits the manifest: the "
            f"manifest was changed too. {again}",
            file=file.path,
        )
    return mapping


def _damage(mapping: mmap.mmap, file: ManifestFile, again: str) -> DigestError:
    chunk = damaged_chunk(mapping, file.chunks)
    if chunk is None:
        return DigestError(
            f"{file.path} does not have its digest, though each chunk fits the manifest: the "
            f"manifest was changed too. {again}",
            file=file.path,
        )
    start = chunk * file.chunk_size
    stop = min(start + file.chunk_size, file.size)
    return DigestError(
        f"{file.path} is damaged in chunk {chunk} (bytes {start:,} to {stop - 1:,}): it is not "
        f"what was admitted, and is not loaded. {again} If it happens again, test disk and memory.",
        file=file.path,
        chunk=chunk,
    )


def _tensors(found: Contents, maps: Mapping[str, mmap.mmap | memoryview]) -> dict[str, RawTensor]:
    import numpy as np

    from freehold.types import RawTensor

    tensors = {}
    for path, spans in found.tensors.items():
        data = np.frombuffer(maps[path], dtype=np.uint8)
        for span in spans:
            tensors[span.name] = RawTensor(
                name=span.name,
                dtype=span.dtype,
                shape=span.shape,
                data=data[span.start : span.stop],
            )
    return tensors

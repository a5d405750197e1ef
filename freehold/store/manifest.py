"""The manifest: what was admitted, from where, on whose word, with every digest.

On disk it is canonical JSON, ``{"digest": ..., "manifest": {...}}``. ``digest`` is the SHA-256 of
the canonical inner part, so that damage to the file is found; whoever can rewrite it can rewrite
both, which is why a catalog model's digests are compared with the catalog at every load.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, cast

import msgspec

from freehold import strictjson
from freehold.errors import DigestError, MalformedError
from freehold.store import contents
from freehold.store.digest import CHUNK

MAX_MANIFEST = 64 << 20
_HEX = frozenset("0123456789abcdef")
_ATTESTED = ("catalog", "hub", "owner")


@dataclass(frozen=True, kw_only=True)
class ManifestFile:
    """One file: ``size`` and ``chunk_size`` in bytes, digests in lower-case hex. ``blake3`` is the
    root over the whole file, ``chunks`` the BLAKE3 of each ``chunk_size`` bytes."""

    path: str
    size: int
    sha256: str
    blake3: str
    chunk_size: int
    chunks: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """One admitted model.

    ``source`` is where the bytes came from; ``repository`` and ``revision`` what they were called
    there (empty if the owner brought them). ``licence`` is an SPDX id, ``NOASSERTION`` if nobody
    said. ``attested`` (``catalog``, ``hub``, ``owner``) is whose word the digests are; ``admitted``
    is the time, RFC 3339 in UTC.
    """

    name: str
    source: str
    repository: str
    revision: str
    licence: str
    attested: str
    admitted: str
    files: tuple[ManifestFile, ...]

    @property
    def digest(self) -> str:
        """``sha256:`` and the SHA-256 over path, size and SHA-256 of each file, in order of path:
        the same bytes have the same digest on every machine, from every source."""
        files = sorted((file.path, file.size, file.sha256) for file in self.files)
        return "sha256:" + hashlib.sha256(strictjson.canonical(files)).hexdigest()

    @property
    def adapter(self) -> bool:
        """Whether it is an adapter, a change of a model that lies elsewhere."""
        return {file.path for file in self.files} >= set(contents.ADAPTER)

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(file.size for file in self.files)


def encode(manifest: Manifest) -> bytes:
    """The bytes that go on disk."""
    inner = asdict(manifest)
    digest = hashlib.sha256(strictjson.canonical(inner)).hexdigest()
    return strictjson.canonical({"digest": digest, "manifest": inner})


def decode(data: bytes, *, file: str) -> Manifest:
    """Read what ``encode`` wrote, and nothing else.

    Raises ``MalformedError`` for another structure, ``DigestError`` if the content was changed.
    """
    envelope = strictjson.parse(data, file=file, max_bytes=MAX_MANIFEST)
    try:
        manifest = msgspec.convert(cast("Mapping[str, Any]", envelope)["manifest"], Manifest)
    except (msgspec.ValidationError, KeyError, TypeError) as error:
        raise MalformedError(f"{file} is not a manifest: {error}.", file=file) from None
    # One comparison finds unknown members, another order and a wrong digest alike.
    if encode(manifest) != data:
        raise DigestError(
            f"{file} is not what Freehold wrote: its digest does not fit its content. "
            "Remove the model and pull it again.",
            file=file,
        )
    paths = [contents.safe_path(entry.path) for entry in manifest.files]
    if len(set(paths)) != len(paths) or manifest.attested not in _ATTESTED:
        raise MalformedError(f"{file} makes no sense: get the model again.", file=file)
    for entry in manifest.files:
        _check(entry, file)
    return manifest


def _check(entry: ManifestFile, file: str) -> None:
    digests = (entry.sha256, entry.blake3, *entry.chunks)
    sound = all(len(digest) == 64 and set(digest) <= _HEX for digest in digests)
    if not sound or entry.size < 1 or entry.chunk_size != CHUNK:
        raise MalformedError(f"{file}: the entry of {entry.path} makes no sense.", file=file)

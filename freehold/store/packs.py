"""Packs: weights as the kernels hold them, kept on disk so that the next start only maps them.

    packs/SOURCE/DIGEST.pack    read-only; SOURCE is the model's digest, DIGEST the pack's BLAKE3
    packs/SOURCE/KEY.json       which pack belongs to the source, sealed by one installation

What a pack holds is in ``packfile``. The record pins the digest of the whole of it, and of its
head, which holds all but the weights.

A record is sealed with HMAC-SHA256 under a secret of this installation that does not lie in the
store. Whoever can write to the store and changes pack and record together is found out; who can
read the secret too is this user, or root. KEY names the secret without giving it away, so that
several installations can share a store, and each believes only its own records.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import hmac
import mmap
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn, cast

import msgspec
from blake3 import blake3

from freehold import strictjson
from freehold.errors import DigestError, MalformedError, StorageError
from freehold.store import packfile
from freehold.store.digest import map_file, root_of, sync_directory
from freehold.store.manifest import Manifest
from freehold.store.vault import Store, disk_errors
from freehold.store.verify import check_pins

if TYPE_CHECKING:
    from freehold.types import Attestation, PackedWeights, VerifiedModel

MAX_RECORD = 1 << 16
SECRET_BYTES = 32
_SEALED = b"freehold pack record\n"
_SPARE = 64 << 20  # bytes that a pack leaves free on its disk
_WITHOUT = "No pack was written: the model runs all the same, and is packed anew at each start."


@dataclass(frozen=True, kw_only=True)
class Quality:
    """How far a choice of weights is from the source's own: mean KL in nats per token over
    ``tokens`` tokens of the text with digest ``text``, against ``reference``."""

    kl: str
    tokens: int
    text: str
    reference: str


@dataclass(frozen=True, kw_only=True)
class Record:
    """What one installation says of a pack: digests in lower-case hex, sizes in bytes. ``weights``
    is the choice the pack was made with (``file``, ``8bit``, ``4bit``)."""

    source: str
    layout: str
    weights: str
    size: int
    blake3: str
    head_size: int
    head_blake3: str
    quality: Quality | None


class Packs:
    """The packs of a store, as the installation with the secret in file ``secret`` may use them.

    The file is made, for this user alone, when the first pack is written.
    """

    def __init__(self, store: Store, secret: Path) -> None:
        self._store = store
        self._secret = secret

    # --- reading ----------------------------------------------------------------------------------

    def open(self, name: str, *, layout: str) -> VerifiedModel | None:
        """The model with its packed weights, every byte digested; ``None`` where there is no pack
        of this layout (or no secret) and one has to be made from the source.

        Raises ``NotFoundError``; ``DigestError`` where pack or record is not what was sealed, or
        manifest and catalog disagree; ``MalformedError``; ``StorageError``.
        """
        return self._open(name, layout, whole=True)

    def open_head(self, name: str, *, layout: str) -> VerifiedModel | None:
        """As ``open``, without weights, of which no byte is read."""
        return self._open(name, layout, whole=False)

    def record(self, name: str) -> Record | None:
        """This installation's record of the model, whatever its layout. Raises as ``open``."""
        manifest = self._store.manifest(name)
        key = self._read_secret()
        return None if key is None else self._record(manifest, key)

    def _open(self, name: str, layout: str, *, whole: bool) -> VerifiedModel | None:
        from freehold.types import VerifiedModel

        manifest = self._store.manifest(name)
        check_pins(manifest)
        key = self._read_secret()
        record = None if key is None else self._record(manifest, key)
        if record is None or record.layout != layout:
            return None
        path = self._store.packs / _folder_name(manifest.digest) / f"{record.blake3}.pack"
        mapping = self._map(path, record, name)
        if mapping is None:
            return None
        with memoryview(mapping)[: record.head_size] as head:
            right = (
                root_of(mapping) == record.blake3
                if whole
                else blake3(head).hexdigest() == record.head_blake3
            )
            if not right:
                self._refuse(path, name, "is not what was sealed: it has been changed or damaged")
        header, pieces = packfile.parse(memoryview(mapping), file=str(path))
        if (header.source, header.layout, header.weights, pieces.head) != (
            manifest.digest, layout, record.weights, record.head_size
        ):  # fmt: skip
            self._refuse(path, name, "speaks of another model than its record")
        return VerifiedModel(
            name=name,
            digest=manifest.digest,
            format=header.format,
            licence=manifest.licence,
            attested=cast("Attestation", manifest.attested),
            metadata=pieces.metadata(mapping),
            documents={n: mapping[a:b] for n, (a, b) in pieces.documents.items()},
            tensors={},
            packed=packfile.weights_of(header, pieces, mapping if whole else None),
        )

    def _record(self, manifest: Manifest, key: bytes) -> Record | None:
        path = self._store.packs / _folder_name(manifest.digest) / f"{_key_name(key)}.json"
        with disk_errors(self._store.root):
            try:
                with path.open("rb") as file:
                    data = file.read(MAX_RECORD + 1)
            except FileNotFoundError:
                return None
        try:
            envelope = strictjson.parse(data, file=str(path), max_bytes=MAX_RECORD)
            record = msgspec.convert(cast("Mapping[str, Any]", envelope)["record"], Record)
        except (MalformedError, msgspec.ValidationError, KeyError, TypeError):
            self._refuse(path, manifest.name, "is no record of a pack")
        # One comparison finds a wrong seal, unknown members and another order alike.
        if not hmac.compare_digest(_encode(record, key), data) or record.source != manifest.digest:
            self._refuse(path, manifest.name, "does not fit its seal: it has been changed")
        return record

    def _map(self, path: Path, record: Record, name: str) -> mmap.mmap | None:
        with disk_errors(self._store.root):
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            except FileNotFoundError:
                return None
            try:
                size = os.fstat(descriptor).st_size
                if size != record.size:
                    self._refuse(path, name, f"has {size:,} bytes, not {record.size:,}")
                return map_file(descriptor, size)
            finally:
                os.close(descriptor)

    def _refuse(self, path: Path, name: str, why: str) -> NoReturn:
        raise DigestError(
            f"The pack of {name} is refused: {path} {why}. Make it again from the verified "
            f"source with `freehold pack {name} --again`.",
            file=str(path),
        )

    # --- writing ----------------------------------------------------------------------------------

    def write(
        self,
        model: VerifiedModel,
        packed: PackedWeights,
        *,
        layout: str,
        quality: Quality | None = None,
        progress: packfile.Progress | None = None,
    ) -> Record:
        """Write ``packed``, made from the verified ``model``, and seal the record of it; what an
        earlier record of this installation named goes. Raises ``StorageError``."""
        header, pieces = packfile.lay_out(model, packed, layout)
        folder = self._store.packs / _folder_name(model.digest)
        with disk_errors(self._store.root, _WITHOUT):
            folder.mkdir(parents=True, exist_ok=True)
            _check_space(folder, packfile.size_of(pieces))
            with _fresh(folder) as (file, publish):
                size, head_size, digest, head_digest = packfile.write(
                    file, header, pieces, progress
                )
                os.fchmod(file.fileno(), 0o444)
                with self._store.lock(None):  # or another writer's sweep could come in between
                    publish(f"{digest}.pack")
                    record = Record(
                        source=model.digest,
                        layout=layout,
                        weights=packed.weights,
                        size=size,
                        blake3=digest,
                        head_size=head_size,
                        head_blake3=head_digest,
                        quality=quality,
                    )
                    self._seal(folder, record)
        return record

    @staticmethod
    def digest_of(model: VerifiedModel, packed: PackedWeights, *, layout: str) -> str:
        """The BLAKE3 that a pack of these weights would have. Nothing is written."""
        header, pieces = packfile.lay_out(model, packed, layout)
        with Path(os.devnull).open("wb") as nowhere:
            return packfile.write(nowhere, header, pieces, None)[2]

    def _seal(self, folder: Path, record: Record) -> None:
        key = self.make_secret()
        with _fresh(folder) as (file, publish):
            file.write(_encode(record, key))
            publish(f"{_key_name(key)}.json")
        _sweep(folder)

    def remove(self, name: str) -> None:
        """Forget this installation's pack of a model, whatever state it is in."""
        folder = self._store.packs / _folder_name(self._store.manifest(name).digest)
        key = self._read_secret()
        if key is None or not folder.is_dir():
            return
        with self._store.lock(None), disk_errors(self._store.root):
            (folder / f"{_key_name(key)}.json").unlink(missing_ok=True)
            _sweep(folder)

    # --- the secret -------------------------------------------------------------------------------

    def _read_secret(self) -> bytes | None:
        try:
            with self._secret.open("rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                key = file.read(SECRET_BYTES + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageError(f"{self._secret} cannot be read: {error.strerror}") from error
        if stat.S_IMODE(mode) & 0o077 or len(key) != SECRET_BYTES:
            raise DigestError(
                f"{self._secret}, which seals packs, is not {SECRET_BYTES} bytes that only you can "
                "read. Delete it: packs are then made again from their verified sources.",
                file=str(self._secret),
            )
        return key

    def make_secret(self) -> bytes:
        """The secret, made if it is not there. Raises ``StorageError``, ``DigestError``."""
        found = self._read_secret()
        if found is not None:
            return found
        with disk_errors(self._secret.parent, _WITHOUT):
            self._write_secret()
        found = self._read_secret()
        assert found is not None, "it was just made"
        return found

    def _write_secret(self) -> None:
        self._secret.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fresh = self._secret.with_name(f".{self._secret.name}.{secrets.token_hex(8)}")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(secrets.token_bytes(SECRET_BYTES))
                file.flush()
                os.fsync(file.fileno())
            # Whoever comes first makes the secret: a link never replaces one.
            with contextlib.suppress(FileExistsError):
                os.link(fresh, self._secret)
        finally:
            fresh.unlink()
        sync_directory(self._secret.parent)


# --- records --------------------------------------------------------------------------------------


def _encode(record: Record, key: bytes) -> bytes:
    inner = asdict(record)
    seal = hmac.new(key, _SEALED + strictjson.canonical(inner), hashlib.sha256).hexdigest()
    return strictjson.canonical({"record": inner, "seal": seal})


def _key_name(key: bytes) -> str:
    return hmac.new(key, b"freehold name of the key\n", hashlib.sha256).hexdigest()[:16]


def _folder_name(digest: str) -> str:
    return digest.removeprefix("sha256:")


def _check_space(folder: Path, wanted: int) -> None:
    if shutil.disk_usage(folder).free < wanted + _SPARE:
        raise OSError(errno.ENOSPC, f"a pack takes {wanted:,} bytes")


def _sweep(folder: Path) -> None:
    """Delete packs that no record names, and what killed writers left. A record that cannot be
    read may name any pack, so then none goes. Called under the store's lock."""
    for path in folder.glob(".fresh-*"):
        with contextlib.suppress(FileNotFoundError, BlockingIOError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # a living writer holds it
            path.unlink()
    try:
        named = {
            f"{msgspec.json.decode(path.read_bytes())['record']['blake3']}.pack"
            for path in folder.glob("*.json")
        }
    except (msgspec.DecodeError, KeyError, TypeError):
        return
    for path in folder.glob("*.pack"):
        if path.name not in named:
            path.unlink()
    with contextlib.suppress(OSError):
        folder.rmdir()  # only if nothing is left


@contextlib.contextmanager
def _fresh(folder: Path) -> Iterator[tuple[IO[bytes], Callable[[str], None]]]:
    """A temporary file, and what puts it in its place, whole and on the disk. It goes if it is not
    put there, and its lock tells a sweep that its writer lives."""
    descriptor, path = tempfile.mkstemp(prefix=".fresh-", dir=folder)

    def publish(name: str) -> None:
        file.flush()
        os.fsync(file.fileno())
        Path(path).replace(folder / name)
        sync_directory(folder)

    with os.fdopen(descriptor, "wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file, publish
        finally:
            Path(path).unlink(missing_ok=True)

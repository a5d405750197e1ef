"""The vault: admitted models on this machine's disk.

    blobs/sha256/HEX         file contents, read-only, named by their SHA-256
    manifests/NAME.json      one model each (see manifest.py)
    quarantine/NAME/         what a pull has fetched so far; nothing here is ever loaded
    locks/                   one for each model being pulled, one for the whole store

A blob or manifest appears by rename alone, after its bytes are on the disk; the manifest comes
last, so a model is either wholly there or not there.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from urllib.parse import quote, unquote

from freehold.errors import IntegrityError, MalformedError, NotFoundError, StorageError, UsageError
from freehold.store import manifest as manifests
from freehold.store.catalog import catalog_names
from freehold.store.digest import sync_directory
from freehold.store.manifest import Manifest

_NAME = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9._+-]*(/[A-Za-z0-9][A-Za-z0-9._+-]*)?(:[A-Za-z0-9._+/-]+)?"
)
_ABANDONED = 7 * 24 * 3600  # seconds after which an unfinished pull is no longer resumed


def default_root() -> Path:
    """``$FREEHOLD_HOME``, else ``freehold`` in the user's XDG data directory."""
    home = os.environ.get("FREEHOLD_HOME")
    if home:
        return Path(home).expanduser()
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(data) / "freehold"


class Store:
    """The models under ``root``. Opening a store writes nothing; ``root`` need not exist."""

    def __init__(self, root: Path) -> None:
        self.root = root

    # --- reading ----------------------------------------------------------------------------------

    def names(self) -> list[str]:
        """Names of the admitted models, sorted."""
        return sorted(
            unquote(path.name.removesuffix(".json"))
            for path in (self.root / "manifests").glob("*.json")
        )

    def list(self) -> list[Manifest]:
        """Every admitted model's manifest, sorted by name. Raises as ``manifest`` does."""
        return [self.manifest(name) for name in self.names()]

    def manifest(self, name: str) -> Manifest:
        """One model's manifest.

        Raises ``NotFoundError``, ``MalformedError`` or ``DigestError`` (the manifest was changed).
        """
        path = self._manifest_path(name)
        with disk_errors(self.root):
            try:
                data = path.read_bytes()
            except FileNotFoundError:
                raise NotFoundError(self._not_found(name), param="model") from None
        found = manifests.decode(data, file=str(path))
        if found.name != name:
            raise MalformedError(
                f"{path} speaks of {found.name!r}. Remove {name!r} and pull it again.",
                file=str(path),
            )
        return found

    def find(self, name: str) -> Manifest | None:
        """The manifest if the model is admitted and each blob is there in full length, else
        ``None``. Bytes are not digested; ``verify`` does that."""
        with disk_errors(self.root):
            if not self._manifest_path(name).exists():
                return None
            found = self.manifest(name)
            blobs = ((self.blob(file.sha256), file.size) for file in found.files)
            whole = all(path.is_file() and path.stat().st_size == size for path, size in blobs)
        return found if whole else None

    def blob(self, sha256: str) -> Path:
        """Where the blob of this digest lies, or would lie."""
        return self.blobs / sha256

    @property
    def blobs(self) -> Path:
        """The folder of all blobs."""
        return self.root / "blobs" / "sha256"

    def weights_path(self, name: str) -> Path:
        """The one weight file of an admitted model, for tools that read files by themselves. Its
        bytes are not checked. Raises ``NotFoundError``, and ``UsageError`` if there are several."""
        weights = [
            f for f in self.manifest(name).files if f.path.endswith((".gguf", ".safetensors"))
        ]
        if len(weights) != 1:
            raise UsageError(f"{name} has its weights in {len(weights)} files.", param="model")
        return self.blob(weights[0].sha256)

    # --- writing ----------------------------------------------------------------------------------

    def remove(self, name: str) -> None:
        """Remove a model, and each blob that no other model uses. Raises ``NotFoundError``."""
        with self.lock(None):
            path = self._manifest_path(name)
            with disk_errors(self.root):
                try:
                    path.unlink()
                except FileNotFoundError:
                    raise NotFoundError(self._not_found(name), param="model") from None
                sync_directory(path.parent)
                self._sweep()

    def admit(self, manifest: Manifest, checked: Mapping[str, Path]) -> None:
        """Move checked files, keyed by SHA-256, out of quarantine and write the manifest.

        Called by ``pull`` alone, after every digest and every strict reading.
        """
        with self.lock(None), disk_errors(self.root):
            self.blobs.mkdir(parents=True, exist_ok=True)
            for sha256, path in checked.items():
                if path != self.blob(sha256):
                    path.chmod(0o444)
                    path.replace(self.blob(sha256))
            sync_directory(self.blobs)
            target = self._manifest_path(manifest.name)
            target.parent.mkdir(parents=True, exist_ok=True)
            fresh = self.quarantine(manifest.name) / "manifest.json"
            with fresh.open("wb") as file:
                file.write(manifests.encode(manifest))
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(target)
            sync_directory(target.parent)
            self._sweep()

    def quarantine(self, name: str) -> Path:
        """The folder in which a model is assembled and checked; made if it is not there."""
        folder = self.root / "quarantine" / _file_name(name)
        with disk_errors(self.root):
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    def clear_quarantine(self, name: str) -> None:
        """Drop what a pull has fetched of this model, and what pulls of other models left behind
        more than a week ago."""
        shutil.rmtree(self.quarantine(name), ignore_errors=True)
        for folder in (self.root / "quarantine").iterdir():
            # Another process may be busy with it, or have cleared it first.
            with contextlib.suppress(BlockingIOError, FileNotFoundError):
                if time.time() - folder.stat().st_mtime > _ABANDONED:
                    with self.lock(unquote(folder.name), wait=_never):
                        shutil.rmtree(folder, ignore_errors=True)

    @contextlib.contextmanager
    def lock(self, name: str | None, *, wait: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Hold the lock of one model, or (``None``) of the whole store. Freed by the kernel if the
        process dies. ``wait`` is called once, before waiting for another process."""
        path = self.root / "locks" / ("store" if name is None else f"model-{_file_name(name)}")
        with disk_errors(self.root):
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                wait()
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _sweep(self) -> None:
        """Delete blobs that no manifest names. An unreadable manifest may name any of them, so then
        nothing is deleted."""
        try:
            used = {file.sha256 for manifest in self.list() for file in manifest.files}
        except IntegrityError:
            return
        for blob in self.blobs.glob("*"):
            if blob.name not in used:
                blob.unlink()

    def _manifest_path(self, name: str) -> Path:
        return self.root / "manifests" / f"{_file_name(name)}.json"

    def _not_found(self, name: str) -> str:
        here = ", ".join(self.names()) or "none"
        offered = ", ".join(catalog_names())
        return (
            f"There is no model {name!r} here. Admitted models: {here}. "
            f"`freehold pull NAME` gets one; the catalog has {offered}."
        )


def _file_name(name: str) -> str:
    """A model's name as one file name, reversibly."""
    return quote(check_name(name), safe="")


def check_name(name: str) -> str:
    """Return ``name`` if a model may have it; raises ``UsageError`` if not."""
    if len(name) > 200 or not _NAME.fullmatch(name):
        raise UsageError(
            f"{name[:80]!r} cannot be a model's name: letters, digits and . _ + - only, at most "
            "one slash. Rename the file or folder.",
            param="model",
        )
    return name


def _never() -> None:
    raise BlockingIOError


_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextlib.contextmanager
def disk_errors(root: Path, outcome: str = "") -> Iterator[None]:
    """Turn the operating system's disk errors into ``StorageError``. ``outcome`` says what became
    of the work; without it, a pull's."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise StorageError(
                f"The disk that holds {root} is full ({error.strerror}). "
                + (
                    outcome
                    or "Nothing was admitted. Free some space and pull again: it goes on where it "
                    "stopped."
                )
            ) from error
        raise StorageError(
            f"{root} cannot be written or read: {error}. "
            + (
                outcome
                or "Check that this user owns it, or choose another place with FREEHOLD_HOME."
            )
        ) from error

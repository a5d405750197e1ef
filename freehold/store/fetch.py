"""One file from a source into quarantine: resumed, bounded, digested and compared."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Protocol

from freehold.errors import DigestError, MalformedError, SourceError
from freehold.store.digest import FileDigest, digest_map, git_oid, map_file
from freehold.store.sources import Listing, RemoteFile, Source
from freehold.store.vault import disk_errors


class Progress(Protocol):
    """Told how a pull goes; ``cli`` draws it."""

    def start(self, total: int, what: str) -> None:
        """Work begins on ``what``, of ``total`` bytes. Called again if another source is tried."""
        ...

    def advance(self, n: int) -> None:
        """``n`` more bytes are there. Negative if bytes had to be thrown away."""
        ...

    def note(self, line: str) -> None:
        """One line that the user should see."""
        ...


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A file that lies in quarantine (or already in the vault) and has the digest it must have."""

    file: RemoteFile
    digest: FileDigest
    where: Path


class Fetcher:
    """Fetches one listing's files into ``folder``. ``known`` says where a blob would lie."""

    def __init__(
        self, source: Source, listing: Listing, folder: Path, blobs: Path, progress: Progress
    ) -> None:
        self.source = source
        self.listing = listing
        self.folder = folder
        self.blobs = blobs
        self.progress = progress

    def part(self, file: RemoteFile) -> Path:
        """Where the file is assembled. Named by digest where one is known: then bytes from another
        source, or another day, continue it. Otherwise it is started anew each time."""
        label = file.sha256 or "unpinned-" + sha256(file.path.encode()).hexdigest()[:32]
        return self.folder / f"{label}.part"

    def missing(self, file: RemoteFile) -> int:
        """Bytes that are still to be fetched."""
        if self._blob(file):
            return 0
        part = self.part(file)
        return file.size - (part.stat().st_size if file.sha256 and part.exists() else 0)

    def fetch(self, file: RemoteFile) -> Checked:
        """Bring one file in.

        Raises ``SourceError``, ``StorageError``, or ``DigestError`` if the bytes are not those that
        the catalog or the hub promises; they are then deleted.
        """
        if file.size < 1:
            raise MalformedError(f"{file.path} is empty at {self.source.name}.", file=file.path)
        blob = self._blob(file)
        if blob:
            digest = _digest(blob)
            if digest.sha256 == file.sha256:
                self.progress.advance(file.size)
                return Checked(file=file, digest=digest, where=blob)
        part = self.part(file)
        resumed = self._download(file, part)
        checked = self._check(file, part)
        if checked is None and resumed:
            # What was resumed may come from another source, or from before a power cut.
            self.progress.note(f"{file.path}: the resumed download does not fit; starting it anew.")
            self.progress.advance(-file.size)
            self._download(file, part)
            checked = self._check(file, part)
        if checked is None:
            raise DigestError(
                f"{file.path} from {self.source.name} is not the file that was promised: its "
                "digest differs. It was deleted. Pull from another source, and tell the publisher.",
                file=file.path,
            )
        return checked

    def _blob(self, file: RemoteFile) -> Path | None:
        blob = self.blobs / file.sha256 if file.sha256 else None
        return blob if blob and blob.is_file() and blob.stat().st_size == file.size else None

    def _download(self, file: RemoteFile, part: Path) -> bool:
        """Complete the part file on disk. True if it was begun by an earlier pull."""
        with disk_errors(self.folder):
            if not file.sha256 or (part.exists() and part.stat().st_size > file.size):
                part.unlink(missing_ok=True)
            offset = part.stat().st_size if part.exists() else 0
        self.progress.advance(offset)
        if offset < file.size:
            self._append(file, part, offset)
        return offset > 0

    def _append(self, file: RemoteFile, part: Path, offset: int) -> None:
        with disk_errors(self.folder):
            shutil.rmtree(self.folder / "scratch", ignore_errors=True)
            scratch = Path(tempfile.mkdtemp(dir=self._made("scratch")))
        blocks = self.source.read(self.listing, file, offset, scratch)
        with disk_errors(self.folder), part.open("ab") as opened:
            for block in _bounded(blocks, file, offset, self.source.name):
                opened.write(block)
                self.progress.advance(len(block))
            opened.flush()
            os.fsync(opened.fileno())

    def _made(self, name: str) -> Path:
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        return folder

    def _check(self, file: RemoteFile, part: Path) -> Checked | None:
        """The file with its digests; deleted, and ``None``, if they are not those promised."""
        with disk_errors(self.folder), part.open("rb") as opened:
            mapping = map_file(opened.fileno(), file.size)
            digest = digest_map(mapping)
            oid = git_oid(mapping) if file.git_oid else None
        if file.sha256 not in {None, digest.sha256} or file.git_oid != oid:
            part.unlink()
            return None
        return Checked(file=file, digest=digest, where=part)


def _digest(path: Path) -> FileDigest:
    with disk_errors(path), path.open("rb") as opened:
        return digest_map(map_file(opened.fileno(), path.stat().st_size))


def _bounded(
    blocks: Iterator[bytes], file: RemoteFile, offset: int, source: str
) -> Iterator[bytes]:
    """Pass on exactly the bytes that the file must have."""
    position = offset
    for block in blocks:
        position += len(block)
        if position > file.size:
            raise SourceError(
                f"{file.path} is longer at {source} than the {file.size:,} bytes it lists."
            )
        yield block
    if position < file.size:
        raise SourceError(
            f"{file.path} ended after {position:,} of {file.size:,} bytes. Pull again: it goes on "
            "where it stopped."
        )

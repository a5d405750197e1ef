"""Digests of whole files, and of their chunks.

A file is pinned with SHA-256 (what hubs publish) and checked at every load with BLAKE3, whose tree
lets all cores work on one file; where no catalog pins the BLAKE3 too, with both. ``blake3`` is the
standard hash of the whole file, so ``b3sum`` prints the same digest. The chunk digests are ordinary
BLAKE3 hashes of each ``CHUNK`` bytes; they are read only once the root has failed, to say where the
damage lies.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from blake3 import blake3

CHUNK = 4 << 20
_WINDOW = 64 << 20
_MADV_POPULATE_READ = 22  # linux/mman.h; Python 3.11 has no name for it


@dataclass(frozen=True, kw_only=True)
class FileDigest:
    """Every digest of one file: ``size`` in bytes, the rest in lower-case hex."""

    size: int
    sha256: str
    blake3: str
    chunks: tuple[str, ...]


def map_file(descriptor: int, size: int) -> mmap.mmap:
    """Map ``size`` > 0 bytes of an open file, private and read-only. The map outlives the
    descriptor."""
    return mmap.mmap(descriptor, size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)


def digest_map(mapping: mmap.mmap) -> FileDigest:
    """Digest everything that a manifest records of a file."""
    with memoryview(mapping) as view, ThreadPoolExecutor() as pool:
        sha256 = pool.submit(lambda: hashlib.sha256(view).hexdigest())
        chunks = tuple(pool.map(lambda span: _chunk(view, *span), _spans(len(view))))
        return FileDigest(
            size=len(view), sha256=sha256.result(), blake3=root_of(mapping), chunks=chunks
        )


def root_of(mapping: mmap.mmap, *, keep: bool = True) -> str:
    """BLAKE3 of the whole mapping on all cores, window by window so that Ctrl-C is answered. Each
    window's pages are let go of again without ``keep``."""
    hasher = blake3(max_threads=blake3.AUTO)
    for window in _windows(mapping, keep):
        hasher.update(window)
    return hasher.hexdigest()


def both_of(mapping: mmap.mmap, *, keep: bool = True) -> tuple[str, str]:
    """(BLAKE3, SHA-256), as ``root_of``, and beside it the SHA-256 on a core of its own."""
    root, chain = blake3(max_threads=blake3.AUTO), hashlib.sha256()
    with ThreadPoolExecutor(1) as pool:
        for window in _windows(mapping, keep):
            beside = pool.submit(chain.update, window)
            root.update(window)
            beside.result()
    return root.hexdigest(), chain.hexdigest()


def _windows(mapping: mmap.mmap, keep: bool) -> Iterator[memoryview]:
    with memoryview(mapping) as view:
        for start in range(0, len(view), _WINDOW):
            stop = min(start + _WINDOW, len(view))
            _populate(mapping, start, stop - start)
            with view[start:stop] as window:
                yield window
            if not keep:
                mapping.madvise(mmap.MADV_DONTNEED, start, stop - start)


def damaged_chunk(mapping: mmap.mmap, chunks: tuple[str, ...]) -> int | None:
    """Index of the first chunk that differs from ``chunks``, or ``None`` if all agree."""
    with memoryview(mapping) as view:
        for index, (start, stop) in enumerate(_spans(len(view))):
            if index >= len(chunks) or _chunk(view, start, stop) != chunks[index]:
                return index
    return None


def git_oid(mapping: mmap.mmap) -> str:
    """The object id that git gives a file: what a hub publishes of files outside LFS."""
    # SHA-1 is git's choice, not ours: it is all a hub vouches for here.
    hasher = hashlib.sha1(b"blob %d\0" % len(mapping), usedforsecurity=False)
    hasher.update(mapping)
    return hasher.hexdigest()


def _chunk(view: memoryview, start: int, stop: int) -> str:
    return blake3(view[start:stop]).hexdigest()


def _spans(size: int) -> Iterator[tuple[int, int]]:
    for start in range(0, size, CHUNK):
        yield start, min(start + CHUNK, size)


def _populate(mapping: mmap.mmap, start: int, length: int) -> None:
    """Fault pages in by one call: ten times faster than one fault each. Only a hint, so kernels
    before 5.14, which refuse it, lose nothing but speed."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            mapping.madvise(_MADV_POPULATE_READ, start, length)


def sync_directory(path: str | os.PathLike[str]) -> None:
    """Make a rename in ``path`` survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

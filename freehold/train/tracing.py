"""Where a text comes from: the documents of a corpus that say the same, word for word.

    trace/index.json            which corpus, and the digests of the rest
    trace/00000.text            its documents, UTF-8, a byte 0xFF (no letter's) behind each
    trace/00000.suffixes        int32: where each suffix of the text begins, in their order
    trace/00000.documents       int64 (documents, 2): where each begins, in the text and the corpus

A suffix array finds any span by halving: about 30 looks at the text for each gigabyte. Texts are
cut into shards of at most ``SHARD`` bytes, so that an index of any corpus can be made in five times
that memory. Matches are exact, byte for byte; whatever was masked in the corpus is not found.

Source: Manber and Myers, "Suffix arrays" (1990); Liu et al., "OLMoTrace" (arXiv:2504.07096), for
maximal spans; the array is made by libdivsufsort.
"""

from __future__ import annotations

import bisect
import json
import mmap
import os
import shutil
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from freehold import strictjson
from freehold.errors import IntegrityError, NotFoundError, StorageError, UsageError
from freehold.train.data.build import DOCUMENTS, text_of

FOLDER, INDEX = "trace", "index.json"
SHARD = 256 << 20
END = b"\xff"
LEAST = 32
"""Characters that a span of an answer must have to be told: shorter ones are in every corpus."""
MOST = 10
"""Documents that are named for a span."""
_AROUND = 60
_LOOK = 8192
"""Bytes of the text that are compared at one place: no span that is told is longer."""
_LINE = 64 << 20

Work = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class Place:
    """One occurrence: the document's ``id``, ``source`` and ``address`` (of a web page), the
    character at which the span begins in its text, and some of what stands around it."""

    id: str
    source: str
    address: str
    at: int
    before: str
    after: str


@dataclass(frozen=True, kw_only=True)
class Found:
    """A span of the text that was asked about, ``start`` to ``end`` in characters, how often the
    corpus has it, and the first ``MOST`` places."""

    start: int
    end: int
    count: int
    places: tuple[Place, ...]


def build(corpus: Path, digest: str, *, work: Work = lambda *_: None) -> dict[str, Any]:
    """Make the index of a corpus (a folder with ``documents.jsonl``) with ``digest``, whole or not
    at all; what its ``index.json`` says. Raises ``NotFoundError``, ``StorageError``."""
    from pydivsufsort import divsufsort

    ready, scratch = corpus / FOLDER, corpus / f"{FOLDER}.part"
    source = corpus / DOCUMENTS
    if not source.is_file():
        raise NotFoundError(f"there is no {source}: build the corpus first", param="corpus")
    try:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        size, files = source.stat().st_size, {}
        for number, (text, documents, done) in enumerate(_shards(source)):
            work("Sorting suffixes", done, size)
            made: dict[str, Any] = {
                "text": text,
                "documents": np.array(documents, dtype="<i8"),
                "suffixes": divsufsort(text).astype("<i4", copy=False),
            }
            for suffix, values in made.items():
                data, name = memoryview(values).cast("B"), f"{number:05}.{suffix}"
                (scratch / name).write_bytes(data)
                files[name] = blake3(data).hexdigest()
        facts = {"format": 1, "corpus": digest, "files": files}
        (scratch / INDEX).write_bytes(strictjson.canonical(facts))
        shutil.rmtree(ready, ignore_errors=True)
        scratch.rename(ready)
    except OSError as error:
        raise StorageError(f"{scratch} cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return facts


def _shards(source: Path) -> Iterator[tuple[bytes, array[int], int]]:
    """Text, documents (two numbers each) and how much of the file has been read, shard by shard."""
    text, documents = bytearray(), array("q")
    with source.open("rb") as file:
        while line := file.readline():
            told = text_of(json.loads(line)).encode() + END
            if documents and len(text) + len(told) > SHARD:
                whole, text = bytes(text), bytearray()
                yield whole, documents, file.tell()
                documents = array("q")
            documents.extend((len(text), file.tell() - len(line)))
            text += told
        if documents:
            whole, text = bytes(text), bytearray()
            yield whole, documents, file.tell()


class Index:
    """An index to ask. Close it, or use it as a context.

    Raises ``NotFoundError`` where there is none, ``IntegrityError`` where its files, or the corpus,
    are not those it was made of."""

    def __init__(self, corpus: Path, digest: str, *, check: bool = True) -> None:
        folder = corpus / FOLDER
        try:
            data = (folder / INDEX).read_bytes()
        except FileNotFoundError:
            raise NotFoundError(
                f"{corpus} has no index yet: `freehold data index` makes one", param="corpus"
            ) from None
        facts = cast("dict[str, Any]", strictjson.parse(data, file=INDEX, max_bytes=_LINE))
        if facts.get("format") != 1 or facts.get("corpus") != digest:
            raise IntegrityError(
                f"{folder} is the index of another corpus than {corpus} is now: "
                "`freehold data index` makes it anew"
            )
        self._corpus = (corpus / DOCUMENTS).open("rb")
        self._shards = []
        for name, known in sorted(facts["files"].items()):
            if check and blake3().update_mmap(folder / name).hexdigest() != known:
                raise IntegrityError(f"{folder / name} was changed: `freehold data index` again")
            if name.endswith(".text"):
                self._shards.append(_Shard(folder, name.removesuffix(".text")))

    def __enter__(self) -> Index:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._corpus.close()
        for shard in self._shards:
            shard.close()

    def find(self, span: str, *, most: int = MOST) -> Found:
        """Where ``span`` stands, letter for letter. Raises ``UsageError`` if it is empty."""
        if not span:
            raise UsageError("an empty span stands everywhere: give some words", param="text")
        data = span.encode(errors="surrogatepass")
        count, places = 0, list[Place]()
        for shard in self._shards:
            low, high = shard.range(data)
            count += high - low
            for position in sorted(shard.suffixes[low : min(high, low + most)].tolist()):
                if len(places) < most:
                    places.append(self._place(shard, position, len(data)))
        return Found(start=0, end=len(span), count=count, places=tuple(places))

    def trace(self, text: str, *, least: int = LEAST, most: int = MOST) -> list[Found]:
        """The longest spans of ``text`` that stand in the corpus, none within another, each of
        ``least`` characters or more and from the beginning of a word to the end of one."""
        data, at, found, reached = text.encode(errors="surrogatepass"), 0, list[Found](), 0
        for start, character in enumerate(text):
            begins = start == 0 or not (text[start - 1].isalnum() and character.isalnum())
            if begins and not character.isspace() and len(text) - start >= least:
                ahead = data[at : at + _LOOK]
                length = max((shard.longest(ahead) for shard in self._shards), default=0)
                end = _whole(text, start, ahead[:length])
                if end - start >= least and end > reached:
                    reached = end
                    held = self.find(text[start:end], most=most)
                    found.append(Found(start=start, end=end, count=held.count, places=held.places))
            at += len(character.encode(errors="surrogatepass"))
        return found

    def _place(self, shard: _Shard, position: int, length: int) -> Place:
        number = int(np.searchsorted(shard.documents[:, 0], position, side="right")) - 1
        begin, line = (int(value) for value in shard.documents[number])
        self._corpus.seek(line)
        document = json.loads(self._corpus.readline())
        said = text_of(document)
        at = len(said.encode()[: position - begin].decode())
        end = at + len(shard.text[position : position + length].decode())
        return Place(
            id=str(document["id"]),
            source=str(document["source"]),
            address=str(document.get("address", "")),
            at=at,
            before=said[max(0, at - _AROUND) : at],
            after=said[end : end + _AROUND],
        )


class _Shard:
    """One shard's three files, mapped."""

    def __init__(self, folder: Path, name: str) -> None:
        descriptor = os.open(folder / f"{name}.text", os.O_RDONLY)
        try:
            self.text = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
        finally:
            os.close(descriptor)
        self.suffixes: npt.NDArray[np.int32] = np.memmap(
            folder / f"{name}.suffixes", dtype="<i4", mode="r"
        )
        self.documents: npt.NDArray[np.int64] = np.fromfile(
            folder / f"{name}.documents", dtype="<i8"
        ).reshape(-1, 2)

    def close(self) -> None:
        self.text.close()

    def range(self, data: bytes) -> tuple[int, int]:
        """The suffixes that begin with ``data``, from and to."""
        key, places = self._key(len(data)), range(len(self.suffixes))
        return bisect.bisect_left(places, data, key=key), bisect.bisect_right(places, data, key=key)

    def longest(self, data: bytes) -> int:
        """How many bytes of ``data``, from its first on, stand somewhere."""
        near = bisect.bisect_left(range(len(self.suffixes)), data, key=self._key(len(data)))
        return max(
            (
                _shared(data, self._cut(place, len(data)))
                for place in (near - 1, near)
                if 0 <= place < len(self.suffixes)
            ),
            default=0,
        )

    def _key(self, length: int) -> Callable[[int], bytes]:
        return lambda place: self._cut(place, length)

    def _cut(self, place: int, length: int) -> bytes:
        at = int(self.suffixes[place])
        return self.text[at : at + length]


def _shared(a: bytes, b: bytes) -> int:
    """How many first bytes are the same."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[:middle] == b[:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _whole(text: str, start: int, data: bytes) -> int:
    """Where the span that begins at ``start`` and says ``data`` ends in ``text``, without half a
    letter or half a word."""
    end = start + len(data.decode(errors="ignore"))
    while end > start and end < len(text) and text[end - 1].isalnum() and text[end].isalnum():
        end -= 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return end


def told(found: Sequence[Found], text: str) -> Iterator[str]:
    """Lines for a person."""
    for one in found:
        times = "once" if one.count == 1 else f"{one.count:,} times"
        yield f"characters {one.start} to {one.end}, {times}: {text[one.start : one.end]!r}"
        for place in one.places:
            page = f"  {place.address}" if place.address else ""
            yield f"  {place.source}  {place.id}, at {place.at}{page}"

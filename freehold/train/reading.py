"""Training data from the disk: strictly, and never more of it in memory than is allowed.

Files are JSON lines (``.jsonl``), plain text (``.txt``, documents end at a line that holds
only ``<|endoftext|>``), web pages (``.html``, ``.htm``) and archives of them (``.warc``), all also
with ``.gz``, or Parquet (``.parquet``, needs pyarrow); folders are read whole. What is wrong is
named by file, line (of an archive: byte) and reason.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import sys
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from freehold import strictjson
from freehold.errors import MalformedError, NotFoundError, StorageError, UsageError
from freehold.train import pages, warc
from freehold.train.records import MAX_CHARS, Bad, Problem, Record, record_of

MAX_LINE = 4 * MAX_CHARS + (64 << 10)
"""Bytes of a line: what ``MAX_CHARS`` can take, and the members beside it."""
MAX_BYTES = 4 << 30
"""Bytes of one file, unpacked. An archive of pages may have more."""
MAX_RATIO, RATIO_FROM = 100, 16 << 20
"""Text packs 3 to 10 times. What unpacks to more than ``RATIO_FROM`` bytes and more than
``MAX_RATIO`` times its size is a bomb."""
END = "<|endoftext|>"
_WEB = (".html", ".htm", ".warc")
_KINDS = (".jsonl", ".txt", *_WEB, ".parquet")
_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class Source:
    """One file: its SHA-256 as it lies on the disk, its size in bytes, its records."""

    file: str
    sha256: str
    size: int
    records: int


@dataclass(kw_only=True)
class Read:
    """What was read, and what is wrong with the rest."""

    records: list[Record] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    sources: list[Source] = field(default_factory=list)

    def check(self) -> None:
        """Raise ``UsageError`` naming the first problems, if there are any."""
        if not self.problems:
            return
        shown = [str(problem) for problem in self.problems[:_SHOWN]]
        more = len(self.problems) - len(shown)
        shown += [f"and {more:,} more"] if more else []
        raise UsageError(
            f"{len(self.problems):,} records cannot be used:\n  "
            + "\n  ".join(shown)
            + "\nmend them, or leave them out with --fix",
            param="data",
        )


def read(paths: Sequence[Path]) -> Read:
    """Read files and folders. What is wrong with a record becomes a ``Problem``; a file that cannot
    be read at all raises ``NotFoundError``, ``StorageError`` or ``UsageError``."""
    found = Read()
    for path in files(paths):
        before = len(found.records)
        for item in items(path):
            (found.problems if isinstance(item, Problem) else found.records).append(item)  # type: ignore[arg-type]
        found.sources.append(_source(path, len(found.records) - before))
    return found


def values(paths: Sequence[Path]) -> Iterator[Any]:
    """What any JSON lines and plain texts hold, in no form of ours: values and documents. Raises as
    ``read``, and ``UsageError`` naming the line that is wrong."""
    for path in files(paths):
        if _kind(path) == ".jsonl":
            for number, line in _lines(path):
                if isinstance(line, Problem):
                    raise UsageError(str(line), param="data")
                if line.strip():
                    yield strictjson.parse(line, file=f"{path}:{number}", max_bytes=MAX_LINE)
        else:
            for item in items(path):
                if isinstance(item, Problem):
                    raise UsageError(str(item), param="data")
                yield item.content


def files(paths: Sequence[Path]) -> Iterator[Path]:
    """The files of ``paths``, folders in order of names. Raises as ``read``."""
    for path in paths:
        if not path.exists():
            raise NotFoundError(f"{path} does not exist", param="data")
        if not path.is_dir():
            _kind(path)
            yield path
            continue
        inside = sorted(one for one in path.rglob("*") if one.is_file())
        if not inside:
            raise NotFoundError(f"{path} is an empty folder", param="data")
        for one in inside:
            _kind(one)
            yield one


def _kind(path: Path) -> str:
    plain = path.with_suffix("") if path.suffix == ".gz" else path
    if plain.suffix not in _KINDS or (plain.suffix == ".parquet" and plain != path):
        raise UsageError(
            f"{path} is of no kind that is read: {', '.join(_KINDS)}, all but the last also "
            "with .gz. Unpack other archives first.",
            param="data",
        )
    return plain.suffix


def extractor(path: Path) -> str:
    """The name and version of what finds the texts in a file; empty where they lie open. Raises
    ``UsageError`` where it is not installed."""
    return pages.extractor() if _kind(path) in _WEB else ""


def _source(path: Path, records: int) -> Source:
    return Source(file=path.name, sha256=sha256_of(path), size=path.stat().st_size, records=records)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits. Raises ``OSError``."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def items(path: Path) -> Iterator[Record | Problem]:
    """The records of one file as they come, never all of them in memory. Raises as ``read``."""
    kind = _kind(path)
    try:
        if kind == ".parquet":
            yield from _parquet(path)
        elif kind == ".txt":
            yield from _documents(path)
        elif kind == ".warc":
            yield from _archive(path)
        elif kind in _WEB:
            yield from _page(path)
        else:
            yield from _json_lines(path)
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise UsageError(f"{path} is no sound gzip file: {error}", param="data") from None
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror}") from error


def _json_lines(path: Path) -> Iterator[Record | Problem]:
    for number, line in _lines(path):
        if isinstance(line, Problem):
            yield line
            continue
        if not line.strip():
            continue
        try:
            value = strictjson.parse(line, file="the line", max_bytes=MAX_LINE)
            yield record_of(value, file=path.name, line=number)
        except MalformedError as error:
            reason = str(error).removeprefix("the line: ").split(". The file is damaged")[0]
            yield Problem(file=path.name, line=number, reason=reason)
        except Bad as error:
            yield Problem(file=path.name, line=number, reason=str(error))


def _documents(path: Path) -> Iterator[Record | Problem]:
    for found in _cut(_decoded(path)):
        if isinstance(found, Problem):
            yield found
        else:
            yield Record(file=path.name, line=found[0], text=found[1])


def _decoded(path: Path) -> Iterator[tuple[int, str | Problem]]:
    for number, line in _lines(path):
        try:
            yield number, line if isinstance(line, Problem) else line.decode("utf-8")
        except UnicodeDecodeError as error:
            reason = f"byte {error.start:,} is not UTF-8"
            yield number, Problem(file=path.name, line=number, reason=reason)


def _cut(lines: Iterable[tuple[int, str | Problem]]) -> Iterator[tuple[int, str] | Problem]:
    """Documents of a text with the line they begin at, those longer than a record may be cut at the
    end of a paragraph."""
    held: list[str] = []
    first, size = 1, 0
    for number, text in lines:
        if isinstance(text, Problem):
            yield text
            continue
        ended = text.strip() == END
        full = size + len(text) > MAX_CHARS or (size > MAX_CHARS // 2 and not text.strip())
        if ended or full:
            if "".join(held).strip():
                yield first, "".join(held).strip()
            held, first, size = [], number, 0
        if ended:
            first = number + 1
            continue
        held.append(text)
        size += len(text)
    if "".join(held).strip():
        yield first, "".join(held).strip()


def _page(path: Path) -> Iterator[Record | Problem]:
    with _opened(path) as file:
        data = file.read(pages.MAX_PAGE + 1)
    yield from _said(data, Record(file=path.name, line=1))


def _archive(path: Path) -> Iterator[Record | Problem]:
    with _opened(path, most=sys.maxsize) as file:
        try:
            for found in warc.pages(file):
                begun = Record(file=path.name, line=found.at, unit="byte")
                if isinstance(found, warc.Fault):
                    yield _problem(begun, found.reason)
                else:
                    begun = replace(begun, address=found.address)
                    yield from _said(found.body, begun, found.charset)
        except warc.BrokenError as error:
            raise UsageError(
                f"{path} is no sound WARC file: the record at byte {error.at:,}: {error}",
                param="data",
            ) from None


def _said(data: bytes, begun: Record, charset: str = "") -> Iterator[Record | Problem]:
    """What a page says, in as many records as it takes."""
    try:
        text = pages.text_of(data, charset)
    except Bad as error:
        yield _problem(begun, str(error))
        return
    if not text:
        yield _problem(begun, "no text was found on the page", kind="no text")
    lines = (
        line[at : at + MAX_CHARS]
        for line in text.splitlines(keepends=True)
        for at in range(0, len(line), MAX_CHARS)
    )
    for part, found in enumerate(_cut(enumerate(lines)), 1):
        assert not isinstance(found, Problem)
        yield replace(begun, part=part, text=found[1])


def _problem(begun: Record, reason: str, *, kind: str = "damaged") -> Problem:
    if begun.address:
        reason = f"{begun.address}: {reason}"
    return Problem(file=begun.file, line=begun.line, unit=begun.unit, reason=reason, kind=kind)


def _lines(path: Path) -> Iterator[tuple[int, bytes | Problem]]:
    """Lines with their numbers; too long ones as problems, never whole in memory."""
    with _opened(path) as file:
        number = 0
        while line := file.readline(MAX_LINE + 1):
            number += 1
            if number == 1:
                if line[:2] in (b"\xff\xfe", b"\xfe\xff"):
                    raise UsageError(f"{path} is UTF-16: save it as UTF-8", param="data")
                line = line.removeprefix(b"\xef\xbb\xbf")
            if len(line) <= MAX_LINE:
                yield number, line
                continue
            while line and not line.endswith(b"\n"):
                line = file.readline(MAX_LINE)
            reason = f"a line of more than {MAX_LINE:,} bytes"
            yield number, Problem(file=path.name, line=number, reason=reason)


def _opened(path: Path, most: int = MAX_BYTES) -> BinaryIO:
    if path.suffix != ".gz":
        return path.open("rb")
    opened = gzip.open(path, "rb")  # noqa: SIM115  (the reader closes it)
    return io.BufferedReader(_Bounded(opened, path, most), 1 << 16)


class _Bounded(io.RawIOBase):
    """A packed file that refuses to unpack to more than text could."""

    def __init__(self, file: gzip.GzipFile, path: Path, most: int) -> None:
        self._file = file
        self._path = path
        self._most = min(most, max(RATIO_FROM, MAX_RATIO * path.stat().st_size))
        self._read = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        # What one part of the file gives: damage behind it is told when it is come to.
        data = self._file.read1(len(buffer))
        self._read += len(data)
        if self._read > self._most:
            raise UsageError(
                f"{self._path} unpacks to more than {self._most:,} bytes: that is no text of "
                f"{self._path.stat().st_size:,} bytes packed",
                param="data",
            )
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


def _given(value: Any) -> Any:
    """A row without the members that only other rows have: columns hold a null for each."""
    if isinstance(value, dict):
        return {key: _given(one) for key, one in value.items() if one is not None}
    return [_given(one) for one in value] if isinstance(value, list) else value


def _parquet(path: Path) -> Iterator[Record | Problem]:
    try:
        from pyarrow import ArrowException, parquet
    except ModuleNotFoundError:
        raise UsageError(
            f"{path}: Parquet files need pyarrow: install the extra with "
            "`pip install 'freehold[parquet]'`",
            param="data",
        ) from None
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=256):
                for row in batch.to_pylist():
                    number += 1
                    try:
                        yield record_of(_given(row), file=path.name, line=number)
                    except Bad as error:
                        yield Problem(file=path.name, line=number, reason=str(error))
    except ArrowException as error:
        raise UsageError(f"{path} is no sound Parquet file: {error}", param="data") from None

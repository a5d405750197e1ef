"""Pages out of a WARC file: what servers answered, record by record, in bounded memory.

Read strictly: a file whose records do not follow one another as their lengths say is refused at
that record. What is wrong within one record spoils no other. A record's place is the offset of its
first byte in the file, unpacked.

Source: ISO 28500:2017 (WARC 1.1); RFC 9112 for the answers in it (chunks in section 7.1).
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from freehold.train.pages import MAX_PAGE
from freehold.train.records import Bad

MAX_HEAD = 64 << 10
"""Bytes of the head of a record, and of the head of an answer."""
_PIECE = 64 << 10
_PACKINGS, _MEMBERS = 2, 100
"""How often a page may be packed, and in how many parts: each of either may be a bomb."""
_VERSION = re.compile(rb"WARC/(0\.1[78]|1\.[01])\r?\n")
_STATUS = re.compile(rb"HTTP/\d(?:\.\d)? +(\d{3})(?: |$)")
_LENGTH = re.compile(r"[0-9]{1,18}")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\r\n]*)?\r\n")
_CHARSET = re.compile(r";\s*charset\s*=\s*[\"']?([^\"';\s]+)", re.IGNORECASE)
_PAGES = ("text/html", "application/xhtml+xml")
_DIGESTS = ("md5", "sha1", "sha256", "sha384", "sha512")
_ERRORS = (EOFError, gzip.BadGzipFile, zlib.error)


class BrokenError(Exception):
    """From the record at ``at`` on, the file cannot be read; ``str`` is the reason."""

    def __init__(self, at: int, reason: str) -> None:
        super().__init__(reason)
        self.at = at


@dataclass(frozen=True, kw_only=True)
class Page:
    """An answer with status 200 that is a page: ``body`` as its author wrote it, ``charset`` as the
    head has it (or empty)."""

    at: int
    address: str
    charset: str
    body: bytes


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Why the answer at ``at`` is not used."""

    at: int
    reason: str


def pages(file: BinaryIO) -> Iterator[Page | Fault]:
    """The pages of an open WARC file (unpacked). Raises ``BrokenError``, ``OSError``."""
    source = _Source(file)
    while True:
        begin = source.at
        try:
            head = _record_head(source)
            if head is None:
                return
            found = _record(source, begin, head)
        except _ERRORS as error:
            raise BrokenError(begin, f"no sound gzip: {error}") from None
        if found is not None:
            yield found


class _Source:
    """A stream that knows its place and gives what is asked for, whole."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.at = file, 0

    def line(self, most: int) -> bytes:
        found = self._file.readline(most)
        self.at += len(found)
        return found

    def take(self, n: int, begin: int) -> bytes:
        found = self._file.read(n)
        self.at += len(found)
        if len(found) < n:
            raise BrokenError(
                begin, f"the file ends {n - len(found):,} bytes before the record does"
            )
        return found

    def skip(self, n: int, begin: int) -> None:
        while n:
            n -= len(self.take(min(n, _PIECE), begin))


def _record_head(source: _Source) -> dict[str, str] | None:
    begin = source.at
    first = source.line(16)
    if not first:
        return None
    if not _VERSION.fullmatch(first):
        raise BrokenError(begin, f"a record begins with {first!r}, not with a WARC version")
    lines, left = list[bytes](), MAX_HEAD
    while (line := source.line(left)) not in (b"\r\n", b"\n"):
        left -= len(line)
        if not line.endswith(b"\n"):
            why = "the file ends in it" if left > 0 else f"it has more than {MAX_HEAD:,} bytes"
            raise BrokenError(begin, f"the record's head has no end: {why}")
        lines.append(line)
    try:
        return _fields(lines)
    except Bad as error:
        raise BrokenError(begin, str(error)) from None


def _record(source: _Source, begin: int, head: dict[str, str]) -> Page | Fault | None:
    said = head.get("content-length", "")
    if not _LENGTH.fullmatch(said):
        raise BrokenError(begin, f"its Content-Length is {said[:40]!r}")
    length = int(said)
    kind = head.get("content-type", "").partition(";")[0].strip().lower()
    found: Page | Fault | None = None
    if head.get("warc-type", "").lower() == "response" and kind == "application/http":
        start = source.take(min(length, MAX_HEAD), begin)
        length -= len(start)
        try:
            answer = _answer(start)
            if answer is not None:
                if length > MAX_PAGE:
                    raise Bad(f"a page of more than {MAX_PAGE:,} bytes")
                block = start + source.take(length, begin)
                length = 0
                found = _page(begin, head, answer, block)
        except Bad as error:
            found = Fault(at=begin, reason=str(error))
    source.skip(length, begin)
    if source.take(4, begin) != b"\r\n\r\n":
        raise BrokenError(begin, f"the record does not end after {said} bytes of content")
    return found


def _answer(start: bytes) -> tuple[dict[str, str], int] | None:
    """The fields of an answer's head, and where its body begins; ``None`` where it is no page."""
    first, _, _ = start.partition(b"\n")
    status = _STATUS.match(first.rstrip(b"\r"))
    if not status:
        raise Bad(f"the answer begins with {first[:40]!r}, not with a status")
    if status[1] != b"200":
        return None
    end = re.search(rb"\r?\n\r?\n", start)
    if not end:
        raise Bad(f"the answer's head does not end within {len(start):,} bytes")
    fields = _fields(start[: end.start() + 1].splitlines()[1:])
    kind = fields.get("content-type", "").partition(";")[0].strip().lower()
    return (fields, end.end()) if kind in _PAGES else None


def _page(
    begin: int, head: dict[str, str], answer: tuple[dict[str, str], int], block: bytes
) -> Page:
    fields, at = answer
    sent = block[at:]
    if head.get("warc-segment-number"):
        raise Bad("the page is split over several records")
    if not (address := head.get("warc-target-uri", "").strip("<>")):
        raise Bad("the record has no WARC-Target-URI")
    _check(head.get("warc-block-digest", ""), block)
    coding = fields.get("transfer-encoding", "").strip().lower()
    if coding not in ("", "identity", "chunked"):
        raise Bad(f"its Transfer-Encoding is {coding[:40]!r}: only chunked is read")
    body = _unchunked(sent) if coding == "chunked" else sent
    # Some writers take the digest of what went over the wire, others of what it carried.
    _check(head.get("warc-payload-digest", ""), sent, body)
    told = fields.get("content-length", "")
    whole = not coding and "warc-truncated" not in head
    # More than was told is there where a crawler unpacked the page.
    if whole and _LENGTH.fullmatch(told) and len(body) < int(told):
        raise Bad(f"the page has {len(body):,} bytes of {int(told):,}")
    charset = _CHARSET.search(fields.get("content-type", ""))
    return Page(
        at=begin,
        address=address,
        charset=charset[1] if charset else "",
        body=_unpacked(body, fields.get("content-encoding", "")),
    )


def _fields(lines: list[bytes]) -> dict[str, str]:
    """Named fields, names in small letters; lines that begin with a blank go on with the one
    before. Of two of one name the first counts, unless they are lengths."""
    found: dict[str, str] = {}
    name = ""
    for line in lines:
        text = line.decode("utf-8", errors="replace").strip("\r\n")
        if text[:1] in (" ", "\t"):
            if name:
                found[name] += f" {text.strip()}"
            continue
        name, colon, value = text.partition(":")
        name, value = name.strip().lower(), value.strip()
        if not colon:
            raise Bad(f"the line {text[:40]!r} of its head is no field")
        if name == "content-length" and found.get(name, value) != value:
            raise Bad("it has two lengths")
        if name in found:
            name = ""
        else:
            found[name] = value
    return found


def _check(digest: str, *blocks: bytes) -> None:
    """Compare a digest, in any of the forms that writers use, with what it may be of."""
    if not digest:
        return
    name, _, told = digest.partition(":")
    if name.lower().replace("-", "") not in _DIGESTS:
        raise Bad(f"its digest {digest[:40]!r} is of no kind that is known")
    for block in blocks:
        raw = hashlib.new(name.lower().replace("-", ""), block, usedforsecurity=False).digest()
        forms = {base64.b32encode(raw).decode().rstrip("="), raw.hex().upper()}
        base = {base64.b64encode(raw).decode(), base64.urlsafe_b64encode(raw).decode()}
        if told.upper().rstrip("=") in forms or told in base:
            return
    raise Bad(f"its content has not the digest {digest[:80]}")


def _unchunked(sent: bytes) -> bytes:
    """What was sent in chunks. Taken as it is where it does not begin with one: crawlers that put
    chunks together may leave the field in place, and no page begins with a number on a line."""
    if not _CHUNK.match(sent):
        return sent
    found, at = list[bytes](), 0
    while True:
        size = _CHUNK.match(sent, at)
        if not size:
            raise Bad(f"its chunks break off at byte {at:,}")
        n, begin = int(size[1], 16), size.end()
        if not n:
            return b"".join(found)
        at = begin + n + 2
        if sent[begin + n : at] != b"\r\n":
            raise Bad(f"the chunk at byte {begin:,} does not end after {n:,} bytes")
        found.append(sent[begin : begin + n])


def _unpacked(body: bytes, encoding: str) -> bytes:
    """What was packed for the way. Taken as it is where it is not: crawlers that unpack leave the
    field in place."""
    names = [one.strip().lower() for one in encoding.split(",")]
    names = [one for one in names if one not in ("", "identity")]
    if len(names) > _PACKINGS:
        raise Bad(f"it was packed {len(names)} times")
    for name in reversed(names):
        if name in ("gzip", "x-gzip"):
            body = _inflated(body, 31) if body[:2] == b"\x1f\x8b" else body
        elif name == "deflate":
            wrapped = len(body) > 1 and body[0] & 15 == 8 and (body[0] << 8 | body[1]) % 31 == 0
            body = _inflated(body, 15 if wrapped else -15)
        else:
            raise Bad(f"its Content-Encoding is {name[:40]!r}: gzip and deflate are read")
    return body


def _inflated(data: bytes, window: int) -> bytes:
    found, size = list[bytes](), 0
    try:
        while data:
            if len(found) == _MEMBERS:
                raise Bad(f"it was packed in more than {_MEMBERS} parts")
            one = zlib.decompressobj(window)
            found.append(one.decompress(data, MAX_PAGE + 1 - size))
            size += len(found[-1])
            if size > MAX_PAGE:
                raise Bad(f"it unpacks to more than {MAX_PAGE:,} bytes")
            if not one.eof:
                raise Bad("what was packed breaks off")
            data = one.unused_data
    except zlib.error as error:
        raise Bad(f"it cannot be unpacked: {error}") from None
    return b"".join(found)

"""WARC files for tests, written by hand."""

from __future__ import annotations

import base64
import gzip
import hashlib

PAGE = (
    b"<html><body><main><article><p>The harbour master wrote down every ship that came in, number "
    b"%d, and what it carried for forty years.</p></article></main></body></html>"
)


def sha1(data: bytes) -> str:
    return f"sha1:{base64.b32encode(hashlib.sha1(data).digest()).decode()}"  # noqa: S324


def answer(
    body: bytes, *fields: str, status: str = "200 OK", kind: str = "text/html; charset=utf-8"
) -> bytes:
    """What a server says."""
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", *fields, "", ""]
    return "\r\n".join(lines).encode() + body


def record(
    block: bytes,
    address: str = "https://harbour.example/ships",
    *fields: str,
    kind: str = "response",
    length: str = "",
    content: str = "application/http; msgtype=response",
) -> bytes:
    """One record, with the length that is right unless another is given."""
    lines = [
        "WARC/1.1",
        f"WARC-Type: {kind}",
        f"WARC-Target-URI: {address}",
        "WARC-Date: 2026-11-01T00:00:00Z",
        "WARC-Record-ID: <urn:uuid:8f8a52cf-1e9c-4a2b-9c39-0b2b1b8d3d11>",
        f"Content-Type: {content}",
        f"Content-Length: {length or len(block)}",
        *fields,
        "",
        "",
    ]
    return "\r\n".join(lines).encode() + block + b"\r\n\r\n"


def chunked(body: bytes, size: int) -> bytes:
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    sent = b"".join(b"%x;a=b\r\n%s\r\n" % (len(part), part) for part in parts)
    return sent + b"0\r\nTrailer: x\r\n\r\n"


def packed(records: list[bytes]) -> bytes:
    """Each record a gzip member of its own, as the standard recommends."""
    return b"".join(gzip.compress(one, mtime=0) for one in records)

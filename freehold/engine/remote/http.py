"""The wire to another server: one address, bounded reading, no proxy, no redirect, no resolver.

What a server sends is hostile until read: lines, bodies and streams have bounds, and what breaks
them is an ``EngineError`` that says so.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx
import msgspec

from freehold.engine.wire import Remote
from freehold.errors import BusyError, EngineError, FreeholdError, UsageError

MAX_BODY = 64 << 20
"""Bytes of an answer that comes whole (scores of a long prompt are the largest)."""
MAX_LINE = 1 << 20
MAX_WORDS = 300
"""Characters of a server's own error that are passed on."""
_CONNECT_SECONDS = 10.0
_DATA = b"data:"
_END = b"[DONE]"

AwayError = httpx.TransportError
"""The server cannot be reached, or hung up in the middle."""


class Wire:
    """HTTP to one server. ``close`` it. ``silence`` is how many seconds it may say nothing."""

    def __init__(self, remote: Remote, *, silence: float) -> None:
        self._base, headers, transport = _route(remote)
        if remote.key:
            headers["Authorization"] = f"Bearer {remote.key}"
        self._extensions = _server_name(remote)
        self._client = httpx.AsyncClient(
            transport=transport,
            headers=headers,
            timeout=httpx.Timeout(silence, connect=_CONNECT_SECONDS),
            trust_env=False,
            follow_redirects=False,
        )

    async def close(self) -> None:
        await self._client.aclose()

    async def ask(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, seconds: float = 0.0
    ) -> bytes:
        """One whole answer. Raises ``AwayError``, or the error that the server's status means."""
        async with self._sent(method, path, body, seconds) as response:
            data = bytearray()
            async for piece in response.aiter_bytes():
                data += piece
                if len(data) > MAX_BODY:
                    raise EngineError(f"the upstream server sent more than {MAX_BODY:,} bytes")
        if response.status_code != 200:
            raise refused(response.status_code, bytes(data[:MAX_LINE]))
        return bytes(data)

    async def stream(self, path: str, body: Mapping[str, Any]) -> AsyncGenerator[bytes, None]:
        """The documents of an event stream, until it says that it is done. Leaving early hangs up,
        which is how a request is cancelled there. Raises as ``ask``."""
        async with self._sent("POST", path, body, 0.0) as response:
            if response.status_code != 200:
                raise refused(response.status_code, await _head(response))
            async for line in lines(response.aiter_bytes()):
                if line.startswith(_DATA):
                    data = line[len(_DATA) :].strip()
                    if data == _END:
                        return
                    yield data
        raise httpx.RemoteProtocolError("the stream ended before the answer did")

    @asynccontextmanager
    async def _sent(
        self, method: str, path: str, body: Mapping[str, Any] | None, seconds: float
    ) -> AsyncIterator[httpx.Response]:
        request = self._client.build_request(
            method,
            self._base + path,
            content=None if body is None else msgspec.json.encode(body),
            headers={} if body is None else {"Content-Type": "application/json"},
            extensions=self._extensions,
            timeout=httpx.Timeout(seconds) if seconds else httpx.USE_CLIENT_DEFAULT,
        )
        response = await self._client.send(request, stream=True)
        try:
            yield response
        finally:
            await response.aclose()


async def lines(pieces: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """Bytes to lines without their ends. Raises ``EngineError`` for one of more than ``MAX_LINE``
    bytes."""
    rest = b""
    async for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            yield line.rstrip(b"\r")
        if len(rest) > MAX_LINE:
            raise EngineError(f"the upstream server sent a line of more than {MAX_LINE:,} bytes")


async def _head(response: httpx.Response) -> bytes:
    data = b""
    async for piece in response.aiter_bytes():
        data += piece
        if len(data) > MAX_LINE:
            break
    return data[:MAX_LINE]


def refused(status: int, body: bytes) -> FreeholdError:
    """The error that a status other than 200 means."""
    words = said(body)
    if status == 429:
        return BusyError(f"the upstream server is busy: {words}", retry_after=5)
    if status in (400, 413, 422):
        return UsageError(f"the upstream server refuses the request: {words}")
    if status in (401, 403):
        return EngineError(f"the upstream server refuses its key ({status}): set upstream_key")
    if status >= 500:
        return FailedError(f"the upstream server failed ({status}): {words}")
    return EngineError(f"the upstream server answers {status}: {words}")


class FailedError(EngineError):
    """The server says that it failed: it may be ending, and well again later."""


def said(body: bytes) -> str:
    """The words of an error document, or what there is, short and printable."""
    words = body.decode("utf-8", "replace")
    try:
        match msgspec.json.decode(body):
            case {"error": {"message": str(words)}} | {"error": str(words)}:
                pass
            case {"message": str(words)} | {"detail": str(words)}:
                pass
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        pass
    shown = "".join(c if c.isprintable() else " " for c in words).strip()
    return shown[:MAX_WORDS] or "it says nothing more"


def _route(remote: Remote) -> tuple[str, dict[str, str], httpx.AsyncHTTPTransport]:
    """The address to ask, the headers to send and the transport to take: by the figures that the
    host's name stood for at the start, never by the name."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
    if remote.address.startswith("unix:"):
        path = remote.address.removeprefix("unix:")
        transport = httpx.AsyncHTTPTransport(
            uds=path,
            verify=False,
            trust_env=False,
            limits=limits,
        )
        return "http://localhost", {}, transport
    parts = urlsplit(remote.address)
    host = f"[{remote.ip}]" if ":" in remote.ip else remote.ip
    port = "" if parts.port is None else f":{parts.port}"
    base = f"{parts.scheme}://{host}{port}{parts.path.rstrip('/')}"
    verify: ssl.SSLContext | bool = parts.scheme == "https"
    transport = httpx.AsyncHTTPTransport(verify=verify, trust_env=False, limits=limits)
    return base, {"Host": parts.netloc.rpartition("@")[2]}, transport


def _server_name(remote: Remote) -> dict[str, Any]:
    host = urlsplit(remote.address).hostname
    return {"sni_hostname": host} if remote.address.startswith("https:") and host else {}

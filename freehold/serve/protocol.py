"""HTTP/1.1 as uvicorn speaks it, with the defences its parser leaves to others.

uvicorn's fast parser has no limit on a request's head, none on how slowly a client may send or
read, and answers broken HTTP in plain text. This protocol adds the four.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from freehold.serve.errors import SERVER, Problem
from freehold.serve.wire import encode

CERTIFICATE = "certificate"
"""Where the state of a request over TLS holds the pin of its client's certificate, or ``None``."""

MAX_HEAD = 64 << 10
"""Bytes of request line and headers."""

MAX_CONNECTIONS = 1024
HEAD_SECONDS = 15.0
"""For a request's head to arrive, from the connection's start or its first byte."""

BODY_SECONDS = 60.0
"""For its body to arrive after that."""

STALL_SECONDS = 60.0
"""A reader that takes nothing for so long is cut off."""

_BAD = Problem(status=400, message="this is not a valid HTTP/1.1 request", code="invalid_http")
_HEAD = Problem(
    status=431, message=f"the request's head is larger than {MAX_HEAD} bytes", code="head_too_large"
)
_SLOW = Problem(status=408, message="the request took too long to arrive", code="slow_request")
_FULL = Problem(
    status=503,
    message=f"{MAX_CONNECTIONS} connections are open already: come back later",
    type=SERVER,
    code="too_many_connections",
    headers={"retry-after": "2"},
)
_PHRASES = {
    400: b"Bad Request",
    408: b"Request Timeout",
    431: b"Request Header Fields Too Large",
    503: b"Service Unavailable",
}


class GuardedProtocol(HttpToolsProtocol):
    """One client's connection."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._reading_head = True
        self._head_bytes = 0
        self._receive_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None

    # --- arriving ---------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # asyncio does this only for sockets made with an explicit protocol number; without it each
        # answer waits 40 ms for the client's delayed acknowledgement of the header packet.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if (connection := transport.get_extra_info("ssl_object")) is not None:
            from freehold.serve.tls import pin_of

            self.app_state = {**self.app_state, CERTIFICATE: pin_of(connection)}
        if len(self.connections) > MAX_CONNECTIONS:
            self._refuse(_FULL)
        else:
            self._expect(HEAD_SECONDS)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if self._reading_head:
            if self._head_bytes == 0:
                self._expect(HEAD_SECONDS)
            self._head_bytes += len(data)
        super().data_received(data)
        # Checked afterwards: this piece may have completed the head and be mostly body.
        if self._reading_head and self._head_bytes > MAX_HEAD:
            self._refuse(_HEAD)

    def on_headers_complete(self) -> None:
        self._reading_head = False
        self._head_bytes = 0
        self._expect(BODY_SECONDS)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._reading_head = True
        self._expect(None)
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(_BAD)

    def _expect(self, seconds: float | None) -> None:
        """Give the client ``seconds`` for what must come next; ``None``: as long as it likes."""
        if self._receive_timer is not None:
            self._receive_timer.cancel()
            self._receive_timer = None
        if seconds is not None:
            self._receive_timer = self.loop.call_later(seconds, self._too_slow)

    def _too_slow(self) -> None:
        cycle = self.cycle
        if self._reading_head:
            # An earlier request's answer may still be going out, if the client pipelines.
            mute = self._head_bytes == 0 or (cycle is not None and not cycle.response_complete)
        else:
            mute = cycle.response_started
        if mute:
            self.transport.abort()
        else:
            self._refuse(_SLOW)

    # --- leaving ----------------------------------------------------------------------------------

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stall_timer = self.loop.call_later(STALL_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        self._drop_stall()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._expect(None)
        self._drop_stall()
        super().connection_lost(exc)

    def _drop_stall(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    def _refuse(self, problem: Problem) -> None:
        """Answer without the application, and hang up."""
        self._expect(None)
        body = encode(problem.told())
        named = {
            **problem.headers,
            "content-type": "application/json",
            "content-length": str(len(body)),
            "connection": "close",
        }
        lines = b"".join(f"{name}: {value}\r\n".encode() for name, value in named.items())
        status = b"HTTP/1.1 %d %s\r\n" % (problem.status, _PHRASES[problem.status])
        self.transport.write(status + lines + b"\r\n" + body)
        self.transport.close()

"""A server that speaks the OpenAI API by script, on loopback or a unix socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Asked = dict[str, Any]
Writer = asyncio.StreamWriter


def chunk(token: int | None = None, finish: str | None = None, **more: Any) -> bytes:
    """One part of an answer in ids, as an event."""
    choice = {"index": 0, "text": "", "token_ids": [] if token is None else [token], **more}
    return event({"choices": [{**choice, "finish_reason": finish}]})


def event(document: Any) -> bytes:
    return b"data: " + json.dumps(document).encode() + b"\n\n"


def spoken(text: str, finish: str | None = None) -> bytes:
    """One part of an answer in text."""
    return event({"choices": [{"index": 0, "text": text, "finish_reason": finish}]})


DONE = b"data: [DONE]\n\n"


@dataclass(kw_only=True)
class Scripted:
    """``reply`` writes the body of a streamed answer; ``status`` other than 200 goes before it.
    ``ids`` false: token ids are refused, as by a server of text."""

    reply: Callable[[Asked, Writer], Awaitable[None]]
    ids: bool = True
    status: int = 200
    body: bytes = b""
    models: Any = field(default_factory=lambda: {"data": [{"id": "m", "max_model_len": 400}]})
    prompt_tokens: int | None = None
    asked: list[Asked] = field(default_factory=list)
    hung_up: asyncio.Event = field(default_factory=asyncio.Event)
    well: bool = True

    async def serve(self, reader: asyncio.StreamReader, writer: Writer) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while await self._once(reader, writer):
                pass
        writer.close()

    async def _once(self, reader: asyncio.StreamReader, writer: Writer) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        length = 0
        for line in head.split(b"\r\n"):
            if line.lower().startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        body = await reader.readexactly(length)
        path = head.split(b" ")[1].decode()
        if path == "/v1/models":
            return _whole(writer, 200, json.dumps(self.models).encode())
        if path == "/health":
            return _whole(writer, 200 if self.well else 503, b"")
        asked = json.loads(body)
        if not asked.get("stream"):
            return self._probe(asked, writer)
        self.asked.append(asked)
        if self.status != 200:
            return _whole(writer, self.status, self.body)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n")
        writer.write(b"Connection: close\r\n\r\n")
        answering = asyncio.create_task(self._answer(asked, writer))
        leaving = asyncio.create_task(reader.read(1))
        await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not answering.done() or answering.exception() is not None:
            self.hung_up.set()
            answering.cancel()
        leaving.cancel()
        await asyncio.gather(answering, leaving, return_exceptions=True)
        return False

    async def _answer(self, asked: Asked, writer: Writer) -> None:
        await self.reply(asked, writer)
        await writer.drain()

    def _probe(self, asked: Asked, writer: Writer) -> bool:
        if asked.get("prompt_logprobs") is not None:
            return _whole(writer, 200, self.body)
        if not self.ids and not isinstance(asked["prompt"], str):
            return _whole(writer, 400, b'{"error": {"message": "prompt must be text"}}')
        choice = {"index": 0, "text": "x", "finish_reason": "length"}
        if self.ids:
            choice["token_ids"] = [1]  # type: ignore[assignment]
        usage = {} if self.prompt_tokens is None else {"prompt_tokens": self.prompt_tokens}
        return _whole(writer, 200, json.dumps({"choices": [choice], "usage": usage}).encode())


def _whole(writer: Writer, status: int, body: bytes) -> bool:
    head = f"HTTP/1.1 {status} Said\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    writer.write(head.encode() + body)
    return False


def saying(*parts: bytes) -> Callable[[Asked, Writer], Awaitable[None]]:
    """A reply that never changes."""

    async def reply(asked: Asked, writer: Writer) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()

    return reply


@asynccontextmanager
async def listening(script: Scripted, at: Path) -> AsyncIterator[asyncio.Server]:
    """Have ``script`` answer at a unix socket."""
    server = await asyncio.start_unix_server(script.serve, at)
    try:
        yield server
    finally:
        server.close()
        await asyncio.to_thread(at.unlink, missing_ok=True)

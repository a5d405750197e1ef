"""Replies that are made while the client waits: whole or as server-sent events.

The work stops at once when the client hangs up, and in good order at the request's deadline.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from freehold.errors import FreeholdError
from freehold.serve.account import CHECKPOINT_HEADER, ENTRY_HEADER, Account
from freehold.serve.desk import Desk, Hosted
from freehold.serve.dialects import OPENAI, Dialect
from freehold.serve.errors import ClientGoneError, problem_of
from freehold.serve.guarding import HEADER, Watched
from freehold.serve.quotas import Spending
from freehold.serve.wire import encode

T = TypeVar("T")

DIGEST_HEADER = "freehold-model-digest"
ADAPTER_HEADER = "freehold-adapter-digest"

_PATIENCE = 1.0
"""Seconds a stream's status line waits for the engine's first word. A full queue says so at once,
and then the client gets its 429; a long prompt takes longer, and then the 200 goes out first."""


class Outlet:
    """Where one reply goes out: call ``whole`` or ``stream``, once. ``account`` is its entry in the
    ledger: nothing goes out before that is open. ``spending`` is what it costs the key, ``watched``
    its guard."""

    def __init__(
        self,
        send: Send,
        hosted: Hosted,
        account: Account,
        spending: Spending,
        dialect: Dialect,
        *,
        watched: Watched | None,
    ) -> None:
        self._send = send
        self.spending = spending
        self.watched = watched
        self._dialect = dialect
        self._digests = [(DIGEST_HEADER.encode(), hosted.card.digest.encode())]
        if hosted.adapter:
            self._digests.append((ADAPTER_HEADER.encode(), hosted.adapter.encode()))
        self.account = account
        self.streaming = False

    async def whole(self, data: object) -> None:
        """Send ``data`` as a JSON body with status 200."""
        body = encode(data)
        length = (b"content-length", str(len(body)).encode())
        await self._begin((b"content-type", b"application/json"), length)
        await self._send({"type": "http.response.body", "body": body})

    async def stream(self, chunks: AsyncGenerator[bytes]) -> None:
        """Send ``chunks`` as they come, and what ends a stream."""
        async with aclosing(chunks):
            chunk = await self._first(chunks)
            while chunk is not None:
                await self._write(chunk)
                chunk = await anext(chunks, None)
        # Comments, which clients that do not know of them skip.
        told = b"".join(b": %s %s\n\n" % pair for pair in self._late())
        await self._write(told + self._dialect.end, more=False)

    async def fail(self, error: FreeholdError) -> None:
        """End a stream that has begun with an error event instead."""
        await self._write(self._dialect.break_off(problem_of(error)), more=False)

    async def _first(self, chunks: AsyncGenerator[bytes]) -> bytes | None:
        first = asyncio.ensure_future(anext(chunks, None))
        try:
            await asyncio.wait({first}, timeout=_PATIENCE)
            if first.done() and first.exception() is not None:
                return first.result()
            await self._begin(
                (b"content-type", b"text/event-stream; charset=utf-8"),
                (b"cache-control", b"no-store"),
                (b"x-accel-buffering", b"no"),
                streaming=True,
            )
            return await first
        finally:
            # The generator may only be closed once nobody is inside it.
            first.cancel()
            await asyncio.wait({first})

    async def _begin(self, *headers: tuple[bytes, bytes], streaming: bool = False) -> None:
        named = [*headers, *self._digests]
        entry = await self.account.opened()
        if self.watched is not None:
            await self.watched.settled()
        if entry is not None:
            named.append((ENTRY_HEADER.encode(), str(entry).encode()))
        named += self._late()
        self.streaming = streaming
        await self._send({"type": "http.response.start", "status": 200, "headers": named})

    def _late(self) -> list[tuple[bytes, bytes]]:
        """Headers of which more is known at the end of a stream than at its beginning."""
        told = []
        if self.watched is not None:
            told.append((HEADER.encode(), self.watched.header))
        if self.account.header:
            told.append((CHECKPOINT_HEADER.encode(), self.account.header))
        return told

    async def _write(self, body: bytes, *, more: bool = True) -> None:
        await self._send({"type": "http.response.body", "body": body, "more_body": more})


class Reply(Response):
    """Runs ``make`` inside the queue, the deadline and the client's patience."""

    def __init__(
        self,
        desk: Desk,
        hosted: Hosted,
        make: Callable[[Outlet], Awaitable[None]],
        spending: Spending,
        dialect: Dialect = OPENAI,
        *,
        watched: Watched | None = None,
    ) -> None:
        super().__init__()
        self._desk = desk
        self._hosted = hosted
        self._make = make
        self._spending = spending
        self._dialect = dialect
        self._watched = watched

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        account = self._desk.ledgers.account()
        outlet = Outlet(
            send, self._hosted, account, self._spending, self._dialect, watched=self._watched
        )
        await while_connected(receive, self._run(outlet))

    async def _run(self, outlet: Outlet) -> None:
        try:
            with self._desk.admission.place():
                async with self._desk.deadlines.deadline():
                    await self._make(outlet)
        except FreeholdError as error:
            await outlet.account.fail(problem_of(error).code)
            if not outlet.streaming:
                raise
            self._desk.metrics.refused(problem_of(error).code or "none")
            await outlet.fail(error)
        except asyncio.CancelledError:
            outlet.account.abandon("cancelled")
            raise
        except BaseException:
            outlet.account.abandon("failed")
            raise
        finally:
            outlet.spending.end()
            if self._watched is not None:
                self._watched.end()


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Await ``work``, but cancel it as soon as the client hangs up.

    Raises ``ClientGoneError`` then.
    """
    working = asyncio.create_task(work)
    listening = asyncio.create_task(_hang_up(receive))
    try:
        await asyncio.wait({working, listening}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGoneError("the client hung up before its answer was complete")
        return working.result()
    finally:
        working.cancel()
        listening.cancel()
        await asyncio.gather(working, listening, return_exceptions=True)


async def _hang_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass

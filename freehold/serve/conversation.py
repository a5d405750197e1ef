"""A conversation's next turn, whichever API asked for it.

Chat completions, Responses and Messages differ in how a request is written and an answer told. What
lies between is here: prompt, grammar, engine, ledger, and the choices as they come.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from typing import Any, Protocol

from starlette.requests import Request

from freehold.serve import parts, structured, tools
from freehold.serve.answer import Ask, Piece, Usage, answer, interleave
from freehold.serve.asker import asker_of, record
from freehold.serve.desk import Desk, Served
from freehold.serve.dialects import Dialect
from freehold.serve.guarding import Watched
from freehold.serve.quotas import Spending
from freehold.serve.reply import Outlet, Reply
from freehold.serve.sampling import check_choices, sampling
from freehold.serve.schema import ChatRequest
from freehold.serve.turn import Turn
from freehold.types import Heard


class Form(Protocol):
    """How one API tells answers: whole, or event by event. ``calls`` begins the ids of calls."""

    dialect: Dialect
    calls: str

    def whole(self, turns: Sequence[Turn], usage: Usage) -> dict[str, Any]:
        """The reply's body."""
        ...

    def begun(self, index: int, usage: Usage) -> Iterable[bytes]:
        """The prompt of choice ``index`` has been read."""
        ...

    def said(self, index: int, turn: Turn, heard: Heard) -> Iterable[bytes]:
        """A choice has brought ``heard``, which is in its ``turn`` already."""
        ...

    def ended(self, index: int, turn: Turn) -> Iterable[bytes]:
        """A choice is complete."""
        ...

    def closed(self, turns: Sequence[Turn], usage: Usage) -> Iterable[bytes]:
        """All are."""
        ...


def converse(request: Request, desk: Desk, asked: ChatRequest, form: Form) -> Reply:
    """Answer ``asked`` in ``form``. Raises ``UsageError`` or ``ProblemError``."""
    served = desk.find(asked.model, request)
    check_choices(asked.n, desk.limits)
    work = _Conversation(desk, served, asked, request, form)
    spending, watched = desk.spending(request, served), desk.watched(request)
    return Reply(desk, served.hosted, work.run, spending, form.dialect, watched=watched)


class _Conversation:
    """One conversation's next turn, ``asked.n`` times."""

    def __init__(
        self, desk: Desk, served: Served, asked: ChatRequest, request: Request, form: Form
    ) -> None:
        self._desk = desk
        self._asker = asker_of(request)
        self._served = served
        self._asked = asked
        self._form = form
        codec = served.hosted.codec
        self._held = tools.held(asked, codec, structured.held(asked.response_format))
        self._tools = tools.shown(asked, codec)
        self._messages = [message.shown() for message in asked.messages]

    async def run(self, outlet: Outlet) -> None:
        hosted, watched = self._served.hosted, outlet.watched
        given = {"messages": self._messages, "options": self._asked.options}
        if self._tools:
            given["tools"] = self._tools
        if watched is not None:
            await self._judge(watched)
        asks, usage = await self._asks(outlet.spending, watched)
        leaf = record(self._asker, hosted, asks, self._asked.n, given, watched=watched)
        outlet.account.open(leaf, usage)
        alone = bool(tools.stops(self._asked))
        turns = [
            Turn(hosted.codec.listener(ask.ids, self._tools), prefix=self._form.calls, alone=alone)
            for ask in asks
        ]
        answers = [
            self._answer(ask, usage, turn, watched) for ask, turn in zip(asks, turns, strict=True)
        ]
        pieces = interleave(answers, self._desk.limits.at_once)
        pieces = outlet.account.sealed(pieces, len(asks))
        if self._asked.stream:
            await outlet.stream(self._events(pieces, turns, usage))
        else:
            async with aclosing(pieces):
                async for piece in pieces:
                    turns[piece.index].take(piece)
            await outlet.whole(self._form.whole(turns, usage))

    async def _judge(self, watched: Watched) -> None:
        """Have the guard read the conversation, and mask in it what is to be masked."""
        callers = tools.callers(self._asked.messages)
        said, places = parts.of_conversation(self._messages, self._tools, callers)
        (texts,) = await watched.judge(said, beside=True)
        self._messages = parts.with_texts(self._messages, places, texts)

    def _answer(
        self, ask: Ask, usage: Usage, turn: Turn, watched: Watched | None
    ) -> AsyncGenerator[Piece]:
        if watched is not None and watched.stopped:
            return watched.refused(ask.index, usage)
        hosted = self._served.hosted
        pieces = answer(hosted.engine, hosted.codec, ask, usage, self._served.meter)
        if watched is None:
            return pieces
        stream = self._asked.stream
        return watched.answer(pieces, usage, index=ask.index, hear=turn.hear, stream=stream)

    async def _asks(self, spending: Spending, watched: Watched | None) -> tuple[list[Ask], Usage]:
        asked, served = self._asked, self._served
        ids = await served.tokenising.chat(self._messages, asked.options, self._tools)
        codec, held = served.hosted.codec, self._held
        if held is not None:
            grammar = codec.after_thinking(ids, held.grammar)
            held = structured.limited(grammar, held.param)
        cutoff = None if asked.budget is None else codec.cutoff(ids, asked.budget)
        name, wanted = asked.limit
        most = served.tokenising.room(len(ids), name, wanted)
        told = tuple if watched is None else watched.told
        usage = Usage(prompt_tokens=len(ids), choices_per_prompt=asked.n, verdicts=told)
        firm = wanted is not None
        max_tokens = await spending.begin(usage, answers=asked.n, most=most, firm=firm)
        top = (asked.top_logprobs or 0) if asked.logprobs else None
        seed = secrets.randbits(63) if asked.seed is None else asked.seed
        asks = [
            Ask(
                index=choice,
                ids=ids,
                sampling=sampling(
                    asked,
                    served.hosted,
                    max_tokens=max_tokens,
                    top=top,
                    seed=seed,
                    choice=choice,
                    held=held,
                    cutoff=cutoff,
                ),
                stop=(*asked.stop, *tools.stops(asked)),
                held=held,
            )
            for choice in range(asked.n)
        ]
        return asks, usage

    async def _events(
        self, pieces: AsyncGenerator[Piece], turns: Sequence[Turn], usage: Usage
    ) -> AsyncGenerator[bytes]:
        form = self._form
        async with aclosing(pieces):
            async for piece in pieces:
                turn = turns[piece.index]
                if not (piece.text or piece.tokens or piece.finish):
                    for event in form.begun(piece.index, usage):
                        yield event
                for event in form.said(piece.index, turn, turn.take(piece)):
                    yield event
                if piece.finish is not None:
                    for event in form.ended(piece.index, turn):
                        yield event
        for event in form.closed(turns, usage):
            yield event

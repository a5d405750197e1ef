"""One answer, from engine events to text: decoded, stopped, counted, with its log-probabilities."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from freehold.errors import EngineError, UsageError
from freehold.serve.metrics import Meter, TokenClock
from freehold.serve.structured import Held
from freehold.types import (
    Answered,
    Codec,
    Done,
    Engine,
    Event,
    FinishReason,
    Floats,
    Heard,
    Ids,
    Prefilled,
    Sampling,
    Token,
)

Finish: TypeAlias = FinishReason | Literal["content_filter"]
"""``content_filter``: the guard stopped the answer, or its prompt."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """A token as clients see it: its bytes, log-probability (``None`` for a text's very first
    token) and the best alternatives, best first."""

    text: bytes
    logprob: float | None
    top: tuple[tuple[bytes, float], ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """What choice ``index`` says next. ``tokens`` is empty unless log-probabilities were asked
    for; ``count`` is how many there have been. The first piece of a choice is empty: its prompt has
    been read. The last has ``finish``, and ``stop`` if it was a stop string that ended it.
    ``turns`` are the prompt's: who speaks, and what a readout says of the rows, if there is one."""

    index: int
    text: str = ""
    tokens: tuple[Scored, ...] = ()
    count: int = 0
    finish: Finish | None = None
    stop: str | None = None
    turns: tuple[tuple[str, Floats], ...] = ()
    heard: Heard | None = None


@dataclass(frozen=True, kw_only=True)
class Ask:
    """One choice to generate."""

    index: int
    ids: Ids
    sampling: Sampling
    stop: Sequence[str] = ()
    held: Held | None = None


@dataclass(kw_only=True)
class Said:
    """What one choice has come to so far: every token of the engine's, and the text let out."""

    ids: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    finish: Finish | None = None


@dataclass(kw_only=True)
class Usage:
    """What one request has brought. Tokens are counted in OpenAI's sense: a prompt once, whatever
    ``n`` is."""

    prompt_tokens: int
    completion_tokens: int = 0
    cached: dict[int, int] = field(default_factory=dict)
    """Cached prompt tokens by choice."""

    choices_per_prompt: int = 1
    said: dict[int, Said] = field(default_factory=dict)
    """By choice."""

    verdicts: Callable[[], tuple[str, ...]] = tuple
    """What the guard has decided so far, for the ledger."""

    def answered(self) -> tuple[Answered, ...]:
        """Every choice as it is now, in order."""
        return tuple(
            Answered(ids=tuple(one.ids), text="".join(one.texts), finish=one.finish)
            for _, one in sorted(self.said.items())
        )

    def json(self) -> dict[str, object]:
        """OpenAI's usage object."""
        first = sum(n for i, n in self.cached.items() if i % self.choices_per_prompt == 0)
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": first},
        }


def scored(
    codec: Codec, token: int, logprob: float | None, top: Sequence[tuple[int, float]]
) -> Scored:
    """A token's numbers with ids turned to bytes."""
    return Scored(
        text=codec.token_bytes(token),
        logprob=logprob,
        top=tuple((codec.token_bytes(other), value) for other, value in top),
    )


class _Held:
    """Tokens whose text is not out yet: a decoder holds back half characters and stop strings."""

    def __init__(self, codec: Codec, wanted: bool) -> None:
        self._codec = codec
        self._wanted = wanted
        self._tokens: list[Scored] = []
        self._ahead = 0
        """Bytes of the tokens received, less bytes of the text released."""

    def add(self, token: Token) -> None:
        if self._wanted:
            one = scored(self._codec, token.id, token.logprob, token.top)
            self._tokens.append(one)
            self._ahead += len(one.text)

    def release(self, text: str) -> tuple[Scored, ...]:
        """The tokens that go out with ``text``."""
        if not self._wanted:
            return ()
        self._ahead -= len(text.encode())
        out, self._tokens = tuple(self._tokens), []
        return out

    def release_stopped(self, text: str) -> tuple[Scored, ...]:
        """The same at a stop string: tokens that lie wholly in what was cut off stay behind."""
        if not self._wanted:
            return ()
        cut = self._ahead - len(text.encode())
        while self._tokens and len(self._tokens[-1].text) <= cut:
            cut -= len(self._tokens.pop().text)
        return tuple(self._tokens)


async def answer(
    engine: Engine, codec: Codec, ask: Ask, usage: Usage, meter: Meter
) -> AsyncGenerator[Piece]:
    """Generate one choice. Closing this generator cancels the engine's request.

    Raises what ``Engine.generate`` raises.
    """
    held = _Held(codec, ask.sampling.logprobs is not None)
    decoder = codec.decoder(ask.stop)
    clock = meter.clock(ask.index)
    said = usage.said.setdefault(ask.index, Said())
    async with aclosing(_events(engine, ask, clock)) as events:
        async for event in events:
            match event:
                case Token():
                    usage.completion_tokens += 1
                    clock.token()
                    held.add(event)
                    said.ids.append(event.id)
                    delta = decoder.push(event.id)
                    said.texts.append(delta.text)
                    if delta.stopped:
                        said.finish = "stop"
                        yield Piece(
                            index=ask.index,
                            text=delta.text,
                            tokens=held.release_stopped(delta.text),
                            count=len(said.ids),
                            finish="stop",
                            stop=delta.stop,
                        )
                        return
                    if delta.text:
                        tokens, n = held.release(delta.text), len(said.ids)
                        yield Piece(index=ask.index, text=delta.text, tokens=tokens, count=n)
                case Prefilled():
                    usage.cached[ask.index] = event.cached_tokens
                    clock.prefilled(event)
                    yield Piece(index=ask.index, turns=_turns(codec, ask.ids, event))
                case Done():
                    delta = decoder.finish()
                    reason: FinishReason = "stop" if delta.stopped else event.reason
                    said.texts.append(delta.text)
                    said.finish = reason
                    tokens = held.release(delta.text)
                    yield Piece(
                        index=ask.index,
                        text=delta.text,
                        tokens=tokens,
                        count=len(said.ids),
                        finish=reason,
                        stop=delta.stop,
                    )
                    return
    raise EngineError("the engine broke off an answer: ask again, or see the server's log")


def _turns(codec: Codec, ids: Ids, event: Prefilled) -> tuple[tuple[str, Floats], ...]:
    rows = event.readout
    if rows is None:
        return ()
    return tuple((turn.role, rows[turn.start : turn.stop]) for turn in codec.turns(ids))


async def _events(engine: Engine, ask: Ask, clock: TokenClock) -> AsyncGenerator[Event]:
    """What the engine says; of a grammar, in the words of the field that asked for it."""
    try:
        with clock:
            async with aclosing(engine.generate(ask.ids, ask.sampling)) as events:
                async for event in events:
                    yield event
    except UsageError as error:
        if error.param != "grammar" or ask.held is None:
            raise
        message = ask.held.param + str(error).removeprefix("grammar")
        raise UsageError(message, param=ask.held.param) from error


async def interleave(
    answers: Sequence[AsyncGenerator[Piece]], at_once: int
) -> AsyncGenerator[Piece]:
    """Pieces of all answers as they come, at most ``at_once`` answers running at a time.

    One answer's failure ends them all. Closing this generator closes every answer.
    """
    if len(answers) == 1:
        async with aclosing(answers[0]) as only:
            async for piece in only:
                yield piece
        return
    ready: asyncio.Queue[Piece | asyncio.Task[None]] = asyncio.Queue()
    gate = asyncio.Semaphore(at_once)
    pumps = [asyncio.create_task(_pump(one, ready, gate)) for one in answers]
    for pump in pumps:
        pump.add_done_callback(ready.put_nowait)
    try:
        left = len(pumps)
        while left:
            item = await ready.get()
            if isinstance(item, Piece):
                yield item
            else:
                item.result()
                left -= 1
    finally:
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


async def _pump(
    source: AsyncGenerator[Piece],
    ready: asyncio.Queue[Piece | asyncio.Task[None]],
    gate: asyncio.Semaphore,
) -> None:
    async with gate, aclosing(source):
        async for piece in source:
            ready.put_nowait(piece)

"""Asking the other server: one answer, one score, whether it is well.

Until the first token of an answer has come, a server that is away is waited for and asked again;
after it, the request fails, for a second try would say something else.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np

from freehold.engine.remote import words
from freehold.engine.remote.http import AwayError, FailedError, Wire
from freehold.engine.remote.words import Chunk, Speech
from freehold.engine.wire import AnyEvent, Done, Prefilled, Remote, Scored, Token
from freehold.errors import EngineError, UsageError
from freehold.qwen.tokenizer import Tokenizer
from freehold.types import FinishReason, Ids, Sampling

_COMPLETIONS = "/v1/completions"
_HEALTH = "/health"
_HEALTH_SECONDS = 10.0
_ASK_AGAIN = 0.5
MOST_TRIES = 3
MOST_EMPTY = 10_000
"""Parts of a stream that bring no token, in a row."""
PROBE = "The bank opens at 9:30; Straße, 12€ — 你好, 世界!\n"
"""What is counted in tokens here and there, to see whether both mean the same by a token."""


@dataclass(frozen=True, kw_only=True)
class Server:
    """What was found out about the server: its name for the model, what it is spoken to in, how
    many tokens its context has (0: it does not say)."""

    name: str
    speech: Speech
    context: int


@dataclass(kw_only=True)
class _Progress:
    """How far one answer has come: the tokens that were sent on, and whether anything was."""

    ids: list[int] = field(default_factory=list)
    begun: bool = False


class Talk:
    """Speaks to one server for a model whose text ``tokenizer`` reads, with ids below ``vocab``."""

    def __init__(self, remote: Remote, wire: Wire, tokenizer: Tokenizer, vocab: int) -> None:
        self._remote, self._wire = remote, wire
        self._tokenizer, self._vocab = tokenizer, vocab
        self._single = {tokenizer.token_bytes(i): i for i in range(vocab - 1, -1, -1)}
        self.server = Server(name="", speech="text", context=0)

    # --- what server it is ------------------------------------------------------------------------

    async def meet(self) -> Server:
        """Wait for the server, and find out what it is. Raises ``EngineError`` where it does not
        come, or is not one for this model."""
        until = time.monotonic() + self._remote.start_seconds
        while True:
            try:
                listed = words.read_models(
                    await self._wire.ask("GET", "/v1/models", seconds=_HEALTH_SECONDS)
                )
                break
            except (AwayError, FailedError) as error:
                if time.monotonic() > until:
                    raise EngineError(f"{self._where} does not answer: {error}") from None
                await asyncio.sleep(_ASK_AGAIN)
        known = {one.id: one for one in listed}
        name = self._remote.name or (listed[0].id if len(known) == 1 else "")
        if name not in known:
            asked = f"no model {name!r}" if name else "several models"
            raise EngineError(
                f"{self._where} has {asked}; it has {', '.join(sorted(known)[:20]) or 'none'}: "
                "name one with --upstream-model"
            )
        self.server = Server(
            name=name, speech=await self._probe(name), context=known[name].max_model_len or 0
        )
        return self.server

    async def _probe(self, name: str) -> Speech:
        """Whether it takes and gives token ids; refuses one that counts tokens differently."""
        ids = self._tokenizer.encode(PROBE)
        asked = {"model": name, "prompt": ids, "max_tokens": 1, "return_token_ids": True}
        try:
            found = words.read(await self._wire.ask("POST", _COMPLETIONS, asked))
            if found.choices and found.choices[0].token_ids is not None:
                return "ids"
        except (UsageError, FailedError):
            pass  # it wants text; llama.cpp's Python server says so with a 500
        asked = {"model": name, "prompt": PROBE, "max_tokens": 1}
        found = words.read(await self._wire.ask("POST", _COMPLETIONS, asked))
        if found.usage is not None and found.usage.prompt_tokens not in (0, len(ids)):
            raise EngineError(
                f"{self._where} counts {found.usage.prompt_tokens} tokens where this model's "
                f"tokenizer counts {len(ids)}: it runs another model; serve the one that it runs"
            )
        return "text"

    async def well(self) -> None:
        """Return if the server says that it is. Raises ``EngineError``."""
        try:
            await self._wire.ask("GET", _HEALTH, seconds=_HEALTH_SECONDS)
        except AwayError as error:
            raise EngineError(f"{self._where} does not answer: {error or 'it hung up'}") from None
        except FailedError:
            raise
        except EngineError:
            return  # it answers, and knows no such path

    @property
    def _where(self) -> str:
        return "vLLM" if self._remote.ours else f"the server at {self._remote.address}"

    # --- one answer -------------------------------------------------------------------------------

    async def generate(self, ids: Ids, sampling: Sampling, room: int) -> AsyncGenerator[AnyEvent]:
        """Events of one answer of at most ``room`` tokens, all with request number 0."""
        cutoff, progress = sampling.cutoff, _Progress()
        if cutoff is not None and sampling.grammar is not None:
            raise UsageError(
                "a budget for reasoning together with structured output is more than the server "
                "behind this model does: leave out one of them"
            )
        limit = min(sampling.max_tokens, room)
        # Reasoning is cut off between two requests, the second of which holds what was put in.
        goals = [limit] if cutoff is None or cutoff.after >= limit else [cutoff.after, limit]
        reason: FinishReason = "length"
        for goal in goals:
            part = replace(sampling, cutoff=None, max_tokens=max(goal, 1))
            if len(progress.ids) < goal:
                async with aclosing(self._answer(ids, part, progress)) as events:
                    async for event in events:
                        if isinstance(event, Done):
                            reason = event.reason
                            break
                        yield event
            if reason == "stop":
                break
            if cutoff is not None and goal < limit and cutoff.unless not in progress.ids:
                if not progress.begun:
                    progress.begun = True
                    yield Prefilled(0, len(ids), 0)
                for token in cutoff.ids[: limit - len(progress.ids)]:
                    progress.ids.append(token)
                    yield Token(0, token)
        yield Done(0, reason, len(progress.ids))

    async def _answer(
        self, ids: Ids, sampling: Sampling, progress: _Progress
    ) -> AsyncGenerator[AnyEvent]:
        tries = 0
        while True:
            try:
                async with aclosing(self._attempt(ids, sampling, progress)) as events:
                    async for event in events:
                        yield event
                return
            except (AwayError, FailedError) as error:
                tries += 1
                if progress.begun:
                    raise EngineError(
                        f"{self._where} ended in the middle of the answer: ask again"
                    ) from None
                await self._back(error, tries)

    async def _back(self, error: Exception, tries: int) -> None:
        """Wait until the server is well again. Raises ``EngineError`` when that takes too long."""
        until = time.monotonic() + self._remote.patience
        failed = isinstance(error, FailedError)
        while tries <= MOST_TRIES and time.monotonic() < until:
            # One that has failed may say for a moment yet that it is well.
            await asyncio.sleep(_ASK_AGAIN * (4 if failed else 1))
            try:
                await self.well()
            except EngineError:
                continue
            return
        if failed:
            raise EngineError(str(error))
        raise EngineError(
            f"{self._where} is away ({str(error) or type(error).__name__}): try again later"
        )

    async def _attempt(
        self, ids: Ids, sampling: Sampling, progress: _Progress
    ) -> AsyncGenerator[AnyEvent]:
        """Ask once for what is still missing of the answer, until it has ``sampling.max_tokens``
        tokens."""
        given = [*ids, *progress.ids]
        prompt: Ids | str = given
        if self.server.speech == "text":
            prompt = b"".join(map(self._tokenizer.token_bytes, given)).decode("utf-8", "replace")
        missing = replace(sampling, max_tokens=sampling.max_tokens - len(progress.ids))
        body = words.body(self.server.name, prompt, missing, speech=self.server.speech)
        empty = 0
        async with aclosing(self._wire.stream(_COMPLETIONS, body)) as chunks:
            async for data in chunks:
                chunk = _checked(words.read(data))
                if not progress.begun and chunk.choices:
                    progress.begun = True
                    yield Prefilled(0, len(ids), 0)
                tokens, reason = self._tokens(chunk, sampling)
                empty = 0 if tokens else empty + 1
                if empty > MOST_EMPTY:
                    raise EngineError(f"{self._where} sends on and on, and no token")
                for token in tokens:
                    if token.id in sampling.stop_ids:
                        reason = "stop"
                        break
                    if len(progress.ids) == sampling.max_tokens:
                        reason = "length"
                        break
                    progress.ids.append(token.id)
                    yield token
                if reason is None and len(progress.ids) == sampling.max_tokens:
                    reason = "length"
                if reason is not None:
                    yield Done(0, reason, len(progress.ids))
                    return
        raise EngineError(f"{self._where} ended an answer without saying why")

    def _tokens(self, chunk: Chunk, sampling: Sampling) -> tuple[list[Token], FinishReason | None]:
        """The tokens of one part, and why the answer ends with it, if it does."""
        if not chunk.choices:
            return [], None
        choice = chunk.choices[0]
        if choice.finish_reason not in (None, "stop", "length"):
            raise EngineError(f"{self._where} ended the answer: {choice.finish_reason[:80]}")
        reason = cast("FinishReason | None", choice.finish_reason)
        if self.server.speech == "text":
            return [Token(0, token) for token in self.encode(choice.text)], reason
        ids = choice.token_ids or []
        for token in ids:
            if not 0 <= token < self._vocab:
                raise EngineError(f"{self._where} sent token {token}, which does not exist")
        if sampling.logprobs is None:
            return [Token(0, token) for token in ids], reason
        told = choice.logprobs
        tops = (told.top_logprobs if told else None) or []
        if told is None or len(told.token_logprobs) != len(ids) or len(tops) != len(ids):
            raise EngineError(f"{self._where} sent tokens without their log-probabilities")
        return [
            Token(0, token, value, self._known(words.best(top, sampling.logprobs)))
            for token, value, top in zip(ids, told.token_logprobs, tops, strict=True)
        ], reason

    def _known(self, pairs: list[tuple[int, float]]) -> list[tuple[int, float]]:
        if any(token >= self._vocab for token, _ in pairs):
            raise EngineError(f"{self._where} names a token that does not exist")
        return pairs

    def encode(self, text: str) -> list[int]:
        """Ids that spell just this text: the tokenizer's where they do, else byte by byte (it
        would write some characters differently, and take a special token's name for the token)."""
        if not text:
            return []
        ids = self._tokenizer.encode(text)
        raw = text.encode("utf-8", "replace")
        exact = b"".join(map(self._tokenizer.token_bytes, ids)) == raw
        if exact and self._tokenizer.special_ids.isdisjoint(ids):
            return ids
        return [self._single[raw[i : i + 1]] for i in range(len(raw))]

    # --- one score --------------------------------------------------------------------------------

    async def score(self, ids: Ids, top: int) -> Scored:
        """What the model gives to each of ``ids``, as one event with request number 0."""
        if self.server.speech != "ids":
            raise UsageError(
                "the server behind this model is spoken to in text and scores no tokens"
            )
        tries = 0
        while True:
            try:
                data = await self._wire.ask(
                    "POST", _COMPLETIONS, words.score_body(self.server.name, ids, top)
                )
                break
            except (AwayError, FailedError) as error:
                tries += 1
                await self._back(error, tries)
        chunk = _checked(words.read(data))
        if not chunk.choices:
            raise EngineError(f"{self._where} sent no scores")
        choice = chunk.choices[0]
        values, tops = words.prompt_scores(choice.prompt_logprobs, ids, top)
        last = choice.logprobs.top_logprobs if choice.logprobs else None
        tops.append(self._known(words.best(last[0], top)) if last else [])
        packed = np.array([*values, np.nan], "<f4").tobytes()
        return Scored(0, packed, [self._known(best) for best in tops], [], last=True)


def _checked(chunk: Chunk) -> Chunk:
    """A part that is no error. One of the server's own failures may pass; another is the
    request's."""
    if chunk.error is None:
        return chunk
    code = chunk.error.code
    message = "".join(c if c.isprintable() else " " for c in chunk.error.message)[:300]
    if isinstance(code, int) and 400 <= code < 500:
        raise UsageError(f"the upstream server refuses the request: {message}")
    raise FailedError(f"the upstream server failed: {message}")

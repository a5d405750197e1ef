"""Runs requests through the model, step by step, and says what happened to each.

The scheduler decides, the model computes, the sampler chooses; this is where they meet. Everything
happens in one thread, and nothing here knows of processes or sockets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import replace
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from freehold.engine.adapters import Adapters
from freehold.engine.drafting import Drafter
from freehold.engine.grammar import Constraint, Grammars, Vocabulary
from freehold.engine.limits import (
    check_ids,
    check_room,
    check_sampling,
    check_taps,
    check_top,
)
from freehold.engine.pooling import LayerPooler, Pooler
from freehold.engine.readouts import Readouts
from freehold.engine.request import Request
from freehold.engine.rows import Rows
from freehold.engine.sampler import Chooser, score_rows
from freehold.engine.scheduler import SCORE_ROWS, Scheduler, Share
from freehold.engine.speculation import Speculator
from freehold.engine.taps import Watch
from freehold.engine.wire import (
    SOFT_FRAME,
    AnyEvent,
    Done,
    Embed,
    Embedded,
    EngineSettings,
    Failed,
    Generate,
    Pool,
    Prefilled,
    Score,
    Scored,
    Token,
    cost,
)
from freehold.errors import FreeholdError, UsageError
from freehold.faults import fault_of
from freehold.qwen.adapter import Adapter
from freehold.qwen.config import Config
from freehold.qwen.model import Span
from freehold.qwen.ops import Cache, Ops, TapFn
from freehold.types import EngineStats, Floats, ModelCard, Tap, VerifiedModel


class Machine(Protocol):
    """What is asked of ``qwen.model.Model``."""

    @property
    def config(self) -> Config: ...
    @property
    def card(self) -> ModelCard: ...
    @property
    def cache(self) -> Cache: ...
    @property
    def ops(self) -> Ops: ...

    def final_norm(self, x_td: Floats) -> Floats: ...

    def adapter(self, found: VerifiedModel) -> Adapter: ...

    def forward(
        self, spans: Sequence[Span], *, tap: TapFn | None = None
    ) -> list[npt.NDArray[np.float32] | None]: ...


_COMPILE_WAIT = 0.005
"""Seconds to wait for a grammar before looking again for what the counter sent."""


class Runner:
    """All requests of one model. ``vocabulary`` gives the model's, for grammars, ``fetch`` an
    adapter of the vault; without, there are none. Raises ``UsageError`` for settings that cannot
    be."""

    def __init__(
        self,
        model: Machine,
        settings: EngineSettings,
        *,
        draft: Machine | None = None,
        vocabulary: Callable[[], Vocabulary] | None = None,
        fetch: Callable[[str], VerifiedModel] | None = None,
    ) -> None:
        _check_settings(settings)
        self.scheduler = Scheduler(
            model.cache,
            max_running=settings.max_running,
            max_waiting=settings.max_waiting,
            step_tokens=settings.step_tokens,
            score_rows=self._score_rows,
        )
        self.adapters = Adapters(model, fetch)
        self._model = model
        self._speculator = _speculator(model, settings, draft)
        self._readouts = _readouts(model, settings)
        self._requests: dict[int, Request] = {}
        self._grammars = Grammars(vocabulary, model.card.vocab) if vocabulary else None
        self._compiling: dict[int, tuple[Generate, Future[Constraint], Adapter | None]] = {}
        # A sequence longer than the whole cache could never end.
        context = min(model.card.context, self.scheduler.max_tokens)
        caps = model.card.caps | {"embed"} | ({"grammar"} if vocabulary else set())
        caps |= {"readout"} if self._readouts else set()
        caps = caps if self.adapters.taken else caps - {"adapters"}
        self.card = replace(model.card, context=context, caps=caps)

    def step(self) -> list[AnyEvent] | None:
        """Advance every request that can be, by one forward pass; ``None`` if none can."""
        refused = self._compiled()
        if self._speculator is not None:
            self._speculator.prepare(self.scheduler.running)
        if not (shares := self.scheduler.plan()):
            if self._compiling:
                futures = [future for _, future, _ in self._compiling.values()]
                wait(futures, _COMPILE_WAIT, FIRST_COMPLETED)
            return refused if refused or self._compiling else None
        return [*refused, *self._forward(shares)]

    def _forward(self, shares: list[Share]) -> list[AnyEvent]:
        # Rows of one adapter are taken together; whose come first changes no bit.
        shares = sorted(shares, key=lambda share: share.request.salt)
        watch = Watch(self._model.ops, shares)
        tap: TapFn | None = watch if watch else None
        spans = [_span(s) for s in shares]
        if self._readouts is None:
            logits = self._model.forward(spans, tap=tap)
        else:
            reading = self._readouts.step(self._model.ops, tap)
            logits = self._model.forward(spans, tap=reading)
            reading.deal(shares)
        pairs = zip(shares, logits, strict=True)
        return [event for share, rows in pairs for event in self._advance(share, rows, watch)]

    def generate(self, message: Generate) -> list[AnyEvent]:
        """Take in a prompt to continue; an event only if it is refused."""
        try:
            sampling = message.sampling
            check_room(len(message.ids), self.card.context, answer=1)
            check_ids(message.ids, self.card.vocab, param="ids")
            check_sampling(sampling, self.card.vocab)
            self._check_taps(message)
            adapter = self.adapters.find(message.adapter)
            if sampling.grammar is None:
                self._begin(message, None, adapter)
            elif self._grammars is None:
                raise UsageError("grammar: this engine holds answers to none", param="grammar")
            else:
                future = self._grammars.constraint(sampling.grammar, sampling.stop_ids)
                self._compiling[message.request] = (message, future, adapter)
        except FreeholdError as error:
            return [Failed(message.request, fault_of(error))]
        return []

    def score(self, message: Score) -> list[AnyEvent]:
        """Take in a text to score; an event only if it is refused."""
        try:
            check_room(len(message.ids), self.card.context, answer=0)
            check_ids(message.ids, self.card.vocab, param="ids")
            check_top(message.top)
            self._check_taps(message)
            self._submit(
                Request(
                    number=message.request,
                    ids=message.ids,
                    n_prompt=len(message.ids),
                    top=message.top,
                    taps=tuple(message.taps),
                    adapter=self.adapters.find(message.adapter),
                )
            )
        except FreeholdError as error:
            return [Failed(message.request, fault_of(error))]
        return []

    def embed(self, message: Embed) -> list[AnyEvent]:
        """Take in a text to embed; an event only if it is refused."""
        try:
            check_room(len(message.ids), self.card.context, answer=0)
            check_ids(message.ids, self.card.vocab, param="ids")
            last = self._model.config.n_layers - 1
            self._submit(
                Request(
                    number=message.request,
                    ids=message.ids,
                    n_prompt=len(message.ids),
                    pooler=Pooler(message.pooling),
                    taps=(Tap(point="block_out", layer=last),),
                    adapter=self.adapters.find(message.adapter),
                )
            )
        except FreeholdError as error:
            return [Failed(message.request, fault_of(error))]
        return []

    def pool(self, message: Pool) -> list[AnyEvent]:
        """Take in a text to pool; an event only if it is refused."""
        try:
            check_room(len(message.ids), self.card.context, answer=0)
            check_ids(message.ids, self.card.vocab, param="ids")
            taps = tuple(Tap(point="block_out", layer=layer) for layer in message.layers)
            pooler = LayerPooler(message.layers, message.start, message.stop, len(message.ids))
            check_taps(taps, n_layers=self._model.config.n_layers, width=self._model.config.width)
            self._submit(
                Request(
                    number=message.request,
                    ids=message.ids,
                    n_prompt=len(message.ids),
                    pooler=pooler,
                    taps=taps,
                )
            )
        except FreeholdError as error:
            return [Failed(message.request, fault_of(error))]
        return []

    def cancel(self, number: int) -> None:
        """Forget a request and free its pages; one that has ended already is left alone."""
        self._compiling.pop(number, None)
        if number in self._requests:
            self._end(self._requests[number])

    def read(self, number: int, amount: int) -> None:
        """The reader of a request has caught up by ``amount`` bytes."""
        if request := self._requests.get(number):
            request.unread = max(0, request.unread - amount)

    def stats(self) -> EngineStats:
        """Counts of this moment."""
        stats = self.scheduler.stats()
        if (speculator := self._speculator) is None:
            return stats
        return replace(stats, guessed=speculator.guessed, kept=speculator.kept)

    # --- what a step brought ----------------------------------------------------------------------

    def _advance(self, share: Share, logits_nv: Floats | None, watch: Watch) -> list[AnyEvent]:
        request = share.request
        if request.pooler is not None:
            return self._pool_on(request, request.pooler, watch)
        if logits_nv is None:
            return []
        try:
            if request.chooser is None:
                events = self._score_on(request, logits_nv, watch)
            else:
                events = self._choose_on(request, request.chooser, logits_nv, watch)
        except FreeholdError as error:
            self._end(request)
            return [Failed(request.number, fault_of(error))]
        request.unread += sum(map(cost, events))
        return events

    def _choose_on(
        self, request: Request, chooser: Chooser, logits_nv: Floats, watch: Watch
    ) -> list[AnyEvent]:
        """Choose by the row of the last token, and go on by the rows of guesses while they hold."""
        events: list[AnyEvent] = []
        if not request.prefilled:
            request.prefilled = True
            self.scheduler.keep_prefix(request)
            read = b"" if request.rows is None else request.rows.bytes(0, request.n_prompt)
            events.append(Prefilled(request.number, request.n_prompt, request.cached_tokens, read))
        guess, request.guess = request.guess, None
        known, n_right = len(request.ids), 0
        end: Literal["stop", "length"] | None = None
        for row_v, guessed in zip(logits_nv, [*(guess.ids if guess else ()), None], strict=True):
            at = len(request.ids)
            choice = chooser.choose(row_v, position=at)
            if chooser.is_stop(choice.id):
                end = "stop"
                break
            request.ids.append(choice.id)
            top, seen = list(choice.top), watch.seen(request)
            read = b"" if request.rows is None else request.rows.bytes(at - 1, at)
            events.append(Token(request.number, choice.id, choice.logprob, top, seen, read))
            if chooser.complete:
                end = "stop"
                break
            if len(request.ids) - request.n_prompt >= request.max_tokens:
                end = "length"
                break
            if choice.id != guessed:
                break
            n_right += 1
        if guess is not None and self._speculator is not None and request.state is not None:
            self._speculator.learn(guess, n_right, ended=end is not None)
            request.state.rollback(known + n_right)
        if end is not None:
            events.append(self._done(request, end))
        return events

    def _score_on(self, request: Request, logits_nv: Floats, watch: Watch) -> list[AnyEvent]:
        first = request.scored
        request.scored += len(logits_nv)
        values, top = score_rows(
            logits_nv, request.ids[first + 1 : request.scored + 1], request.top
        )
        last = request.scored == len(request.ids)
        if last:
            self._end(request)
        packed = values.astype("<f4").tobytes()
        best = [list(pairs) for pairs in top]
        return [Scored(request.number, packed, best, watch.seen(request), last)]

    def _pool_on(
        self, request: Request, pooler: Pooler | LayerPooler, watch: Watch
    ) -> list[AnyEvent]:
        for seen in watch.seen(request):
            if isinstance(pooler, LayerPooler):
                pooler.add(seen.layer, seen.array())
            else:
                pooler.add(self._model.final_norm(seen.array()))
        if request.left:
            return []
        self._end(request)
        return [Embedded(request.number, pooler.vector().astype("<f4").tobytes())]

    def _done(self, request: Request, reason: Literal["stop", "length"]) -> Done:
        # The next turn of a conversation begins with this one.
        self.scheduler.keep_prefix(request)
        self._end(request)
        return Done(request.number, reason, len(request.ids) - request.n_prompt)

    # --- coming and going -------------------------------------------------------------------------

    def _compiled(self) -> list[AnyEvent]:
        """Take in the requests whose grammars are ready; an event for each that is refused."""
        events: list[AnyEvent] = []
        done = [number for number, (_, future, _) in self._compiling.items() if future.done()]
        for number in done:
            message, future, adapter = self._compiling.pop(number)
            try:
                self._begin(message, future.result(), adapter)
            except FreeholdError as error:
                events.append(Failed(number, fault_of(error)))
        return events

    def _begin(
        self, message: Generate, constraint: Constraint | None, adapter: Adapter | None
    ) -> None:
        ids, sampling = message.ids, message.sampling
        self._submit(
            Request(
                number=message.request,
                ids=ids,
                n_prompt=len(ids),
                max_tokens=min(sampling.max_tokens, self.card.context - len(ids)),
                chooser=Chooser(sampling, ids, constraint),
                taps=tuple(message.taps),
                adapter=adapter,
                rows=None if self._readouts is None else Rows(self._readouts.channels),
            )
        )

    def _submit(self, request: Request) -> None:
        self.scheduler.submit(request)
        self._requests[request.number] = request

    def _end(self, request: Request) -> None:
        self.scheduler.end(request)
        del self._requests[request.number]

    def _check_taps(self, message: Generate | Score) -> None:
        config = self._model.config
        check_taps(message.taps, n_layers=config.n_layers, width=config.width)

    def _score_rows(self, request: Request) -> int:
        """Fewer rows at a time if many taps report on each."""
        reads = sum(tap.mode == "read" for tap in request.taps)
        row = 4 * self._model.config.width * reads
        return max(1, min(SCORE_ROWS, SOFT_FRAME // row)) if row else SCORE_ROWS


def _span(share: Share) -> Span:
    request, first = share.request, share.request.length
    ids = (request.ids[first : first + share.n] + request.guessed)[: share.n]
    return Span(state=share.state, ids=ids, want=share.want, adapter=request.adapter)


def _speculator(
    model: Machine, settings: EngineSettings, draft: Machine | None
) -> Speculator | None:
    # Where a row's bits depend on how many share its step, guessing could change what is chosen.
    exact = "replay" in model.card.caps
    if not exact or settings.speculate == "off":
        return None
    return Speculator(Drafter(draft, model.card) if draft else None)


def _readouts(model: Machine, settings: EngineSettings) -> Readouts | None:
    if settings.readout is None:
        return None
    config = model.config
    return Readouts(settings.readout, model.card, n_layers=config.n_layers, width=config.width)


def _check_settings(settings: EngineSettings) -> None:
    if settings.speculate not in ("lookup", "off"):
        raise UsageError(
            f"speculate is {settings.speculate!r}: take lookup or off", param="speculate"
        )
    least = (("max_running", 1), ("max_waiting", 0), ("step_tokens", 1))
    for name, low in least:
        if getattr(settings, name) < low:
            raise UsageError(
                f"{name} is {getattr(settings, name)}: it must be at least {low}", param=name
            )

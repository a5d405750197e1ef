"""Decides which tokens go through the model next, and who gets KV pages.

Every step takes one token of each running answer, with what is guessed to follow it, and fills up
with pieces of prompts (continuous batching with chunked prefill). A long prompt cannot hold up
running answers, since each of them is in every step; and running answers cannot hold up a prompt,
since a quarter of the step's tokens is kept for prompts.

Pages are taken as tokens arrive, not reserved: an answer rarely reaches its ``max_tokens``. When
none are free, the prefix cache gives up its own; then the youngest request gives up its pages and
goes back to the queue, to be computed anew (what it has sent stays sent, and its draws depend on
seed and position alone). A request only ever takes pages from younger ones or from one whose reader
has stalled, and the context limit is no larger than the whole cache. So the oldest request that is
read can always take a step, ends after finitely many, and the next becomes the oldest: nothing can
wait for ever. Reserving each request's worst case up front could not deadlock either, but would
admit a handful of requests where 64 fit.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from freehold.engine.admission import Admission
from freehold.engine.prefix import Hit, PrefixCache
from freehold.engine.request import Request
from freehold.qwen.ops import Cache, State
from freehold.types import EngineStats

SCORE_ROWS = 64
"""Rows of logits per step for texts to score; at 151,936 ids each takes 0.6 MB."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """One request's part of a step: its next ``n`` tokens, and which logits are wanted."""

    request: Request
    state: State
    n: int
    want: Literal["none", "last", "all"]


@dataclass(kw_only=True)
class _Left:
    """What is left of a step for prompts: tokens, and rows of logits for texts to score."""

    tokens: int
    rows: int


class Scheduler:
    """Owns the queue, the running requests and the prefix cache; holds no arithmetic.

    ``step_tokens`` bounds the tokens of one step, ``score_rows(request)``, at least 1, the rows
    that one request to score may ask for in a step.
    """

    def __init__(
        self,
        cache: Cache,
        *,
        max_running: int,
        max_waiting: int,
        step_tokens: int,
        score_rows: Callable[[Request], int],
    ) -> None:
        self.prefix = PrefixCache(cache)
        self.running: list[Request] = []
        self.waiting: list[Request] = []
        self._cache = cache
        self._max_running = max_running
        self._step_tokens = step_tokens
        self._score_rows = score_rows
        self._admission = Admission(max_running + max_waiting)

    @property
    def max_tokens(self) -> int:
        """The longest sequence that the whole KV cache holds."""
        return self._cache.n_pages * self._cache.page_size

    def submit(self, request: Request) -> None:
        """Queue a request. Raises ``BusyError``."""
        self._admission.enter()
        self.prefix.name_pages(request.ids, request.names, request.salt)
        # One that waited for its grammar comes after younger ones.
        insort(self.waiting, request, key=_by_age)

    def end(self, request: Request) -> None:
        """Forget a request that is complete, failed or cancelled; its pages are free at once."""
        (self.running if request in self.running else self.waiting).remove(request)
        self._free(request)
        self._admission.leave()

    def keep_prefix(self, request: Request) -> None:
        """Leave the full pages of ``request`` to the prefix cache, beside the request itself."""
        if request.shares_prefix and request.state is not None:
            n = request.length // self._cache.page_size
            self.prefix.name_pages(request.ids, request.names, request.salt)
            self.prefix.keep(request.state, request.names[:n], request.pages, request.rows)

    def stats(self) -> EngineStats:
        """Counts of this moment."""
        return EngineStats(
            running=len(self.running),
            waiting=len(self.waiting),
            pages_total=self._cache.n_pages,
            pages_free=self._cache.n_free,
            pages_cached=self.prefix.idle_pages(self._held()),
        )

    def plan(self) -> list[Share]:
        """The next step, oldest request first; empty if there is nothing to do.

        Pages for all of it are free when this returns.
        """
        self._admit()
        ready = [
            request for request in self.running if not request.stalled and self._begun(request)
        ]
        shares: list[Share] = []
        pages = 0
        for request, size in self._sizes(ready):
            # Room made for an older request may have cost this one its state.
            if request.state is None:
                continue
            n, cost = size, self._cache.cost(request.state, size)
            if request.guess and not self._make_room(request, pages + cost, preempt=False):
                # Guesses are not worth anybody's pages.
                request.guess = None
                n, cost = 1, self._cache.cost(request.state, 1)
            if self._make_room(request, pages + cost):
                pages += cost
                want = self._want(request, n)
                shares.append(Share(request=request, state=request.state, n=n, want=want))
        return shares

    # --- who runs ---------------------------------------------------------------------------------

    def _admit(self) -> None:
        while self.waiting and len(self.running) < self._max_running:
            # When nobody who holds pages moves, the next in line moves them.
            if not all(r.stalled for r in self.running) and not self._fits(self.waiting[0]):
                return
            insort(self.running, self.waiting.pop(0), key=_by_age)

    def _fits(self, request: Request) -> bool:
        """Whether ``request`` can be taken in without anyone having to give up pages soon: all
        prompts that have begun are counted as if they were in the cache already."""
        size = self._cache.page_size
        owed = sum(_pages(len(r.ids) + 1, size) - _pages(r.length, size) for r in self.running)
        need = _pages(len(request.ids) + 1, size)
        if owed + need <= self._cache.n_free:
            return True
        held = self._held()
        need -= len(held.intersection(self._find(request).pages))
        return owed + need <= self._cache.n_free + self.prefix.idle_pages(held)

    def _held(self) -> set[int]:
        return {page for request in self.running for page in request.pages}

    # --- what runs --------------------------------------------------------------------------------

    def _sizes(self, ready: list[Request]) -> list[tuple[Request, int]]:
        """How many tokens each request puts into the step, oldest first.

        Of the tokens for prompts, the one with the fewest left gets a quarter, so that a short
        question does not wait for a whole book; the rest goes by age.
        """
        answers = [r for r in ready if r.left == 1 and r.chooser is not None]
        prompts = [r for r in ready if r.left > 1 or r.chooser is None]
        sizes = {r.number: 1 + len(r.guessed) for r in answers}
        left = _Left(
            tokens=max(self._step_tokens - sum(sizes.values()), self._step_tokens // 4, 1),
            rows=SCORE_ROWS,
        )
        if prompts:
            shortest = min(prompts, key=lambda r: (r.left, r.number))
            lane = _Left(tokens=left.tokens // 4, rows=left.rows // 4)
            left.tokens -= lane.tokens
            left.rows -= lane.rows
            sizes[shortest.number] = self._piece(shortest, lane, 0)
            left.tokens += lane.tokens
            left.rows += lane.rows
        for request in prompts:
            given = sizes.get(request.number, 0)
            sizes[request.number] = given + self._piece(request, left, given)
        return [(r, sizes[r.number]) for r in ready if sizes[r.number]]

    def _piece(self, request: Request, left: _Left, given: int) -> int:
        """Take tokens for ``request``, which has been given some, from what is left of the step.

        A text to score goes through in pieces of which all rows or none are wanted, so that never
        more than ``SCORE_ROWS`` rows of its logits are held.
        """
        n = min(request.left - given, left.tokens)
        if request.scores:
            if request.length < request.scored:
                n = min(n, request.scored - request.length - given)
            else:
                n = min(n, left.rows, self._score_rows(request) - given)
                left.rows -= n
        left.tokens -= n
        return n

    def _want(self, request: Request, n: int) -> Literal["none", "last", "all"]:
        if request.scores:
            return "none" if request.length < request.scored else "all"
        if request.pooler is not None:
            return "none"
        if request.guess:
            return "all"
        return "last" if n == request.left else "none"

    def _waits_for_twin(self, request: Request) -> bool:
        """Whether an older request is computing the very page this one would begin with: it is
        then better waited for, and forked from, than computed twice (``n`` choices, for one)."""
        if not request.shares_prefix:
            return False
        i = len(self._find(request).pages)
        if i >= self._usable(request):
            return False
        return any(
            older.number < request.number
            and older.shares_prefix
            and not older.prefilled
            and not older.stalled
            and len(older.names) > i
            and older.names[i] == request.names[i]
            for older in self.running
        )

    def _begun(self, request: Request) -> bool:
        """Give a request its state: forked from the longest prefix that is kept, or empty. False
        if it is better to wait."""
        if request.state is not None:
            return True
        if self._waits_for_twin(request):
            return False
        hit = self._find(request)
        if hit.entry is None:
            request.state = self._cache.new()
            return True
        tokens = len(hit.pages) * self._cache.page_size
        request.state = hit.entry.state.fork(tokens)
        request.pages = hit.pages
        if request.rows is not None and hit.pages:
            request.rows.put(0, self.prefix.rows(request.names[: len(hit.pages)]))
        if not request.prefilled:
            request.cached_tokens = tokens
        return True

    def _find(self, request: Request) -> Hit:
        if not request.shares_prefix:
            return Hit()
        return self.prefix.find(request.names[: self._usable(request)])

    def _usable(self, request: Request) -> int:
        # At least one token must go through the model, for the logits that follow it.
        return (len(request.ids) - 1) // self._cache.page_size

    # --- whose pages ------------------------------------------------------------------------------

    def _make_room(self, request: Request, pages: int, *, preempt: bool = True) -> bool:
        """Have ``pages`` free for the step so far, at the cost of the prefix cache first, then (if
        ``preempt``) of a stalled or younger request; false if the others are all older."""
        while (lacking := pages - self._cache.n_free) > 0:
            if self.prefix.give_up(lacking):
                continue
            if not preempt or not self._preempt_for(request):
                return False
        return True

    def _preempt_for(self, request: Request) -> bool:
        held = [r for r in self.running if r.state is not None and r is not request]
        stalled = [r for r in held if r.stalled]
        younger = [r for r in held if r.number > request.number]
        if not stalled and not younger:
            return False
        victim = max(stalled or younger, key=_by_age)
        self.running.remove(victim)
        # Its pages go to the prefix cache, which gives up only as many as are needed now.
        self.keep_prefix(victim)
        self._free(victim)
        insort(self.waiting, victim, key=_by_age)
        return True

    def _free(self, request: Request) -> None:
        if request.state is not None:
            request.state.free()
            request.state = None
        request.pages = []
        request.guess = None


def _by_age(request: Request) -> int:
    return request.number


def _pages(tokens: int, size: int) -> int:
    return -(-tokens // size)

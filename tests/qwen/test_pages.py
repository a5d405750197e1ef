"""The page book-keeping: no sequence sees another's tokens, and no page is lost."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from freehold.qwen.ops import OutOfPages
from freehold.qwen.ops.pages import PagedState, Pool


class Slots:
    """Stands for a back end's arrays: one written value per slot."""

    def __init__(self, n_pages: int, page_size: int) -> None:
        self.values = [[None] * page_size for _ in range(n_pages + 1)]

    def clear(self, pages: list[int]) -> None:
        for page in pages:
            self.values[page] = [None] * len(self.values[page])

    def copy(self, source: int, target: int) -> None:
        self.values[target] = list(self.values[source])


class PoolMachine(RuleBasedStateMachine):
    """Random appends, forks, rollbacks and frees, beside plain lists that do the same."""

    @initialize(page_size=st.integers(1, 5), n_pages=st.integers(1, 12))
    def start(self, page_size: int, n_pages: int) -> None:
        self.slots = Slots(n_pages, page_size)
        self.pool = Pool(n_pages, page_size, clear=self.slots.clear, copy=self.slots.copy)
        self.pairs: list[tuple[PagedState, list[int]]] = []
        self.written = 0

    @rule()
    def new(self) -> None:
        if len(self.pairs) < 6:
            self.pairs.append((self.pool.new(), []))

    @precondition(lambda self: self.pairs)
    @rule(which=st.integers(0, 9), n=st.integers(0, 9))
    def append(self, which: int, n: int) -> None:
        state, tokens = self.pairs[which % len(self.pairs)]
        cost, free = self.pool.cost(state, n), self.pool.n_free
        if cost > free:
            before = (list(state.pages), state.length)
            with pytest.raises(OutOfPages):
                state.append(n)
            assert (list(state.pages), state.length, self.pool.n_free) == (*before, free)
            return
        state.append(n)
        assert self.pool.n_free == free - cost
        size = self.pool.page_size
        for at in range(len(tokens), len(tokens) + n):
            self.written += 1
            tokens.append(self.written)
            self.slots.values[state.pages[at // size]][at % size] = self.written

    @precondition(lambda self: self.pairs)
    @rule(which=st.integers(0, 9), part=st.floats(0, 1))
    def rollback(self, which: int, part: float) -> None:
        state, tokens = self.pairs[which % len(self.pairs)]
        length = int(part * len(tokens))
        state.rollback(length)
        del tokens[length:]

    @precondition(lambda self: 0 < len(self.pairs) < 6)
    @rule(which=st.integers(0, 9), part=st.floats(0, 1))
    def fork(self, which: int, part: float) -> None:
        state, tokens = self.pairs[which % len(self.pairs)]
        length = int(part * len(tokens))
        free = self.pool.n_free
        self.pairs.append((state.fork(length), tokens[:length]))
        assert self.pool.n_free == free

    @precondition(lambda self: self.pairs)
    @rule(which=st.integers(0, 9))
    def free(self, which: int) -> None:
        state, _ = self.pairs.pop(which % len(self.pairs))
        state.free()
        assert state.length == 0

    @invariant()
    def everyone_reads_their_own(self) -> None:
        if not hasattr(self, "pool"):
            return
        size = self.pool.page_size
        for state, tokens in self.pairs:
            read = [
                self.slots.values[state.pages[at // size]][at % size] for at in range(state.length)
            ]
            assert read == tokens

    @invariant()
    def no_page_is_lost(self) -> None:
        if not hasattr(self, "pool"):
            return
        held = {page for state, _ in self.pairs for page in state.pages}
        assert 0 not in held
        assert self.pool.n_free == self.pool.n_pages - len(held)


TestPool = PoolMachine.TestCase
TestPool.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)

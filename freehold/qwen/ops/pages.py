"""Who owns which page of a cache. Counting only: the arrays belong to the back end.

Pages are shared by reference count. A page that several sequences hold is never written: whoever
must write to it first takes a copy.
"""

from __future__ import annotations

from collections.abc import Callable

from freehold.qwen.ops import OutOfPages


class Pool:
    """``n_pages`` pages, numbered from 1: page 0 stays empty for padding.

    ``clear(page)`` and ``copy(source, target)`` act on the back end's arrays.
    """

    def __init__(
        self,
        n_pages: int,
        page_size: int,
        *,
        clear: Callable[[list[int]], None],
        copy: Callable[[int, int], None],
    ) -> None:
        self.n_pages = n_pages
        self.page_size = page_size
        self._clear = clear
        self._copy = copy
        self._free = list(range(n_pages, 0, -1))
        self._holders = [0] * (n_pages + 1)

    @property
    def n_free(self) -> int:
        return len(self._free)

    def new(self) -> PagedState:
        return PagedState(self)

    def cost(self, state: PagedState, n: int) -> int:
        """Pages that ``state.append(n)`` would take: new ones, and a copy of a shared last one."""
        if n == 0:
            return 0
        pages = -(-(state.length + n) // self.page_size)
        return pages - len(state.pages) + self._must_copy(state)

    def _must_copy(self, state: PagedState) -> bool:
        partial = state.length % self.page_size != 0
        return partial and self._holders[state.pages[-1]] > 1

    def take(self, state: PagedState, n: int) -> None:
        cost = self.cost(state, n)
        if cost > len(self._free):
            raise OutOfPages(
                f"{n} more tokens need {cost} cache pages and {len(self._free)} are free: "
                "wait for other requests to end, or start with more cache_tokens"
            )
        if cost == 0:
            return
        fresh = [self._free.pop() for _ in range(cost)]
        # Stale values must not leak: a masked-out slot still enters 0 * x, and 0 * inf is NaN.
        self._clear(fresh)
        for page in fresh:
            self._holders[page] = 1
        if self._must_copy(state):
            shared, own = state.pages.pop(), fresh.pop()
            self._copy(shared, own)
            self.drop([shared])
            state.pages.append(own)
        state.pages.extend(fresh)

    def share(self, pages: list[int]) -> None:
        for page in pages:
            self._holders[page] += 1

    def drop(self, pages: list[int]) -> None:
        for page in pages:
            self._holders[page] -= 1
            assert self._holders[page] >= 0, "a page was given back twice"
            if self._holders[page] == 0:
                self._free.append(page)


class PagedState:
    """One sequence's pages, in order. See ``ops.State``."""

    __slots__ = ("length", "pages", "pool")

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.pages: list[int] = []
        self.length = 0

    def append(self, n: int) -> None:
        self.pool.take(self, n)
        self.length += n

    def snapshot(self) -> int:
        return self.length

    def rollback(self, length: int) -> None:
        assert 0 <= length <= self.length, "can only go back"
        keep = -(-length // self.pool.page_size)
        self.pool.drop(self.pages[keep:])
        del self.pages[keep:]
        self.length = length

    def fork(self, length: int | None = None) -> PagedState:
        length = self.length if length is None else length
        assert 0 <= length <= self.length, "cannot fork what was not appended"
        other = PagedState(self.pool)
        other.pages = self.pages[: -(-length // self.pool.page_size)]
        other.length = length
        self.pool.share(other.pages)
        return other

    def free(self) -> None:
        self.rollback(0)

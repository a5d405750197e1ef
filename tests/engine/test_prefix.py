"""The prefix cache over real page counting."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freehold.engine.prefix import PageName, PrefixCache
from freehold.qwen.ops.pages import PagedState, Pool


def pool_of(n_pages: int = 32, page_size: int = 4) -> Pool:
    return Pool(n_pages, page_size, clear=lambda _: None, copy=lambda *_: None)


def filled(pool: Pool, n: int) -> PagedState:
    state = pool.new()
    state.append(n)
    return state


def named(prefix: PrefixCache, ids: list[int]) -> list[PageName]:
    names: list[PageName] = []
    prefix.name_pages(ids, names)
    return names


@pytest.fixture
def pool() -> Pool:
    return pool_of()


def test_finds_the_longest_kept_prefix(pool: Pool) -> None:
    prefix = PrefixCache(pool)
    prefix.keep(filled(pool, 12), named(prefix, list(range(12))), [])
    names = named(prefix, [*range(8), 99, 99, 99, 99])
    hit = prefix.find(names)
    assert hit.entry is not None
    assert len(hit.pages) == 2
    assert prefix.find(named(prefix, [5, *range(1, 12)])).entry is None


def test_a_page_is_named_by_all_that_precedes_it(pool: Pool) -> None:
    prefix = PrefixCache(pool)
    assert named(prefix, [1, 2, 3, 4, 5, 6, 7, 8])[1] != named(prefix, [0, 2, 3, 4, 5, 6, 7, 8])[1]
    assert len(named(prefix, [1, 2, 3])) == 0


def test_two_processes_name_pages_differently(pool: Pool) -> None:
    ids = [1, 2, 3, 4]
    assert named(PrefixCache(pool), ids) != named(PrefixCache(pool), ids)


def test_a_longer_entry_takes_the_place_of_its_beginning(pool: Pool) -> None:
    prefix = PrefixCache(pool)
    state, pages = filled(pool, 16), list[int]()
    names = named(prefix, list(range(16)))
    prefix.keep(state, names[:2], pages)
    prefix.keep(state, names, pages)
    state.free()
    assert prefix.idle_pages([]) == 4
    assert pool.n_free == pool.n_pages - 4


def test_gives_up_the_end_of_what_was_used_longest_ago(pool: Pool) -> None:
    prefix = PrefixCache(pool)
    old, new = named(prefix, [1] * 16), named(prefix, [2] * 16)
    for names in (old, new):
        state = filled(pool, 16)
        prefix.keep(state, names, [])
        state.free()
    prefix.find(old)
    assert prefix.give_up(1)
    assert len(prefix.find(new).pages) == 3
    assert len(prefix.find(old).pages) == 4
    assert pool.n_free == pool.n_pages - 7
    while prefix.give_up(3):
        pass
    assert pool.n_free == pool.n_pages


@given(st.lists(st.tuples(st.lists(st.integers(0, 1), max_size=14), st.booleans()), max_size=30))
def test_never_loses_or_invents_a_page(actions: list[tuple[list[int], bool]]) -> None:
    pool = pool_of(n_pages=200, page_size=2)
    prefix = PrefixCache(pool)
    for ids, trim in actions:
        names = named(prefix, ids)
        hit = prefix.find(names)
        common = 2 * len(hit.pages)
        state = hit.entry.state.fork(common) if hit.entry else pool.new()
        state.append(len(ids) - common)
        prefix.keep(state, names, hit.pages)
        assert len(prefix.find(names).pages) == len(names)
        state.free()
        if trim:
            prefix.give_up(2)
        assert pool.n_free + prefix.idle_pages([]) == pool.n_pages
    prefix.clear()
    assert pool.n_free == pool.n_pages
    assert prefix._holders == {}

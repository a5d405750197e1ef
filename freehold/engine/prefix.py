"""The prefix cache: what was computed for one prompt is not computed again for the next.

A prompt is cut into pages of ``page_size`` tokens, and each page is named by a digest over itself,
everything before it and the adapter it went through, so equal names mean equal prefixes. An entry
is a forked ``State`` that keeps the pages of one sequence alive; a lookup finds the longest run of
a prompt's names that some entry holds and forks that entry's state there. The pages themselves
belong to the back end, which counts how many states share each.

Pages here are idle stock, never reserved: the scheduler takes them back page by page, from the end
of the least recently used entry, whenever a request needs room.

Names are keyed with a secret of this process, so nobody can prepare two prompts that collide.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import count

import numpy as np

from freehold.engine.rows import Rows
from freehold.qwen.ops import Cache, State
from freehold.types import Floats

PageName = bytes
"""16 bytes naming a page of tokens and all pages before it."""


@dataclass(kw_only=True, eq=False)
class Entry:
    """One kept sequence: its state, the names of its pages, and the pages as this cache counts
    them (a number each, shared by every entry and request that holds the same page)."""

    state: State
    names: list[PageName]
    pages: list[int]


@dataclass(frozen=True, kw_only=True)
class Hit:
    """The longest known prefix of a prompt: ``pages`` of ``entry``."""

    entry: Entry | None = None
    pages: list[int] = field(default_factory=list)


class PrefixCache:
    """Kept sequences, most recently used last."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._entries: OrderedDict[int, Entry] = OrderedDict()
        self._holders: dict[PageName, dict[int, Entry]] = {}
        self._numbers = count()
        self._rows: dict[PageName, Floats] = {}
        self._secret = os.urandom(16)

    def name_pages(self, ids: Sequence[int], names: list[PageName], salt: bytes = b"") -> None:
        """Append to ``names`` those of the full pages of ``ids`` that it lacks. Other ``salt``
        gives other names from the first page on: an adapter's pages are no other's."""
        size = self._cache.page_size
        for i in range(len(names), len(ids) // size):
            previous = names[i - 1] if i else salt
            page = np.asarray(ids[i * size : (i + 1) * size], dtype="<u4").tobytes()
            names.append(blake2b(previous + page, digest_size=16, key=self._secret).digest())

    def find(self, names: Sequence[PageName]) -> Hit:
        """The longest prefix of ``names`` that is kept, marked as used just now."""
        for n in range(len(names), 0, -1):
            if holders := self._holders.get(names[n - 1]):
                entry = next(iter(holders.values()))
                self._entries.move_to_end(id(entry))
                return Hit(entry=entry, pages=entry.pages[:n])
        return Hit()

    def rows(self, names: Sequence[PageName]) -> Floats:
        """What was read off kept pages, at least one: (tokens, channels)."""
        return np.concatenate([self._rows[name] for name in names])

    def keep(
        self,
        state: State,
        names: Sequence[PageName],
        pages: list[int],
        rows: Rows | None = None,
    ) -> None:
        """Keep the first ``len(names)`` pages of ``state``, which goes on unchanged.

        ``pages`` are the numbers of the pages that the sequence has in common with entries so far;
        it is extended to ``len(names)``, so that later calls name the same pages by the same
        numbers. ``rows`` are what was read off the sequence, and are kept with it.
        """
        n = len(names)
        while len(pages) < n:
            pages.append(next(self._numbers))
        if not n or names[-1] in self._holders:
            return
        # An entry that the new one continues is dropped: whatever it could answer, this one can.
        for shorter in list(self._entries.values()):
            length = len(shorter.names)
            if length <= n and shorter.names[-1] == names[length - 1]:
                self._drop(shorter)
        entry = Entry(
            state=state.fork(n * self._cache.page_size), names=list(names), pages=pages[:n]
        )
        self._entries[id(entry)] = entry
        for name in names:
            self._holders.setdefault(name, {})[id(entry)] = entry
        if rows is not None:
            size = self._cache.page_size
            for i, name in enumerate(names):
                if name not in self._rows:
                    self._rows[name] = rows.get(i * size, (i + 1) * size)

    def give_up(self, n: int) -> bool:
        """Let go of up to ``n`` pages of the entry used longest ago; false if nothing is kept.

        Fewer than ``n`` pages may come free, as others can hold them too: ask again.
        """
        if not self._entries:
            return False
        entry = next(iter(self._entries.values()))
        keep = len(entry.names) - n
        if keep <= 0:
            self._drop(entry)
            return True
        for name in entry.names[keep:]:
            self._forget(name, entry)
        del entry.names[keep:]
        del entry.pages[keep:]
        entry.state.rollback(keep * self._cache.page_size)
        return True

    def clear(self) -> None:
        """Let go of everything."""
        while self._entries:
            self._drop(next(iter(self._entries.values())))

    def idle_pages(self, held: Iterable[int]) -> int:
        """How many pages only this cache holds, given the numbers of those that requests hold."""
        kept = {page for entry in self._entries.values() for page in entry.pages}
        return len(kept.difference(held))

    def _drop(self, entry: Entry) -> None:
        for name in entry.names:
            self._forget(name, entry)
        del self._entries[id(entry)]
        entry.state.free()

    def _forget(self, name: PageName, entry: Entry) -> None:
        holders = self._holders[name]
        del holders[id(entry)]
        if not holders:
            del self._holders[name]
            self._rows.pop(name, None)

"""Which model is to guess ahead, before anybody has opened it. Imports next to nothing: the counter
asks too, before it lets the engine load."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from freehold.store import Store

DRAFT_RATIO = 4
"""How many times smaller a draft is, at least, for ``auto`` to take it: at two and a half times,
what it wins for new code it loses for prose."""


class Wishes(Protocol):
    """What the owner has set of it."""

    @property
    def model(self) -> str: ...
    @property
    def draft(self) -> str: ...
    @property
    def speculate(self) -> str: ...
    @property
    def backend(self) -> str: ...


def draft_candidate(store: Store, wishes: Wishes) -> str | None:
    """The name of the model that is asked for or, with ``auto``, of the smallest in the store that
    is small enough to help; ``None`` where nobody is to guess."""
    off = wishes.speculate == "off" or wishes.backend != "native"
    if off or wishes.draft in ("", "off"):
        return None
    if wishes.draft != "auto":
        return wishes.draft
    sizes = {found.name: found.size for found in store.list() if not found.adapter}
    largest = sizes.get(wishes.model, 0) // DRAFT_RATIO
    # Only the smallest is looked at: whoever keeps several names the one that is meant.
    small = [(size, name) for name, size in sizes.items() if size <= largest]
    return min(small)[1] if small else None

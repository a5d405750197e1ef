"""Texts laid one after the other into micro-batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def filled(order: Sequence[int], lengths: Sequence[int], room: int) -> Iterator[tuple[int, ...]]:
    """``order`` in runs of at most ``room`` tokens together (one text alone may have more)."""
    held: list[int] = []
    taken = 0
    for place in order:
        if held and taken + lengths[place] > room:
            yield tuple(held)
            held, taken = [], 0
        held.append(place)
        taken += lengths[place]
    if held:
        yield tuple(held)

"""Which texts share a batch, and in which order: decided by the seed alone.

Texts are laid one after the other into micro-batches, each with positions of its own from 0 and
blind to its neighbours: that is how ``ops`` computes spans, so packing changes nothing but speed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from freehold.adapt.recipe import Recipe
from freehold.train.filling import filled

Step = tuple[tuple[int, ...], ...]
"""The micro-batches of one step, each a tuple of places in the data."""


def epoch(
    lengths: Sequence[int], replayed: Sequence[int], recipe: Recipe, number: int
) -> list[Step]:
    """The steps of epoch ``number``. ``lengths`` of the data in tokens, then, numbered on behind
    it, ``replayed`` of the replay data, of which as many are drawn as the recipe's share asks."""
    draw = np.random.Generator(np.random.PCG64([recipe.seed, number]))
    places = list(range(len(lengths)))
    wanted = sum(lengths) * recipe.replay / (1 - recipe.replay)
    if wanted and replayed:
        places += _drawn(replayed, wanted, draw, first=len(lengths))
    every = [*lengths, *replayed]
    order = [places[i] for i in draw.permutation(len(places))]
    micros = list(filled(order, every, recipe.micro_batch))
    each = max(1, recipe.batch // recipe.micro_batch)
    return [tuple(micros[i : i + each]) for i in range(0, len(micros), each)]


def steps(lengths: Sequence[int], replayed: Sequence[int], recipe: Recipe) -> Iterator[Step]:
    """The steps of epoch after epoch, without end."""
    number = 0
    while True:
        yield from epoch(lengths, replayed, recipe, number)
        number += 1


def count(lengths: Sequence[int], replayed: Sequence[int], recipe: Recipe) -> int:
    """How many steps the recipe takes with this data."""
    if recipe.steps:
        return recipe.steps
    return max(1, round(len(epoch(lengths, replayed, recipe, 0)) * recipe.epochs))


def _drawn(
    lengths: Sequence[int], wanted: float, draw: np.random.Generator, *, first: int
) -> list[int]:
    """Places of texts of ``wanted`` tokens together; each is taken once more only when all are."""
    found: list[int] = []
    while wanted > 0:
        for place in draw.permutation(len(lengths)):
            if wanted <= 0:
                break
            found.append(first + int(place))
            wanted -= lengths[place]
    return found

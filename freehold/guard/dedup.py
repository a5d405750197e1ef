"""Texts that are nearly the same, found by MinHash: so that what is held out was never seen.

Broder, "On the resemblance and containment of documents" (1997). A text's shingles are its
5-grams of characters; two texts are twins where their signatures agree in ``ALIKE`` of the places.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from freehold.guard import features
from freehold.guard.normalise import canonical

PERMUTATIONS, BAND = 48, 4
ALIKE = 0.7

Signatures = npt.NDArray[np.uint64]


def signatures(texts: Sequence[str]) -> Signatures:
    """(len(texts), PERMUTATIONS) uint64."""
    draw = np.random.Generator(np.random.PCG64(1997))
    odd = draw.integers(1 << 62, size=PERMUTATIONS, dtype=np.uint64) | np.uint64(1)
    shift = draw.integers(1 << 62, size=PERMUTATIONS, dtype=np.uint64)
    found = np.empty((len(texts), PERMUTATIONS), np.uint64)
    for row, text in enumerate(texts):
        shingles = features.shingles(canonical(text))
        found[row] = (shingles[:, None] * odd + shift).min(axis=0) >> np.uint64(16)
    return found


def clusters(found: Signatures) -> npt.NDArray[np.int64]:
    """A number per text; texts that are nearly the same, also by way of others, share it."""
    parent = np.arange(len(found))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = int(parent[i])
        return i

    for start in range(0, PERMUTATIONS, BAND):
        buckets: dict[bytes, list[int]] = defaultdict(list)
        for row, band in enumerate(found[:, start : start + BAND]):
            buckets[band.tobytes()].append(row)
        for rows in buckets.values():
            first = rows[0]
            for other in rows[1:]:
                if (found[first] == found[other]).mean() >= ALIKE:
                    parent[root(other)] = root(first)
    return np.array([root(i) for i in range(len(found))])

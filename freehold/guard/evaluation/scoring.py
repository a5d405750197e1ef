"""Scores of many texts under many classifiers at once, as the fast tier would give them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from freehold.guard import bulk
from freehold.guard.fast import windows
from freehold.guard.normalise import views
from freehold.guard.training import Heads

Floats = npt.NDArray[np.float32]


class Panel:
    """Classifiers side by side: every text is folded, cut and hashed once for all of them."""

    def __init__(self, members: Sequence[Heads]) -> None:
        stacked = np.concatenate([heads.weights for heads in members])
        # A row per place: what a window touches then lies together in memory.
        self._weights = np.ascontiguousarray(stacked.T)
        self._biases = np.concatenate([heads.biases for heads in members])
        self._shape = (len(members), len(members[0].biases))

    def logits(self, text: str) -> Floats:
        """(members, heads): the highest over views and windows, as ``FastTier.logits``."""
        best = np.full(self._weights.shape[1], -np.inf, np.float32)
        pieces = dict.fromkeys(one for form in views(text).values() for one in windows(form))
        for places, values, ends in bulk.places([*pieces]):
            rows = self._weights[places]
            for low, high in pairwise(ends):
                np.maximum(best, values[low:high] @ rows[low:high], out=best)
        found: Floats = (best + self._biases).reshape(self._shape)
        return found

    def all(self, texts: Sequence[str], progress: Callable[[int], None]) -> Floats:
        """(texts, members, heads)."""
        found = np.empty((len(texts), *self._shape), np.float32)
        for i, text in enumerate(texts):
            found[i] = self.logits(text)
            progress(1)
        return found

"""One vector for a text, from the hidden states of its tokens as they come."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from freehold.types import Floats, Pooling


class Pooler:
    """Adds up in float64, one token after the other: how a text was cut into steps, and who shared
    them, changes no bit."""

    def __init__(self, pooling: Pooling) -> None:
        self._pooling = pooling
        self._sum_d: npt.NDArray[np.float64] | None = None
        self._n = 0

    def add(self, hidden_rd: Floats) -> None:
        """The next tokens' hidden states, float32."""
        for row_d in hidden_rd.astype(np.float64):
            keep = self._pooling == "mean" and self._sum_d is not None
            self._sum_d = self._sum_d + row_d if keep else row_d
            self._n += 1

    def vector(self) -> Floats:
        """(width,) float32, of all that was added: at least one token."""
        assert self._sum_d is not None, "a text has at least one token"
        n = self._n if self._pooling == "mean" else 1
        return (self._sum_d / n).astype(np.float32)

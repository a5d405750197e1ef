"""One vector for a text, from the hidden states of its tokens as they come."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from freehold.errors import UsageError
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


class LayerPooler:
    """The residual stream behind several blocks: its mean over rows ``start`` to ``stop``, and its
    last row. Raises ``UsageError`` for no layers, one twice, or rows that ``n`` ids do not have."""

    def __init__(self, layers: Sequence[int], start: int, stop: int, n: int) -> None:
        if not layers or len(set(layers)) != len(layers):
            raise UsageError(f"layers are {list(layers)}: name each once", param="layers")
        if not 0 <= start < stop <= n:
            raise UsageError(f"rows {start} to {stop} are none of {n} tokens'", param="start")
        self._bounds = (start, stop)
        self._means = {layer: Pooler("mean") for layer in layers}
        self._lasts = {layer: Pooler("last") for layer in layers}
        self._seen = dict.fromkeys(layers, 0)

    def add(self, layer: int, x_rd: Floats) -> None:
        """The next rows behind one block, float32."""
        first = self._seen[layer]
        self._seen[layer] = first + len(x_rd)
        start, stop = (min(max(edge - first, 0), len(x_rd)) for edge in self._bounds)
        self._means[layer].add(x_rd[start:stop])
        self._lasts[layer].add(x_rd[-1:])

    def vector(self) -> Floats:
        """(layers, 2, width) float32, means first."""
        pairs = zip(self._means.values(), self._lasts.values(), strict=True)
        return np.stack([np.stack([mean.vector(), last.vector()]) for mean, last in pairs])

"""What was read off one sequence's rows, by position."""

from __future__ import annotations

import numpy as np

from freehold.types import Floats


class Rows:
    """Grows as the sequence does. A position that is computed anew is put anew."""

    def __init__(self, channels: int) -> None:
        self._values: Floats = np.zeros((64, channels), np.float32)

    def put(self, first: int, values_rc: Floats) -> None:
        """Rows from position ``first`` on."""
        end = first + len(values_rc)
        if end > len(self._values):
            grown = np.zeros((2 * end, self._values.shape[1]), np.float32)
            grown[: len(self._values)] = self._values
            self._values = grown
        self._values[first:end] = values_rc

    def get(self, first: int, end: int) -> Floats:
        """(end - first, channels): a copy."""
        return self._values[first:end].copy()

    def bytes(self, first: int, end: int) -> bytes:
        """The same as it goes over the wire: little-endian float32."""
        return self._values[first:end].astype("<f4").tobytes()

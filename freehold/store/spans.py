"""Where a tensor lies in its file: what both weight parsers return."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorSpan:
    """Bytes ``start`` to ``stop`` (exclusive, from the beginning of the file) hold one tensor.

    ``shape`` is row-major, outermost first, in elements; ``dtype`` is the format's own name.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


MAX_TENSORS = 100_000
MAX_NAME = 512

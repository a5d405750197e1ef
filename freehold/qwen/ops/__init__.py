"""The operations a Qwen is made of, and the two things they own: packed weights and state.

``forward.py`` is written once over ``Ops``. A back end (``ops.torch`` now, native kernels later)
brings its own arrays, its own weight layout and its own cache; nothing outside looks inside them.
Operations are coarse, so that Python's share of a token stays small.

Shape suffixes: t rows of a packed batch (all spans one after the other), d model width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from freehold.errors import FreeholdError
from freehold.types import RawTensor

Array: TypeAlias = Any
"""A back end's own array type."""

Packed: TypeAlias = Any
"""A linear layer's weights (and bias) as the back end likes them; opaque to everyone else."""

TapFn: TypeAlias = Callable[[str, int, Array], Array | None]
"""Called with (point, layer, packed x_td): returns a replacement of the same shape, or ``None``."""

Batch: TypeAlias = Any
"""One step's rows, prepared once for all layers."""

Want: TypeAlias = Literal["none", "last", "all"]


@dataclass(frozen=True, kw_only=True)
class Side:
    """A low-rank change of outputs ``start`` to ``stop`` of a layer: a_rd and b_or, both float32,
    the scale in b already."""

    start: int
    stop: int
    a_rd: npt.NDArray[np.float32]
    b_or: npt.NDArray[np.float32]


class OutOfPages(FreeholdError):  # noqa: N818  (the engine catches it: an event, not a mistake)
    """The cache has no page left for what was asked. Nothing was changed."""


class State(Protocol):
    """What one sequence has left behind in the cache."""

    @property
    def length(self) -> int:
        """Tokens appended so far."""
        ...

    def append(self, n: int) -> None:
        """Make room for ``n`` more tokens. Raises ``OutOfPages``, changing nothing."""
        ...

    def snapshot(self) -> int:
        """A mark to ``rollback`` to."""
        ...

    def rollback(self, length: int) -> None:
        """Forget every token from position ``length`` on."""
        ...

    def fork(self, length: int | None = None) -> State:
        """A second sequence with the same first ``length`` tokens (all by default).

        Pages are shared; the one that both would write to is copied by whoever writes first.
        """
        ...

    def free(self) -> None:
        """Give every page back. The state is empty afterwards and may be used again."""
        ...


class Cache(Protocol):
    """The pages that all states share. ``page_size`` is in tokens."""

    @property
    def page_size(self) -> int: ...

    @property
    def n_pages(self) -> int: ...

    @property
    def n_free(self) -> int: ...

    def new(self) -> State:
        """An empty sequence. Takes no page yet."""
        ...

    def cost(self, state: Any, n: int) -> int:
        """Pages that ``state.append(n)`` would take from the free ones."""
        ...


class SpanLike(Protocol):
    """One sequence's share of a step. Without a state nothing is remembered: that is training,
    where a span is a whole sequence."""

    @property
    def state(self) -> State | None: ...

    @property
    def ids(self) -> Sequence[int]: ...


class Ops(Protocol):
    """About a dozen operations. Every array is the back end's own."""

    @property
    def cache(self) -> Cache: ...

    def inference(self) -> AbstractContextManager[Any]:
        """Within it, nothing is kept for gradients."""
        ...

    def pack(self, weights: Sequence[RawTensor], biases: Sequence[RawTensor] = ()) -> Packed:
        """Take matrices (outputs, inputs) as one linear layer, their outputs side by side."""
        ...

    def vector(self, weights: RawTensor) -> Array:
        """A norm's weights."""
        ...

    def low_rank(self, base: Packed, sides: Sequence[Side]) -> Any:
        """Take low-rank changes of the layer ``base``; opaque to everyone else."""
        ...

    def beside(self, base: Packed, rows: Sequence[tuple[Any, int, int]]) -> Packed:
        """``base`` for one step in which some rows (first, how many; upwards) also go through what
        ``low_rank`` gave. It can stand wherever ``base`` can, but for ``embed`` and the head."""
        ...

    def nbytes(self, weights: Packed | Array) -> int:
        """Bytes that a pass over these weights reads, as they are held."""
        ...

    def batch(self, spans: Sequence[SpanLike]) -> Batch:
        """Lay the spans one after the other. Positions come from the states, which must have had
        room made for their ids already."""
        ...

    def embed(self, table: Packed, batch: Batch) -> Array:
        """The ids' rows of the table: x_td."""
        ...

    def norm_linear(self, x_td: Array, norm_d: Array, weights: Packed) -> Array:
        """RMSNorm, then a linear layer: (t, outputs)."""
        ...

    def attend(
        self, qkv_tq: Array, batch: Batch, layer: int, qk_norm: tuple[Array, Array] | None
    ) -> Array:
        """Split into heads, normalise q and k per head if asked, rotate, remember k and v, and
        attend causally within the layer's window: (t, heads x head_dim)."""
        ...

    def linear_add(self, x_td: Array, a_tk: Array, weights: Packed) -> Array:
        """x plus a linear layer of a."""
        ...

    def mlp_add(self, x_td: Array, norm_d: Array, gate_up: Packed, down: Packed) -> Array:
        """x plus the gated MLP: down(silu(gate(norm(x))) * up(norm(x)))."""
        ...

    def take(self, x_td: Array, rows: Sequence[int]) -> Array:
        """Some rows, in the given order."""
        ...

    def to_numpy(self, array: Array) -> npt.NDArray[np.float32]: ...

    def from_numpy(self, array: npt.NDArray[np.float32]) -> Array: ...

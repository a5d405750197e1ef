"""The C++ module built from ``native/``. Arrays are C-contiguous; sizes are checked, ``ValueError``
says which do not fit."""

import numpy as np
import numpy.typing as npt

_Floats = npt.NDArray[np.float32]

_Parts = list[tuple[str, int, int, npt.NDArray[np.uint8]]]
"""Format, rows, columns and bytes of the pieces of a layer, whose outputs follow each other."""

class Linear:
    rows: int
    cols: int
    nbytes: int
    @property
    def parts(self) -> _Parts:
        """The packed bytes, read-only: what ``hold`` takes."""
    @property
    def bias(self) -> _Floats | None: ...

class LowRank:
    nbytes: int

class LowRows: ...

class KvCache:
    @property
    def nbytes(self) -> int: ...
    def copy_page(self, source: int, target: int, /) -> None: ...

class Batch: ...

class Engine:
    @property
    def isa(self) -> str: ...
    @property
    def threads(self) -> int: ...
    def read_rate(self) -> float:
        """Bytes per second that all threads together read from memory. Takes 512 MB."""
    def pack(self, parts: _Parts, bias: _Floats | None) -> Linear:
        """From GGUF blocks."""
    def embed(self, table: Linear, ids: npt.NDArray[np.int64], out: _Floats) -> None: ...
    def norm_linear(
        self,
        x: _Floats,
        norm: _Floats,
        eps: float,
        weights: Linear,
        out: _Floats,
        low: LowRows | None = ...,
    ) -> None: ...
    def linear_add(
        self, x: _Floats, a: _Floats, weights: Linear, out: _Floats, low: LowRows | None = ...
    ) -> None: ...
    def mlp_add(
        self,
        x: _Floats,
        norm: _Floats,
        eps: float,
        gate_up: Linear,
        down: Linear,
        out: _Floats,
        low_gate_up: LowRows | None = ...,
        low_down: LowRows | None = ...,
    ) -> None: ...
    def attend(
        self,
        qkv: _Floats,
        batch: Batch,
        layer: int,
        queries: int,
        q_norm: _Floats | None,
        k_norm: _Floats | None,
        eps: float,
        window: int,
        cache: KvCache,
        out: _Floats,
    ) -> None: ...

def hold(parts: _Parts, bias: _Floats | None) -> Linear:
    """A layer over packed bytes that lie somewhere already, aligned to 64, and are not copied."""

def make_low_rank(
    narrow: Linear,
    outputs: int,
    sides: list[tuple[int, int, npt.NDArray[np.int8], _Floats]],
) -> LowRank:
    """``narrow`` is A of all sides; a side is its first output, the first of A's outputs that it
    reads, codes (rows, rank) and scales (rows)."""

def make_low_rows(rows: list[tuple[LowRank, int, int]]) -> LowRows:
    """Low-rank pairs and the rows of a step that go through each: the first, and how many. Upwards,
    without overlap."""

def make_engine(threads: int, isa: str) -> Engine: ...
def make_cache(
    layers: int, pages: int, page_size: int, heads: int, dim: int, type: str
) -> KvCache: ...
def make_batch(
    cache: KvCache,
    spans: npt.NDArray[np.int64],
    pages: npt.NDArray[np.int32],
    cos: _Floats,
    sin: _Floats,
) -> Batch: ...
def isas() -> list[str]: ...

"""The operations in C++: packed integer weights on the CPU, numpy arrays around them, no torch.

What the arithmetic is, operation by operation, stands in ``docs/numerics.md``: one row's result is
the same bits whoever shares its batch, however its prompt was cut, on any number of threads and any
instruction set. Shapes: t rows, d width, e head_dim, q heads of queries, keys and values.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from freehold.errors import MalformedError, UsageError
from freehold.qwen import pack
from freehold.qwen.config import Config
from freehold.qwen.ops import Side, SpanLike, _kernels
from freehold.qwen.ops.pages import PagedState, Pool
from freehold.qwen.quants import dequantise
from freehold.qwen.rope import frequencies
from freehold.types import (
    Bytes,
    PackedLayer,
    PackedPart,
    PackedWeights,
    RawTensor,
    VerifiedModel,
)

Floats = npt.NDArray[np.float32]
NUMERICS = "native-2"
"""Version of the arithmetic in ``docs/numerics.md``: a change of any bit changes this name."""


@dataclass(frozen=True, kw_only=True)
class NativeBatch:
    """One step's rows: their ids, and what attention needs to know of them."""

    ids_t: npt.NDArray[np.int64]
    rows: _kernels.Batch


@dataclass(frozen=True, kw_only=True)
class Beside:
    """A layer, and what lies beside it for some rows of one step."""

    base: _kernels.Linear
    low: _kernels.LowRows


KvType: TypeAlias = Literal["float32", "bfloat16", "int8"]
"""How keys and values are kept: exactly, rounded, or as 8-bit codes with scales."""


class NativeCache(Pool):
    """Keys and values in the kernels' own layout. ``page_size`` is a multiple of 16."""

    def __init__(self, config: Config, *, n_pages: int, page_size: int, dtype: KvType) -> None:
        if page_size % 16:
            raise UsageError(
                f"page_size is {page_size}: the native back end needs a multiple of 16",
                param="page_size",
            )
        self.kv = _kernels.make_cache(
            config.n_layers, n_pages + 1, page_size, config.n_kv_heads, config.head_dim, dtype
        )
        # Nothing is cleared: attention never reads beyond a row's own positions.
        super().__init__(n_pages, page_size, clear=lambda pages: None, copy=self.kv.copy_page)


def open_ops(
    config: Config,
    *,
    threads: int | None,
    n_pages: int,
    page_size: int,
    kv_dtype: KvType = "bfloat16",
    weights: pack.WeightChoice = "8bit",
    isa: str | None = None,
) -> NativeOps:
    """The back end with an empty cache.

    ``threads`` defaults to what affinity and cgroup allow; ``isa`` to FREEHOLD_ISA, else to the
    best this machine has. Raises ``UsageError`` for an ``isa`` that cannot run here.
    """
    wanted = os.environ.get("FREEHOLD_ISA", "") if isa is None else isa
    if wanted and wanted not in _kernels.isas():
        raise UsageError(
            f"FREEHOLD_ISA is {wanted!r}: this machine runs {', '.join(_kernels.isas())}",
            param="isa",
        )
    engine = _kernels.make_engine(available_threads() if threads is None else threads, wanted)
    cache = NativeCache(config, n_pages=n_pages, page_size=page_size, dtype=kv_dtype)
    return NativeOps(config, engine=engine, cache=cache, weights=weights)


def _release(data: Bytes) -> None:
    """Let go of the pages of a file that was mapped to be read: what was packed is held already,
    and the file beside it would double the memory taken. They come back if read again."""
    owner: object = data
    while isinstance(owner, np.ndarray | memoryview):
        owner = owner.base if isinstance(owner, np.ndarray) else owner.obj
    if not isinstance(owner, mmap.mmap) or not hasattr(owner, "madvise"):
        return
    with memoryview(owner) as whole:
        if not whole.readonly:  # a mapping that can be written to may be all there is of its data
            return
        start = data.ctypes.data - np.frombuffer(whole, np.uint8).ctypes.data
    first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
    length = (start + data.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE - first
    if length > 0:
        owner.madvise(mmap.MADV_DONTNEED, first, length)


def available_threads(cpu_max: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Processors this process may use: its affinity, or its cgroup's quota where that is less."""
    affine = hasattr(os, "sched_getaffinity")
    n = len(os.sched_getaffinity(0)) if affine else os.cpu_count() or 1
    if cpu_max.exists():
        quota, period = cpu_max.read_text().split()
        if quota != "max":
            n = min(n, max(1, int(quota) // int(period)))
    return n


class NativeOps:
    """``ops.Ops`` over the kernels. Arrays are float32, C-contiguous."""

    numerics = NUMERICS

    def __init__(
        self,
        config: Config,
        *,
        engine: _kernels.Engine,
        cache: NativeCache,
        weights: pack.WeightChoice = "8bit",
    ) -> None:
        self.config = config
        self.cache = cache
        self.engine = engine
        self._weights = weights
        inverse, factor = frequencies(config)
        self._inverse_f = inverse
        self._rope_factor = np.float64(factor)
        self._attend_width = config.n_heads * config.head_dim

    def inference(self) -> AbstractContextManager[Any]:
        return nullcontext()

    # --- weights ----------------------------------------------------------------------------------

    def pack(
        self, weights: Sequence[RawTensor], biases: Sequence[RawTensor] = ()
    ) -> _kernels.Linear:
        parts = [
            pack.blocks_of(
                tensor,
                self._weights,
                # Embedding and head, which every token passes through, and keys and values, which
                # are few: 4 bits there cost the most (docs/performance.md).
                fine=tensor.shape[0] == self.config.vocab or (len(weights) == 3 and i > 0),
                threads=self.engine.threads,
            )
            for i, tensor in enumerate(weights)
        ]
        bias = np.concatenate([dequantise(b) for b in biases]) if biases else None
        packed = self.engine.pack([(p.format, p.rows, p.cols, p.data) for p in parts], bias)
        for tensor in weights:
            _release(tensor.data)
        return packed

    def vector(self, weights: RawTensor) -> Floats:
        return dequantise(weights)

    def hold(self, layer: PackedLayer) -> _kernels.Linear:
        """A layer of a pack, used where it lies. Raises ``MalformedError``."""
        try:
            return _kernels.hold(
                [(p.format, p.rows, p.cols, p.data) for p in layer.parts], layer.bias
            )
        except ValueError as error:
            raise MalformedError(
                f"the pack holds a layer that cannot be: {error}", file="pack"
            ) from error

    def packed(
        self,
        model: VerifiedModel,
        layers: Mapping[str, _kernels.Linear],
        vectors: Mapping[str, Floats],
    ) -> PackedWeights:
        """What a pack of these weights, made from ``model``, holds: views, nothing is copied."""
        return PackedWeights(
            weights=pack.choice_of(model, self._weights),
            shapes=model.shapes,
            layers={
                name: PackedLayer(
                    parts=tuple(
                        PackedPart(format=format, rows=rows, cols=cols, data=data)
                        for format, rows, cols, data in linear.parts
                    ),
                    bias=linear.bias,
                )
                for name, linear in layers.items()
            },
            vectors=vectors,
        )

    def low_rank(self, base: _kernels.Linear, sides: Sequence[Side]) -> _kernels.LowRank:
        """A becomes Q8_0, B 8-bit codes with a scale for each output."""
        narrow_rd = np.concatenate([side.a_rd for side in sides])
        tensor = RawTensor(
            name="A",
            dtype="F32",
            shape=narrow_rd.shape,
            data=np.ascontiguousarray(narrow_rd, "<f4").reshape(-1).view(np.uint8),
        )
        blocks = pack.blocks_of(tensor)
        narrow = self.engine.pack([(blocks.format, blocks.rows, blocks.cols, blocks.data)], None)
        first, given = 0, []
        for side in sides:
            given.append((side.start, first, *_rounded(side.b_or)))
            first += len(side.a_rd)
        return _kernels.make_low_rank(narrow, base.rows, given)

    def beside(
        self, base: _kernels.Linear, rows: Sequence[tuple[_kernels.LowRank, int, int]]
    ) -> Beside:
        return Beside(base=base, low=_kernels.make_low_rows(list(rows)))

    def nbytes(self, weights: _kernels.Linear | _kernels.LowRank | Floats) -> int:
        return weights.nbytes

    # --- a step's layout --------------------------------------------------------------------------

    def batch(self, spans: Sequence[SpanLike]) -> NativeBatch:
        ids: list[int] = []
        pages: list[int] = []
        layout: list[tuple[int, int, int, int]] = []
        firsts: list[int] = []
        for span in spans:
            state = span.state
            if not isinstance(state, PagedState):
                raise UsageError("the native back end computes with a cache only: give a state")
            n = len(span.ids)
            first = state.length - n
            assert first >= 0, "room for the ids must have been made"
            layout.append((len(ids), n, first, len(pages)))
            ids.extend(span.ids)
            pages.extend(state.pages)
            firsts.extend(range(first, first + n))
        cos_te, sin_te = self._rotation(firsts)
        rows = _kernels.make_batch(
            self.cache.kv,
            np.array(layout, dtype=np.int64).reshape(-1, 4),
            np.array(pages, dtype=np.int32),
            cos_te,
            sin_te,
        )
        return NativeBatch(ids_t=np.array(ids, dtype=np.int64), rows=rows)

    def _rotation(self, positions: Sequence[int]) -> tuple[Floats, Floats]:
        """Cosine and sine (t, e / 2): of the float32 angle, computed in float64, rounded once."""
        at_t = np.array(positions, dtype=np.float32)
        angles = (at_t[:, None] * self._inverse_f).astype(np.float64)
        cos_te = (np.cos(angles) * self._rope_factor).astype(np.float32)
        return cos_te, (np.sin(angles) * self._rope_factor).astype(np.float32)

    # --- the operations ---------------------------------------------------------------------------

    def embed(self, table: _kernels.Linear, batch: NativeBatch) -> Floats:
        x_td = np.empty((len(batch.ids_t), table.cols), np.float32)
        self.engine.embed(table, batch.ids_t, x_td)
        width = self.config.width
        return x_td if table.cols == width else np.ascontiguousarray(x_td[:, :width])

    def norm_linear(
        self, x_td: Floats, norm_d: Floats, weights: _kernels.Linear | Beside
    ) -> Floats:
        base, low = _parted(weights)
        out = np.empty((len(x_td), base.rows), np.float32)
        self.engine.norm_linear(x_td, norm_d, self.config.norm_eps, base, out, *_given(low))
        return out

    def linear_add(self, x_td: Floats, a_tk: Floats, weights: _kernels.Linear | Beside) -> Floats:
        base, low = _parted(weights)
        out = np.empty_like(x_td)
        self.engine.linear_add(x_td, a_tk, base, out, *_given(low))
        return out

    def mlp_add(
        self,
        x_td: Floats,
        norm_d: Floats,
        gate_up: _kernels.Linear | Beside,
        down: _kernels.Linear | Beside,
    ) -> Floats:
        (base, low), (base_down, low_down) = _parted(gate_up), _parted(down)
        out = np.empty_like(x_td)
        eps = self.config.norm_eps
        self.engine.mlp_add(x_td, norm_d, eps, base, base_down, out, *_given(low, low_down))
        return out

    def attend(
        self,
        qkv_tq: Floats,
        batch: NativeBatch,
        layer: int,
        qk_norm: tuple[Floats, Floats] | None,
    ) -> Floats:
        config = self.config
        out = np.empty((len(qkv_tq), self._attend_width), np.float32)
        q_norm, k_norm = qk_norm or (None, None)
        self.engine.attend(
            qkv_tq,
            batch.rows,
            layer,
            config.n_heads,
            q_norm,
            k_norm,
            config.norm_eps,
            config.windows[layer] or 0,
            self.cache.kv,
            out,
        )
        return out

    def take(self, x_td: Floats, rows: Sequence[int]) -> Floats:
        return x_td[np.asarray(rows, dtype=np.int64)]

    # --- in and out -------------------------------------------------------------------------------

    def to_numpy(self, array: Floats) -> Floats:
        return array

    def from_numpy(self, array: Floats) -> Floats:
        return np.ascontiguousarray(array, dtype=np.float32)


def _parted(
    weights: _kernels.Linear | Beside,
) -> tuple[_kernels.Linear, _kernels.LowRows | None]:
    return (weights.base, weights.low) if isinstance(weights, Beside) else (weights, None)


def _given(*low: _kernels.LowRows | None) -> tuple[_kernels.LowRows | None, ...]:
    """Nothing is said to the kernels where no row has an adapter."""
    return low if any(one is not None for one in low) else ()


def _rounded(b_or: Floats) -> tuple[npt.NDArray[np.int8], Floats]:
    """Codes (outputs, rank) and the scale of each output: its largest magnitude / 127."""
    scale_o = (np.abs(b_or).max(axis=1) / np.float32(127)).astype(np.float32)
    safe_o = np.where(scale_o > 0, scale_o, np.float32(1))
    codes = np.clip(np.rint(b_or / safe_o[:, None]), -127, 127).astype(np.int8)
    return np.ascontiguousarray(codes), np.ascontiguousarray(scale_o)

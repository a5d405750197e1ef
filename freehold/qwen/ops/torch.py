"""The operations in PyTorch: any device, and differentiable wherever no state is kept.

This is the reference that native kernels are compared with. Its arithmetic is described in
``docs/numerics.md``. Shapes: t rows, d width, h heads, g kv heads, r = h / g query heads per kv
head, e head_dim, l cached positions, n sequences, p pages, s slots of a page.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  (the field's own short name)

from freehold.errors import UsageError
from freehold.qwen.config import Config
from freehold.qwen.ops import Side, SpanLike
from freehold.qwen.ops.pages import PagedState, Pool
from freehold.qwen.quants import dequantise, dequantise_into
from freehold.qwen.rope import frequencies
from freehold.types import RawTensor

# Cached positions are padded to whole multiples of this, so that sequences of about the same length
# attend in one call. It depends on a sequence's own length alone: never on who shares the batch.
ATTEND_MULTIPLE = 128


@dataclass(frozen=True, kw_only=True)
class Linear:
    """A linear layer: ``weight_od``, and ``bias_o`` if it has one. Training puts layers of its own
    in place of these, which are called in the same way."""

    weight_od: Tensor
    bias_o: Tensor | None = None

    def __call__(self, x_td: Tensor) -> Tensor:
        return F.linear(x_td, self.weight_od, self.bias_o)

    def rows(self, ids_t: Tensor) -> Tensor:
        """Some rows of the weights: an embedding's vectors."""
        return F.embedding(ids_t, self.weight_od)

    @property
    def nbytes(self) -> int:
        return self.weight_od.nbytes + (0 if self.bias_o is None else self.bias_o.nbytes)


@dataclass(frozen=True, kw_only=True)
class Codes:
    """A frozen layer that stays as it lies in its file, and is multiplied out wherever it is used:
    called like ``Linear``, for less memory and more time."""

    parts: tuple[RawTensor, ...]
    bias_o: Tensor | None
    dtype: torch.dtype
    device: torch.device

    @property
    def weight_od(self) -> Tensor:
        """The values, made anew."""
        return _values(self.parts, self.dtype, self.device)

    def __call__(self, x_td: Tensor) -> Tensor:
        return F.linear(x_td, self.weight_od, self.bias_o)

    def rows(self, ids_t: Tensor) -> Tensor:
        (table,) = self.parts
        row_bytes = table.data.nbytes // table.shape[0]
        data = table.data.reshape(-1, row_bytes)[ids_t.cpu().numpy()].reshape(-1)
        raw = replace(table, shape=(len(ids_t), *table.shape[1:]), data=data)
        return _values([raw], self.dtype, self.device)

    @property
    def nbytes(self) -> int:
        held = sum(part.data.nbytes for part in self.parts)
        return held + (0 if self.bias_o is None else self.bias_o.nbytes)


@dataclass(frozen=True, kw_only=True)
class LowRank:
    """Low-rank changes of a layer: (first output, one past the last, a_rd, b_or) each."""

    sides: tuple[tuple[int, int, Tensor, Tensor], ...]

    @property
    def nbytes(self) -> int:
        return sum(a_rd.nbytes + b_or.nbytes for _, _, a_rd, b_or in self.sides)


@dataclass(frozen=True, kw_only=True)
class Beside:
    """A layer, and what lies beside it for some rows of one step; called like ``Linear``."""

    base: Linear | Codes
    low: tuple[tuple[LowRank, int, int], ...]

    def __call__(self, x_td: Tensor) -> Tensor:
        y_to = self.base(x_td)
        for pair, first, n in self.low:
            x_nd = x_td[first : first + n]
            for start, stop, a_rd, b_or in pair.sides:
                y_to[first : first + n, start:stop] += x_nd @ a_rd.T @ b_or.T
        return y_to


def _values(parts: Sequence[RawTensor], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Dequantise parts below each other, never holding more than one part twice."""
    rows = sum(part.shape[0] for part in parts)
    whole = torch.empty((rows, *parts[0].shape[1:]), dtype=dtype, device=device)
    in_place = dtype == torch.float32 and device.type == "cpu"
    start = 0
    for part in parts:
        target = whole[start : start + part.shape[0]]
        if in_place:
            dequantise_into(part, target.numpy())
        else:
            target.copy_(torch.from_numpy(dequantise(part)))
        start += part.shape[0]
    return whole


@dataclass(frozen=True, kw_only=True)
class DecodeGroup:
    """Sequences of one new token each, whose cached lengths are padded to the same number.

    ``rows`` are their rows of the batch; ``masks`` (n, 1, 1, l) by window, true where visible.
    """

    rows: Tensor
    pages_np: Tensor
    masks: dict[int | None, Tensor]


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Several new tokens of one sequence: rows ``start`` to ``stop``.

    ``pages_p`` is ``None`` where the sequence begins in this step, so that its keys and values are
    all at hand; ``masks`` (t, l) by window, ``None`` for plain causal attention.
    """

    start: int
    stop: int
    pages_p: Tensor | None
    length: int
    masks: dict[int | None, Tensor | None]


@dataclass(frozen=True, kw_only=True)
class TorchBatch:
    """One step's rows. ``slots`` are the cache slots that ``kept`` rows' keys and values go to."""

    n_rows: int
    ids_t: Tensor
    cos_te: Tensor
    sin_te: Tensor
    kept: Tensor | None
    slots: Tensor | None
    groups: tuple[DecodeGroup, ...]
    chunks: tuple[Chunk, ...]
    even: int | None = None
    """The one length of all spans, where none keeps a state or slides: training's batches."""


class TorchCache(Pool):
    """Keys and values, each [layer, page, slot, kv head, head_dim]."""

    def __init__(
        self, config: Config, *, n_pages: int, page_size: int, dtype: torch.dtype, device: str
    ) -> None:
        shape = (config.n_layers, n_pages + 1, page_size, config.n_kv_heads, config.head_dim)
        self.k = torch.zeros(shape, dtype=dtype, device=device)
        self.v = torch.zeros(shape, dtype=dtype, device=device)
        super().__init__(n_pages, page_size, clear=self._clear_pages, copy=self._copy_page)

    def _clear_pages(self, pages: list[int]) -> None:
        index = torch.tensor(pages, device=self.k.device)
        self.k[:, index] = 0
        self.v[:, index] = 0

    def _copy_page(self, source: int, target: int) -> None:
        self.k[:, target] = self.k[:, source]
        self.v[:, target] = self.v[:, source]

    def write(self, layer: int, slots: Tensor, k_tge: Tensor, v_tge: Tensor) -> None:
        self.k[layer].flatten(0, 1).index_copy_(0, slots, k_tge.detach())
        self.v[layer].flatten(0, 1).index_copy_(0, slots, v_tge.detach())

    def read(self, layer: int, pages: Tensor) -> tuple[Tensor, Tensor]:
        """Pages (n, p) -> keys and values (n, g, l, e), l = p * s."""
        n, p = pages.shape
        flat = pages.reshape(-1)
        k = self.k[layer].index_select(0, flat)
        v = self.v[layer].index_select(0, flat)
        shape = (n, p * self.page_size, *k.shape[2:])
        return k.view(shape).transpose(1, 2), v.view(shape).transpose(1, 2)


def open_ops(
    config: Config,
    *,
    dtype: Literal["float32", "bfloat16"],
    device: str,
    threads: int | None,
    n_pages: int,
    page_size: int,
    codes: bool = False,
) -> TorchOps:
    """The back end with an empty cache; with ``codes``, layers stay packed.

    Raises ``UsageError`` for a device this machine lacks.
    """
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(
            f"device {device!r} cannot be used here: {error}. Install a PyTorch for it, or use cpu",
            param="device",
        ) from error
    if threads is not None:
        torch.set_num_threads(threads)
    kind = {"float32": torch.float32, "bfloat16": torch.bfloat16}[dtype]
    cache = TorchCache(config, n_pages=n_pages, page_size=page_size, dtype=kind, device=device)
    return TorchOps(config, dtype=kind, device=device, cache=cache, codes=codes)


class TorchOps:
    """``ops.Ops`` in PyTorch."""

    def __init__(
        self,
        config: Config,
        *,
        dtype: torch.dtype,
        device: str,
        cache: TorchCache,
        codes: bool = False,
    ) -> None:
        self.config = config
        self._codes = codes
        self.dtype = dtype
        self.device = torch.device(device)
        self.cache = cache
        inverse, self._rope_factor = frequencies(config)
        self._inverse_f = torch.from_numpy(inverse).to(self.device)
        self._windows = tuple(dict.fromkeys(config.windows))

    def inference(self) -> AbstractContextManager[Any]:
        return torch.inference_mode()

    # --- weights ----------------------------------------------------------------------------------

    def pack(
        self, weights: Sequence[RawTensor], biases: Sequence[RawTensor] = ()
    ) -> Linear | Codes:
        bias_o = _values(biases, self.dtype, self.device) if biases else None
        if self._codes:
            return Codes(parts=tuple(weights), bias_o=bias_o, dtype=self.dtype, device=self.device)
        return Linear(weight_od=_values(weights, self.dtype, self.device), bias_o=bias_o)

    def vector(self, weights: RawTensor) -> Tensor:
        return _values([weights], self.dtype, self.device)

    def low_rank(self, base: Linear | Codes, sides: Sequence[Side]) -> LowRank:
        def held(values: npt.NDArray[np.float32]) -> Tensor:
            return torch.from_numpy(values).to(self.device, self.dtype)

        return LowRank(sides=tuple((s.start, s.stop, held(s.a_rd), held(s.b_or)) for s in sides))

    def beside(self, base: Linear | Codes, rows: Sequence[tuple[LowRank, int, int]]) -> Beside:
        return Beside(base=base, low=tuple(rows))

    def nbytes(self, weights: Linear | Codes | LowRank | Tensor) -> int:
        return weights.nbytes

    # --- a step's layout --------------------------------------------------------------------------

    def batch(self, spans: Sequence[SpanLike]) -> TorchBatch:
        ids: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        kept: list[int] = []
        decoding: dict[int, list[tuple[int, PagedState]]] = {}
        chunks: list[Chunk] = []
        for span in spans:
            row, n = len(ids), len(span.ids)
            state = span.state
            assert state is None or isinstance(state, PagedState)
            first = 0 if state is None else state.length - n
            assert first >= 0, "room for the ids must have been made"
            ids.extend(span.ids)
            positions.extend(range(first, first + n))
            if state is not None:
                kept.extend(range(row, row + n))
                slots.extend(_slots(state, first, n))
            if state is not None and n == 1:
                padded = -(-state.length // ATTEND_MULTIPLE) * ATTEND_MULTIPLE
                decoding.setdefault(padded, []).append((row, state))
            elif n:
                chunks.append(self._chunk(row, n, first, state))
        cos_te, sin_te = self._rotation(positions)
        # A cache write with an index of all rows in order needs no gather first.
        partial = len(kept) != len(ids)
        return TorchBatch(
            n_rows=len(ids),
            ids_t=self._index(ids),
            cos_te=cos_te,
            sin_te=sin_te,
            kept=self._index(kept) if partial else None,
            slots=self._index(slots) if slots else None,
            groups=tuple(self._group(padded, members) for padded, members in decoding.items()),
            chunks=tuple(chunks),
            even=self._even(spans),
        )

    def _even(self, spans: Sequence[SpanLike]) -> int | None:
        lengths = {len(span.ids) for span in spans}
        if len(lengths) != 1 or any(span.state is not None for span in spans):
            return None
        length = lengths.pop()
        return length if all(w is None or w >= length for w in self._windows) else None

    def _index(self, values: Sequence[int] | Sequence[Sequence[int]]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self.device)

    def _rotation(self, positions: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Cosine and sine of every row's angles, (t, 1, e / 2), in the model's dtype."""
        at_t = torch.tensor(positions, dtype=torch.float32, device=self.device)
        angles = at_t[:, None, None] * self._inverse_f
        factor = self._rope_factor
        return (angles.cos() * factor).to(self.dtype), (angles.sin() * factor).to(self.dtype)

    def _group(self, padded: int, members: list[tuple[int, PagedState]]) -> DecodeGroup:
        n_pages = -(-padded // self.cache.page_size)
        pages = [state.pages + [0] * (n_pages - len(state.pages)) for _, state in members]
        lengths = self._index([state.length for _, state in members])[:, None]
        at_l = torch.arange(n_pages * self.cache.page_size, device=self.device)[None]
        masks: dict[int | None, Tensor] = {}
        for window in self._windows:
            visible = at_l < lengths
            if window is not None:
                visible = visible & (at_l >= lengths - window)
            masks[window] = visible[:, None, None]
        rows = self._index([row for row, _ in members])
        return DecodeGroup(rows=rows, pages_np=self._index(pages), masks=masks)

    def _chunk(self, row: int, n: int, first: int, state: PagedState | None) -> Chunk:
        length = first + n
        fresh = first == 0
        masks: dict[int | None, Tensor | None] = {}
        for window in self._windows:
            if fresh and (window is None or window >= length):
                masks[window] = None
                continue
            at_t = torch.arange(first, length, device=self.device)[:, None]
            at_l = torch.arange(length, device=self.device)[None]
            visible = at_l <= at_t
            if window is not None:
                visible = visible & (at_l > at_t - window)
            masks[window] = visible
        pages = None if fresh or state is None else self._index(state.pages)
        return Chunk(start=row, stop=row + n, pages_p=pages, length=length, masks=masks)

    # --- the operations ---------------------------------------------------------------------------

    def embed(self, table: Linear, batch: TorchBatch) -> Tensor:
        return table.rows(batch.ids_t)

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), weight, self.config.norm_eps)

    def norm_linear(self, x_td: Tensor, norm_d: Tensor, weights: Linear) -> Tensor:
        return weights(self._norm(x_td, norm_d))

    def linear_add(self, x_td: Tensor, a_tk: Tensor, weights: Linear) -> Tensor:
        return x_td + weights(a_tk)

    def mlp_add(self, x_td: Tensor, norm_d: Tensor, gate_up: Linear, down: Linear) -> Tensor:
        gate, up = self.norm_linear(x_td, norm_d, gate_up).chunk(2, dim=-1)
        return self.linear_add(x_td, F.silu(gate) * up, down)

    def take(self, x_td: Tensor, rows: Sequence[int]) -> Tensor:
        return x_td.index_select(0, self._index(rows))

    def attend(
        self,
        qkv_tq: Tensor,
        batch: TorchBatch,
        layer: int,
        qk_norm: tuple[Tensor, Tensor] | None,
    ) -> Tensor:
        h = self.config.n_heads
        q_the, k_tge, v_tge = self.heads(qkv_tq, batch, qk_norm)
        if batch.even is not None:
            return _attend_even(batch.even, q_the, k_tge, v_tge)
        self._remember(batch, layer, k_tge, v_tge)
        window = self.config.windows[layer]
        pieces = [self._attend_chunk(c, layer, (q_the, k_tge, v_tge)) for c in batch.chunks]
        if not batch.groups:
            return pieces[0] if len(pieces) == 1 else torch.cat(pieces)
        out_tk = q_the.new_empty(len(q_the), h * self.config.head_dim)
        for chunk, piece in zip(batch.chunks, pieces, strict=True):
            out_tk[chunk.start : chunk.stop] = piece
        for group in batch.groups:
            out_tk[group.rows] = self._attend_group(group, layer, window, q_the)
        return out_tk

    def heads(
        self, qkv_tq: Tensor, batch: TorchBatch, qk_norm: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (t, h, e), keys and values (t, g, e) as attention meets them: normalised if
        asked, and rotated."""
        h, g = self.config.n_heads, self.config.n_kv_heads
        heads = qkv_tq.view(-1, h + 2 * g, self.config.head_dim)
        qk = heads[:, : h + g]
        if qk_norm is not None:
            q_norm, k_norm = qk_norm
            qk = torch.cat([self._norm(qk[:, :h], q_norm), self._norm(qk[:, h:], k_norm)], dim=1)
        qk = _rotate(qk, batch.cos_te, batch.sin_te)
        return qk[:, :h], qk[:, h:], heads[:, h + g :]

    def _remember(self, batch: TorchBatch, layer: int, k_tge: Tensor, v_tge: Tensor) -> None:
        if batch.slots is None:
            return
        if batch.kept is not None:
            k_tge, v_tge = k_tge[batch.kept], v_tge[batch.kept]
        self.cache.write(layer, batch.slots, k_tge, v_tge)

    def _attend_group(
        self, group: DecodeGroup, layer: int, window: int | None, q_the: Tensor
    ) -> Tensor:
        """One query position per sequence: a kv head's query heads become its rows."""
        k_ngle, v_ngle = self.cache.read(layer, group.pages_np)
        n, g, _, e = k_ngle.shape
        q_ngre = q_the[group.rows].view(n, g, -1, e)
        out = F.scaled_dot_product_attention(q_ngre, k_ngle, v_ngle, group.masks[window])
        return out.reshape(n, -1)

    def _attend_chunk(self, chunk: Chunk, layer: int, qkv: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        # (t, heads, e) -> (1, heads, t, e), this chunk's rows only
        q_ht, k_gl, v_gl = (x[chunk.start : chunk.stop].transpose(0, 1)[None] for x in qkv)
        if chunk.pages_p is not None:
            k_gl, v_gl = self.cache.read(layer, chunk.pages_p[None])
            k_gl, v_gl = k_gl[:, :, : chunk.length], v_gl[:, :, : chunk.length]
        mask = chunk.masks[self.config.windows[layer]]
        out = F.scaled_dot_product_attention(
            q_ht, k_gl, v_gl, mask, is_causal=mask is None, enable_gqa=True
        )
        return out[0].transpose(0, 1).reshape(chunk.stop - chunk.start, -1)

    # --- in and out -------------------------------------------------------------------------------

    def to_numpy(self, array: Tensor) -> npt.NDArray[np.float32]:
        numbers: npt.NDArray[np.float32] = array.detach().float().cpu().numpy()
        return numbers

    def from_numpy(self, array: npt.NDArray[np.float32]) -> Tensor:
        return torch.tensor(array).to(self.device, self.dtype)


def _slots(state: PagedState, first: int, n: int) -> list[int]:
    size = state.pool.page_size
    return [state.pages[at // size] * size + at % size for at in range(first, first + n)]


def _attend_even(length: int, q_the: Tensor, k_tge: Tensor, v_tge: Tensor) -> Tensor:
    """Whole sequences of one length in one call; a call for each costs small models most time."""
    q, k, v = (x.view(-1, length, *x.shape[1:]).transpose(1, 2) for x in (q_the, k_tge, v_tge))
    out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    return out.transpose(1, 2).reshape(len(q_the), -1)


def _rotate(x_the: Tensor, cos_te: Tensor, sin_te: Tensor) -> Tensor:
    """Rotate pair (i, i + e / 2) of every head by the row's angle i."""
    a, b = x_the.chunk(2, dim=-1)
    return torch.cat([a * cos_te - b * sin_te, b * cos_te + a * sin_te], dim=-1)

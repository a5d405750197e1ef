"""The forward pass of every dense Qwen, once: Qwen1.5, Qwen2, Qwen2.5, Qwen3.

    x = embed(ids)
    for each block:  x += out(attend(qkv(norm(x))));  x += down(silu(gate(norm(x))) * up(norm(x)))
    logits = head(norm(x))

Families differ in data, not in code: a bias in ``qkv`` (Qwen2), a norm per head (Qwen3).

Source: Qwen2 (arXiv 2407.10671), Qwen3 (arXiv 2505.09388). Shapes: t rows of a packed batch,
d width, q all heads of queries, keys and values, v vocabulary, w wanted rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from freehold.qwen.ops import Array, Batch, Ops, Packed, TapFn


@dataclass(frozen=True, kw_only=True)
class BlockWeights:
    """One block. ``qkv`` and ``gate_up`` are fused: their outputs lie side by side."""

    attn_norm: Array
    qkv: Packed
    qk_norm: tuple[Array, Array] | None
    out: Packed
    mlp_norm: Array
    gate_up: Packed
    down: Packed


@dataclass(frozen=True, kw_only=True)
class Weights:
    """A whole model. ``head`` is the same object as ``embed`` where they are tied."""

    embed: Packed
    blocks: tuple[BlockWeights, ...]
    norm: Array
    head: Packed


def forward(  # noqa: PLR0917  (the first four are what every caller has)
    ops: Ops,
    weights: Weights,
    batch: Batch,
    wanted: Sequence[int],
    tap: TapFn | None = None,
    through: Callable[..., Array] | None = None,
) -> Array | None:
    """Logits (w, v) of the wanted rows, or ``None`` where no row is wanted.

    ``through`` is called in place of ``block``, with its arguments: training computes blocks again
    there instead of keeping what is in them.
    """
    x_td = ops.embed(weights.embed, batch)
    for i in range(len(weights.blocks)):
        x_td = (through or block)(ops, weights, x_td, batch, i, tap)
    if not wanted:
        return None
    return ops.norm_linear(ops.take(x_td, wanted), weights.norm, weights.head)


def block(  # noqa: PLR0917  (called in one way, once per layer)
    ops: Ops, weights: Weights, x_td: Array, batch: Batch, i: int, tap: TapFn | None = None
) -> Array:
    """Block ``i``: attention, then the gated MLP, each added to the residual stream.

    Taps see the stream at ``block_in``, ``attn_out`` (attention added) and ``block_out``.
    """
    w = weights.blocks[i]
    x_td = _tapped(tap, "block_in", i, x_td)
    qkv_tq = ops.norm_linear(x_td, w.attn_norm, w.qkv)
    a_tk = ops.attend(qkv_tq, batch, i, w.qk_norm)
    x_td = _tapped(tap, "attn_out", i, ops.linear_add(x_td, a_tk, w.out))
    x_td = ops.mlp_add(x_td, w.mlp_norm, w.gate_up, w.down)
    return _tapped(tap, "block_out", i, x_td)


def _tapped(tap: TapFn | None, point: str, layer: int, x_td: Array) -> Array:
    if tap is None:
        return x_td
    replacement = tap(point, layer, x_td)
    return x_td if replacement is None else replacement

"""One run of the one forward pass, with what each part wrote to the residual stream.

No second forward pass and no hook in the first: ``forward`` is handed a back end that notes what
attention gives per head and passes every operation on. Serving never meets it. Torch only.

Shape suffixes: t rows, d width, k = heads * head_dim, v vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from freehold.errors import UsageError
from freehold.qwen import forward as qwen
from freehold.qwen.model import Model, Span
from freehold.qwen.ops import Array, TapFn
from freehold.types import Floats


@dataclass(frozen=True, kw_only=True)
class Trace:
    """``embed_td`` is the stream before block 0; ``attn_ltd`` and ``block_ltd`` the stream after
    each block's attention and after the block; ``heads_ltk`` the heads' outputs side by side,
    before the output projection; ``logits_v`` those of the last row. All float32."""

    embed_td: Floats
    attn_ltd: Floats
    block_ltd: Floats
    heads_ltk: Floats
    logits_v: Floats


class _Noting:
    """A back end that keeps the output of ``attend`` and is otherwise the one it wraps."""

    def __init__(self, ops: Any) -> None:
        self._ops = ops
        self.heads: list[Floats] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ops, name)

    def attend(self, *arguments: Any) -> Array:
        out_tk = self._ops.attend(*arguments)
        self.heads.append(self._ops.to_numpy(out_tk))
        return out_tk


def trace(model: Model, ids: Sequence[int]) -> Trace:
    """Run ``ids`` and keep everything. Raises ``UsageError`` for no ids or another back end."""
    if not hasattr(model.weights.head, "weight_od"):
        raise UsageError("looking inside needs the torch back end", param="backend")
    if not ids:
        raise UsageError("the prompt holds no tokens", param="prompt")
    noting = _Noting(model.ops)
    streams: dict[str, list[Floats]] = {"block_in": [], "attn_out": [], "block_out": []}

    def tap(point: str, layer: int, x_td: Array) -> None:
        streams[point].append(model.ops.to_numpy(x_td))

    logits_v = _run(model, noting, ids, tap)
    return Trace(
        embed_td=streams["block_in"][0],
        attn_ltd=np.stack(streams["attn_out"]),
        block_ltd=np.stack(streams["block_out"]),
        heads_ltk=np.stack(noting.heads),
        logits_v=logits_v,
    )


def last_logits(model: Model, ids: Sequence[int], tap: TapFn | None = None) -> Floats:
    """Logits (v,) of the last row, with what ``tap`` changes."""
    return _run(model, model.ops, ids, tap)


def _run(model: Model, ops: Any, ids: Sequence[int], tap: TapFn | None) -> Floats:
    state = model.cache.new()
    try:
        state.append(len(ids))
        with ops.inference():
            batch = ops.batch([Span(state=state, ids=ids, want="last")])
            logits_wv = qwen.forward(ops, model.weights, batch, [len(ids) - 1], tap)
            numbers: Floats = ops.to_numpy(logits_wv)[0]
            return numbers
    finally:
        state.free()


def read_out(model: Model, x_rd: Floats) -> Floats:
    """The residual stream as the model's own head reads it: logits (r, v)."""
    with model.ops.inference():
        x = model.ops.from_numpy(x_rd)
        logits = model.ops.norm_linear(x, model.weights.norm, model.weights.head)
        numbers: Floats = model.ops.to_numpy(logits)
        return numbers

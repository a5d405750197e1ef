"""One run of the one forward pass, with what each part wrote to the residual stream.

No second forward pass and no hook in the first: ``forward`` is handed a back end that notes what
attention gives per head and passes every operation on. Serving never meets it. Torch only.

Shape suffixes: t rows, d width, h heads, k = heads * head_dim, v vocabulary, n runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from freehold.errors import UsageError
from freehold.qwen import forward as qwen
from freehold.qwen.model import Model, Span
from freehold.qwen.ops import Array, State, TapFn
from freehold.types import Floats


@dataclass(frozen=True, kw_only=True)
class Trace:
    """``embed_td`` is the stream before block 0; ``attn_ltd`` and ``block_ltd`` the stream after
    each block's attention and after the block; ``heads_ltk`` the heads' outputs side by side,
    before the output projection; ``looks_lht`` how each head of the last row shared its attention
    out; ``logits_v`` those of the last row. All float32."""

    embed_td: Floats
    attn_ltd: Floats
    block_ltd: Floats
    heads_ltk: Floats
    looks_lht: Floats
    logits_v: Floats


class _Noting:
    """A back end that keeps what ``attend`` gives and is otherwise the one it wraps."""

    def __init__(self, ops: Any) -> None:
        self._ops = ops
        self.heads: list[Floats] = []
        self.looks: list[Floats] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ops, name)

    def attend(self, qkv_tq: Array, batch: Any, layer: int, qk_norm: Any) -> Array:
        out_tk = self._ops.attend(qkv_tq, batch, layer, qk_norm)
        self.heads.append(self._ops.to_numpy(out_tk))
        q_the, k_tge, _ = self._ops.heads(qkv_tq, batch, qk_norm)
        window = self._ops.config.windows[layer]
        self.looks.append(_looks(self._ops.to_numpy(q_the[-1]), self._ops.to_numpy(k_tge), window))
        return out_tk


def _looks(q_he: Floats, k_tge: Floats, window: int | None) -> Floats:
    """How the last row's heads share their attention out, (h, t): query heads in order, as many to
    each key head."""
    t, g, e = k_tge.shape
    scores_grt = np.einsum("gre,tge->grt", q_he.reshape(g, -1, e), k_tge) / np.sqrt(e)
    if window is not None:
        scores_grt[:, :, : max(t - window, 0)] = -np.inf
    return softmax(scores_grt).reshape(-1, t)


def softmax(logits_rv: Floats) -> Floats:
    """Probabilities of the same shape, over the last axis."""
    shifted = np.exp(logits_rv - logits_rv.max(axis=-1, keepdims=True))
    shares: Floats = shifted / shifted.sum(axis=-1, keepdims=True)
    return shares


def trace(model: Model, ids: Sequence[int]) -> Trace:
    """Run ``ids`` and keep everything. Raises ``UsageError`` for no ids, for more than half the
    cache holds, and for another back end."""
    if not hasattr(model.weights.head, "weight_od"):
        raise UsageError("looking inside needs the torch back end", param="backend")
    if not ids:
        raise UsageError("the prompt holds no tokens", param="prompt")
    most = model.cache.n_pages * model.cache.page_size // 2
    if len(ids) > most:
        raise UsageError(
            f"the prompt has {len(ids):,} tokens, and at most {most:,} can be looked into: "
            "shorten it",
            param="prompt",
        )
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
        looks_lht=np.stack(noting.looks).astype(np.float32),
        logits_v=logits_v,
    )


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


# --- many runs that begin alike -------------------------------------------------------------------

MOST_ROWS = 256
"""Of one forward pass over several runs: on a processor more rows gain no more speed."""
Tail: TypeAlias = tuple[int, Sequence[int]]
"""A run that begins with so many tokens of another one and goes on with these ids, at least one."""


@contextmanager
def begun(model: Model, ids: Sequence[int]) -> Iterator[State]:
    """The state behind ``ids``, for ``ending`` to begin with."""
    state = model.cache.new()
    try:
        if ids:
            model.forward([Span(state=state, ids=list(ids), want="none")])
        yield state
    finally:
        state.free()


def tail_of(base: Sequence[int], ids: Sequence[int]) -> Tail:
    """What of ``ids`` must be computed where the state behind ``base`` is there."""
    pairs = zip(base, ids, strict=False)
    same = next((i for i, (one, two) in enumerate(pairs) if one != two), min(len(base), len(ids)))
    same = min(same, len(ids) - 1)
    return same, ids[same:]


def batches(model: Model, tails: Sequence[Tail]) -> Iterator[list[int]]:
    """Places in ``tails`` of those that go into one forward pass together: what one pass gains by,
    and what the cache has room for now."""
    size, free = model.cache.page_size, model.cache.n_free
    held: list[int] = []
    rows = pages = 0
    for i, (_, ids) in enumerate(tails):
        cost = len(ids) // size + 2  # one begun by others is copied, one is begun
        if held and (rows + len(ids) > MOST_ROWS or pages + cost > free):
            yield held
            held, rows, pages = [], 0, 0
        held.append(i)
        rows, pages = rows + len(ids), pages + cost
    if held:
        yield held


def ending(model: Model, base: State, tails: Sequence[Tail], tap: TapFn | None = None) -> Floats:
    """Logits (n, v) of the runs' last rows, in one forward pass; ``tap`` sees the tails' rows one
    run after the other."""
    with ExitStack() as stack:
        spans = []
        for length, ids in tails:
            state = base.fork(length)
            stack.callback(state.free)
            spans.append(Span(state=state, ids=list(ids), want="last"))
        rows = model.forward(spans, tap=tap)
        return np.concatenate([row for row in rows if row is not None])


def read_out(model: Model, x_rd: Floats) -> Floats:
    """The residual stream as the model's own head reads it: logits (r, v)."""
    with model.ops.inference():
        x = model.ops.from_numpy(x_rd)
        logits = model.ops.norm_linear(x, model.weights.norm, model.weights.head)
        numbers: Floats = model.ops.to_numpy(logits)
        return numbers

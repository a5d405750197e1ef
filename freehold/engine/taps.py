"""Taps on the residual stream: each request sees and changes its own rows of the batch, no others.

Shape suffixes: t rows of the packed batch, d model width, r rows of one request.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from freehold.engine.request import Request
from freehold.engine.scheduler import Share
from freehold.engine.wire import Tapped
from freehold.qwen.ops import Array, Ops
from freehold.types import Floats, Tap

_Site = tuple[str, int]
_Use = tuple[Request, Tap, slice, slice]


class Watch:
    """The taps of one step, called by the forward pass at every point of every layer."""

    def __init__(self, ops: Ops, shares: Sequence[Share]) -> None:
        self._ops = ops
        self._uses: dict[_Site, list[_Use]] = {}
        self._seen: dict[int, list[Tapped]] = {}
        row = 0
        for share in shares:
            rows = slice(row, row + share.n)
            row += share.n
            # What is reported belongs to rows whose logits are wanted: the row that produces the
            # next token, or all rows of a text that is scored or embedded.
            reported = slice(rows.stop - 1, rows.stop) if share.want == "last" else rows
            for tap in share.request.taps:
                pools = share.request.pooler is not None
                if tap.mode != "read" or share.want != "none" or pools:
                    use = (share.request, tap, rows, reported)
                    self._uses.setdefault((tap.point, tap.layer), []).append(use)

    def __bool__(self) -> bool:
        return bool(self._uses)

    def __call__(self, point: str, layer: int, x_td: Array) -> Array | None:
        """``qwen.ops.TapFn``. Taps of one request at one site act in the order they were given."""
        uses = self._uses.get((point, layer))
        if uses is None:
            return None
        stream_td = np.array(self._ops.to_numpy(x_td))
        for request, tap, rows, reported in uses:
            if tap.mode == "read":
                self._report(request, tap, stream_td[reported])
            elif tap.mode == "add":
                stream_td[rows] += np.asarray(tap.vector, np.float32)
            else:
                stream_td[rows] = np.asarray(tap.vector, np.float32)
        changed = any(tap.mode != "read" for _, tap, _, _ in uses)
        return self._ops.from_numpy(stream_td) if changed else None

    def seen(self, request: Request) -> list[Tapped]:
        """What the read taps of ``request`` saw in this step."""
        return self._seen.get(request.number, [])

    def _report(self, request: Request, tap: Tap, x_rd: Floats) -> None:
        values = np.ascontiguousarray(x_rd, "<f4").tobytes()
        seen = Tapped(point=tap.point, layer=tap.layer, rows=len(x_rd), values=values)
        self._seen.setdefault(request.number, []).append(seen)

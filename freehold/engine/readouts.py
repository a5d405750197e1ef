"""Linear readouts of the residual stream: a few numbers for each row, where the hidden states are.

They are computed beside the forward pass and never enter it, for all rows of a step at once: rows
of prompts, of answers, of guesses. What was read off a prompt's pages lies with them in the prefix
cache, so a prompt that is found there needs no second look.

Shapes: t rows of the packed batch, d width, c channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from freehold.engine.scheduler import Share
from freehold.engine.wire import Readout
from freehold.errors import UsageError
from freehold.qwen.ops import Array, Ops, TapFn
from freehold.types import Floats, ModelCard

MAX_CHANNELS = 64


class Readouts:
    """A readout that fits its model. Raises ``UsageError`` for one that does not."""

    def __init__(self, readout: Readout, card: ModelCard, *, n_layers: int, width: int) -> None:
        if readout.digest != card.digest:
            raise UsageError(
                f"the probe is for the model {readout.digest[:19]}, and {card.name} is "
                f"{card.digest[:19]}: train one for it with `freehold guard probe`",
                param="readout",
            )
        layers, channels = readout.layers, readout.channels
        rising = layers == sorted(set(layers))
        if not layers or not rising or not 0 <= layers[0] <= layers[-1] < n_layers:
            raise UsageError(
                f"a readout's layers must rise from 0 to {n_layers - 1}; they are {layers}",
                param="readout",
            )
        size = len(layers) * width * channels * 4
        if not 1 <= channels <= MAX_CHANNELS or len(readout.weights) != size:
            raise UsageError(
                f"a readout has 1 to {MAX_CHANNELS} channels of {width} weights a layer; this has "
                f"{channels}, and {len(readout.weights)} bytes",
                param="readout",
            )
        weights_ldc = np.frombuffer(readout.weights, "<f4").reshape(len(layers), width, channels)
        if not np.isfinite(weights_ldc).all():
            raise UsageError("a readout's weights must be finite numbers", param="readout")
        self.channels = channels
        self._weights = dict(zip(layers, weights_ldc.astype(np.float32), strict=True))

    def step(self, ops: Ops, tap: TapFn | None) -> Reading:
        """What reads one step, after ``tap`` has had its way at each point."""
        return Reading(self._weights, ops, tap)


class Reading:
    """The readouts of one step: handed to the forward pass in the place of its tap."""

    def __init__(self, weights: dict[int, Floats], ops: Ops, tap: TapFn | None) -> None:
        self._weights, self._ops, self._tap = weights, ops, tap
        self._sum_tc: Floats | None = None

    def __call__(self, point: str, layer: int, x_td: Array) -> Array | None:
        """``qwen.ops.TapFn``."""
        changed = None if self._tap is None else self._tap(point, layer, x_td)
        if point == "block_out" and layer in self._weights:
            seen_td = self._ops.to_numpy(x_td if changed is None else changed)
            # One product for each row: a row's bits then do not depend on how many there are.
            found_tc = np.matmul(seen_td[:, None, :], self._weights[layer])[:, 0]
            self._sum_tc = found_tc if self._sum_tc is None else self._sum_tc + found_tc
        return changed

    def deal(self, shares: Sequence[Share]) -> None:
        """Give every request for an answer its rows."""
        assert self._sum_tc is not None, "a readout has a layer"
        row = 0
        for share in shares:
            if share.request.rows is not None:
                first = share.state.length - share.n
                share.request.rows.put(first, self._sum_tc[row : row + share.n])
            row += share.n

"""Low-rank adapters on a frozen model: LoRA, rsLoRA and DoRA.

    y = x W' + s (x A') B' + b                    s = alpha / r, or alpha / sqrt(r) (rsLoRA)
    y = m / |W + s B A| * (x W' + s (x A') B') + b                                     (DoRA)

The frozen weights stay fused as the forward pass wants them; a fused layer has one pair A, B for
each of its parts that are adapted. A and B are float32 and are rounded to the base's type where
they meet its activations.

Source: LoRA (arXiv 2106.09685), rsLoRA (arXiv 2312.03732), DoRA (arXiv 2402.09353; the norm is a
constant to the gradient, its section 4.3). Shapes: t rows, d inputs, o outputs, r rank.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  (the field's own short name)

from freehold.adapt.recipe import Lora
from freehold.qwen.config import Config
from freehold.qwen.forward import Weights
from freehold.qwen.names import FUSED, HF, Part, block_shapes
from freehold.qwen.ops.torch import Codes, Linear


@dataclass(frozen=True, kw_only=True)
class Side:
    """The adapter of outputs ``start`` to ``stop`` of a layer. ``magnitude_o`` is DoRA's m."""

    start: int
    stop: int
    a_rd: Tensor
    b_or: Tensor
    magnitude_o: Tensor | None


class Adapted:
    """A frozen layer with adapters beside it; called like ``ops.torch.Linear``."""

    def __init__(self, base: Linear | Codes, sides: Sequence[Side], scale: float) -> None:
        self.base = base
        self.sides = tuple(sides)
        self.scale = scale
        self._norms: list[Tensor] = []
        self.refresh()

    def refresh(self) -> None:
        """DoRA's norms, once A or B have changed."""
        self._norms = [
            norm_of(self.base.weight_od[side.start : side.stop], side, self.scale)
            for side in self.sides
            if side.magnitude_o is not None
        ]

    def __call__(self, x_td: Tensor) -> Tensor:
        bounds = [(side.start, side.stop) for side in self.sides]
        pairs = [tensor for side in self.sides for tensor in (side.a_rd, side.b_or)]
        if not self._norms:
            y_to: Tensor = _Beside.apply(
                x_td, self.base, self.base.bias_o, self.scale, bounds, *pairs
            )  # type: ignore[no-untyped-call]
            return y_to
        y_to = _Beside.apply(x_td, self.base, None, self.scale, bounds, *pairs)  # type: ignore[no-untyped-call]
        gain_o = torch.ones(y_to.shape[-1], dtype=torch.float32, device=y_to.device)
        for side, norm_o in zip(self.sides, self._norms, strict=True):
            assert side.magnitude_o is not None
            gain_o = torch.cat(
                [gain_o[: side.start], side.magnitude_o / norm_o, gain_o[side.stop :]]
            )
        y_to = y_to * gain_o.to(y_to.dtype)
        return y_to if self.base.bias_o is None else y_to + self.base.bias_o


class _Beside(torch.autograd.Function):
    """x W' + b + s (x A') B' for each side, without a gradient of W: one pass over the outputs, and
    nothing kept but x and x A'."""

    @staticmethod
    def forward(  # noqa: PLR0917  (autograd passes by position)
        ctx: Any,
        x_td: Tensor,
        base: Linear | Codes,
        bias_o: Tensor | None,
        scale: float,
        bounds: list[tuple[int, int]],
        *pairs: Tensor,
    ) -> Tensor:
        y_to = F.linear(x_td, base.weight_od, bias_o)
        ab = [pair.to(x_td.dtype) for pair in pairs]
        narrow = []
        for (start, stop), a_rd, b_or in zip(bounds, ab[::2], ab[1::2], strict=True):
            u_tr = x_td @ a_rd.T
            y_to[:, start:stop].addmm_(u_tr, b_or.T, alpha=scale)
            narrow.append(u_tr)
        ctx.save_for_backward(x_td, *ab, *narrow)
        ctx.base, ctx.scale, ctx.bounds = base, scale, bounds
        return y_to

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (dy_to,) = grads
        x_td, *rest = ctx.saved_tensors
        n = len(ctx.bounds)
        ab, narrow = rest[: 2 * n], rest[2 * n :]
        wanted = ctx.needs_input_grad[0]
        dx_td = dy_to @ ctx.base.weight_od if wanted else None
        pairs: list[Tensor] = []
        for i, (start, stop) in enumerate(ctx.bounds):
            a_rd, b_or, u_tr = ab[2 * i], ab[2 * i + 1], narrow[i]
            side_to = dy_to[:, start:stop]
            du_tr = side_to @ b_or * ctx.scale
            pairs += [(du_tr.T @ x_td).float(), (side_to.T @ u_tr).float() * ctx.scale]
            if dx_td is not None:
                dx_td.addmm_(du_tr, a_rd)
        return (dx_td, None, None, None, None, *pairs)


def norm_of(weight_od: Tensor, side: Side, scale: float) -> Tensor:
    """The length of each row of W + s B A, float32, a constant to the gradient."""
    with torch.no_grad():
        moved = weight_od.float().addmm(side.b_or.float(), side.a_rd.float(), alpha=scale)
        norm_o: Tensor = torch.linalg.vector_norm(moved, dim=1)
    return norm_o


def module_name(layer: int, part: Part) -> str:
    """What transformers calls the module of a matrix (``model.layers.0.self_attn.q_proj``)."""
    return HF.block(layer, part).removesuffix(".weight")


def parameters(config: Config, lora: Lora, *, seed: int) -> dict[str, Tensor]:
    """Fresh adapters by the names that PEFT gives them, without its prefix: A uniform within
    1 / sqrt(d), B zero, so that the model is unchanged. DoRA's m is set by ``attach``."""
    draw = torch.Generator().manual_seed(seed)
    shapes = block_shapes(config)
    found: dict[str, Tensor] = {}
    for layer in range(config.n_layers):
        for part in lora.targets:
            n_out, n_in = shapes[part]
            name = module_name(layer, part)
            a_rd = torch.empty(lora.rank, n_in).uniform_(-1, 1, generator=draw) / math.sqrt(n_in)
            found[f"{name}.lora_A.weight"] = a_rd
            found[f"{name}.lora_B.weight"] = torch.zeros(n_out, lora.rank)
            if lora.magnitude:
                found[f"{name}.lora_magnitude_vector"] = torch.zeros(n_out)
    return found


def attach(
    config: Config, weights: Weights, lora: Lora, given: Mapping[str, Tensor], *, fresh: bool
) -> tuple[Weights, tuple[Adapted, ...]]:
    """The model with adapters on it, and its adapted layers. ``fresh``: DoRA's m begins as the
    length of the base's own rows."""
    shapes = block_shapes(config)
    adapted: list[Adapted] = []
    blocks = []
    for layer, block in enumerate(weights.blocks):
        changed: dict[str, Any] = {}
        for fused, parts in FUSED.items():
            base: Linear | Codes = getattr(block, fused)
            sides = list(_sides(layer, parts, lora, shapes, given))
            if not sides:
                continue
            if fresh and lora.magnitude:
                for side in sides:
                    assert side.magnitude_o is not None
                    with torch.no_grad():
                        rows = base.weight_od[side.start : side.stop].float()
                        side.magnitude_o.copy_(torch.linalg.vector_norm(rows, dim=1))
            changed[fused] = Adapted(base, sides, lora.scale)
            adapted.append(changed[fused])
        blocks.append(replace(block, **changed))
    return replace(weights, blocks=tuple(blocks)), tuple(adapted)


def _sides(
    layer: int,
    parts: Sequence[Part],
    lora: Lora,
    shapes: Mapping[Part, tuple[int, ...]],
    given: Mapping[str, Tensor],
) -> Iterator[Side]:
    start = 0
    for part in parts:
        stop = start + shapes[part][0]
        if part in lora.targets:
            name = module_name(layer, part)
            yield Side(
                start=start,
                stop=stop,
                a_rd=given[f"{name}.lora_A.weight"],
                b_or=given[f"{name}.lora_B.weight"],
                magnitude_o=given.get(f"{name}.lora_magnitude_vector"),
            )
        start = stop


def merged(name: str, weight_od: Tensor, lora: Lora, given: Mapping[str, Tensor]) -> Tensor:
    """A base matrix of module ``name`` with its adapter added, float32."""
    a_rd, b_or = given[f"{name}.lora_A.weight"], given[f"{name}.lora_B.weight"]
    moved = weight_od.float() + lora.scale * (b_or.float() @ a_rd.float())
    magnitude_o = given.get(f"{name}.lora_magnitude_vector")
    if magnitude_o is None:
        return moved
    turned: Tensor = moved * (magnitude_o / torch.linalg.vector_norm(moved, dim=1))[:, None]
    return turned

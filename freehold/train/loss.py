"""What a model is trained on: the surprise at the tokens it should have said.

The head has 150,000 outputs, so logits of a whole batch would be its largest array by far. Here
they are made for some rows at a time, and their gradient at once: nothing of that size is kept.

Or what it should still say: the divergence from what a model said before.

Shapes: w rows that are wanted, d width, v vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from freehold.qwen.ops.torch import Codes, Linear

ROWS = 256
"""Rows whose logits exist at the same time."""


class Surprise:
    """A head that answers with -log p of each of its ``targets_w`` in nats, float32, in place of
    logits; called like ``ops.torch.Linear``. Where its own weights are trained, every row's
    gradient must be the same, as it is of a sum.

    ``z`` times the square of the logits' log norm is added to each (arXiv 2204.02311, section 5);
    ``penalty`` is what it came to, summed, after the call."""

    def __init__(self, head: Linear | Codes, targets_w: Tensor, *, z: float = 0.0) -> None:
        self._head = head
        self._targets_w = targets_w
        self._z = z
        self.penalty = 0.0

    def __call__(self, x_wd: Tensor) -> Tensor:
        weight_vd = self._head.weight_od
        rows_w: Tensor
        rows_w, norms_w = _Surprise.apply(x_wd, weight_vd, self._targets_w, self._z)  # type: ignore[no-untyped-call]
        if self._z:
            self.penalty = self._z * float(norms_w.square().sum())
        return rows_w


class _Surprise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_wd: Tensor, weight_vd: Tensor, targets_w: Tensor, z: float
    ) -> tuple[Tensor, Tensor]:
        wanted_x, wanted_w = ctx.needs_input_grad[0], ctx.needs_input_grad[1]
        dx_wd = torch.empty_like(x_wd) if wanted_x else None
        dw_vd = torch.zeros_like(weight_vd, dtype=torch.float32) if wanted_w else None
        rows_w = torch.empty(len(x_wd), dtype=torch.float32, device=x_wd.device)
        norms_w = torch.empty_like(rows_w)
        for start in range(0, len(x_wd), ROWS):
            piece = slice(start, start + ROWS)
            logits_rv = (x_wd[piece] @ weight_vd.T).float()
            aims_r1 = targets_w[piece, None]
            norm_r1 = torch.logsumexp(logits_rv, dim=1, keepdim=True)
            norms_w[piece] = norm_r1[:, 0]
            rows_w[piece] = (norm_r1 - logits_rv.gather(1, aims_r1) + z * norm_r1.square())[:, 0]
            if dx_wd is None and dw_vd is None:
                continue
            # softmax - one-hot, in the logits' own memory.
            slope_rv = logits_rv.sub_(norm_r1).exp_()
            if z:
                slope_rv.mul_(1 + 2 * z * norm_r1)
            slope_rv.scatter_add_(1, aims_r1, torch.full_like(norm_r1, -1.0))
            slope_rv = slope_rv.to(x_wd.dtype)
            if dx_wd is not None:
                torch.mm(slope_rv, weight_vd, out=dx_wd[piece])
            if dw_vd is not None:
                # Of bfloat16, what many rows add must not be rounded away.
                if slope_rv.dtype == torch.float32:
                    dw_vd.addmm_(slope_rv.T, x_wd[piece])
                else:
                    dw_vd += slope_rv.T @ x_wd[piece]
        ctx.save_for_backward(*(g for g in (dx_wd, dw_vd) if g is not None))
        ctx.wanted, ctx.of = (wanted_x, wanted_w), weight_vd.dtype
        ctx.mark_non_differentiable(norms_w)
        return rows_w, norms_w

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        scale_w, _ = grads
        kept = iter(ctx.saved_tensors)
        dx_wd = dw_vd = None
        if ctx.wanted[0]:
            dx_wd = next(kept)
            dx_wd = dx_wd * scale_w[:, None].to(dx_wd.dtype)
        if ctx.wanted[1]:
            assert bool((scale_w == scale_w[0]).all()), "rows were summed with weights"
            dw_vd = (next(kept) * scale_w[0]).to(ctx.of)
        return (dx_wd, dw_vd, None, None)


class Divergence:
    """A head that answers with how far each row's distribution is from the one that it had before:
    the Kullback-Leibler divergence KL(before || now) in nats, float32, in place of logits.
    ``before_wd`` are the rows that this head, which is not trained, was given then.

    Nothing pulls where nothing has changed, which is not so of the surprise at text that a model
    wrote itself (after learning without forgetting, arXiv 1606.09282)."""

    def __init__(self, head: Linear | Codes, before_wd: Tensor) -> None:
        self._head = head
        self._before_wd = before_wd

    def __call__(self, x_wd: Tensor) -> Tensor:
        rows_w: Tensor = _Divergence.apply(x_wd, self._head.weight_od, self._before_wd)  # type: ignore[no-untyped-call]
        return rows_w


class _Divergence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_wd: Tensor, weight_vd: Tensor, before_wd: Tensor) -> Tensor:
        assert not ctx.needs_input_grad[1], "the head itself is learning"
        dx_wd = torch.empty_like(x_wd) if ctx.needs_input_grad[0] else None
        rows_w = torch.empty(len(x_wd), dtype=torch.float32, device=x_wd.device)
        for start in range(0, len(x_wd), ROWS):
            piece = slice(start, start + ROWS)
            now_rv = torch.log_softmax((x_wd[piece] @ weight_vd.T).float(), dim=1)
            then_rv = torch.log_softmax((before_wd[piece] @ weight_vd.T).float(), dim=1)
            chances_rv = then_rv.exp()
            rows_w[piece] = (chances_rv * then_rv.sub_(now_rv)).sum(dim=1)
            if dx_wd is not None:
                slope_rv = now_rv.exp_().sub_(chances_rv).to(x_wd.dtype)
                torch.mm(slope_rv, weight_vd, out=dx_wd[piece])
        ctx.save_for_backward(*(g for g in (dx_wd,) if g is not None))
        return rows_w

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (scale_w,) = grads
        (dx_wd,) = ctx.saved_tensors
        return (dx_wd * scale_w[:, None].to(dx_wd.dtype), None, None)

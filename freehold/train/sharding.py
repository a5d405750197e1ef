"""A model whose values are shared out over the ranks: FSDP2 (``fully_shard``) block by block.

The forward pass stays ``qwen.forward``. A block's values are gathered before it is computed and
dropped after it, again on the way back, when its gradients are summed and each rank keeps its
share. Embedding, last norm and head stay gathered within a pass.

Source: PyTorch FSDP (arXiv 2304.11277), per-parameter sharding as in torchtitan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from freehold.qwen import forward as qwen
from freehold.qwen.ops.torch import TorchBatch, TorchOps
from freehold.train.ranks import Ranks
from freehold.train.weights import block_names, block_of, every, model_of, top_names

Computed = TypeVar("Computed")


class Through(Protocol):
    """What stands in the place of ``qwen.block``."""

    def __call__(  # noqa: PLR0917  (as qwen.block)
        self,
        ops: TorchOps,
        weights: qwen.Weights,
        x_td: Tensor,
        batch: TorchBatch,
        i: int,
        tap: Any,
    ) -> Tensor: ...


class Sharded:
    """``weights`` shared out; those tensors are not used any more. Passes are computed in
    ``dtype``, gradients summed in float32. ``block`` computes one block."""

    def __init__(
        self,
        weights: qwen.Weights,
        ranks: Ranks,
        *,
        dtype: torch.dtype,
        block: Callable[..., Tensor] = qwen.block,
    ) -> None:
        assert ranks.mesh is not None
        self._order = [name for name, _ in every(weights)]
        self._whole = _Whole(weights, block)
        policy = MixedPrecisionPolicy(
            param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False
        )
        for one in (*self._whole.blocks, self._whole):
            share = fully_shard(one, mesh=ranks.mesh, mp_policy=policy)
            # A sum: what is taught is counted over all ranks, and a mean of means is none.
            share.set_gradient_divide_factor(1.0)
            share.set_force_sum_reduction_for_comms(True)

    @property
    def parameters(self) -> dict[str, Tensor]:
        """The values by the names of ``weights.every``, each a DTensor."""
        found = dict(self._whole.named())
        return {name: found[name] for name in self._order}

    def __call__(self, compute: Callable[[qwen.Weights, Through], Computed]) -> Computed:
        """What ``compute`` makes of the gathered values; blocks must go through what it is given.
        Tensors in it may be differentiated. Every rank must call."""
        computed: Computed = self._whole(compute)
        return computed


class _Block(nn.Module):
    """One block's values. Parameters' names hold no dots."""

    def __init__(self, block: qwen.BlockWeights, compute: Callable[..., Tensor]) -> None:
        super().__init__()
        self._compute = compute
        self.plain = dict(_register(self, block_names(block)))

    def forward(  # noqa: PLR0917  (as qwen.block)
        self,
        ops: TorchOps,
        weights: qwen.Weights,
        x_td: Tensor,
        batch: TorchBatch,
        i: int,
        tap: Any,
    ) -> Tensor:
        blocks = list(weights.blocks)
        blocks[i] = block_of(_values(self, self.plain))
        return self._compute(ops, replace(weights, blocks=tuple(blocks)), x_td, batch, i, tap)


class _Whole(nn.Module):
    """A model's values: the blocks', and what is before and after them."""

    def __init__(self, weights: qwen.Weights, compute: Callable[..., Tensor]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([_Block(block, compute) for block in weights.blocks])
        self.plain = dict(_register(self, top_names(weights)))

    def forward(self, compute: Callable[[qwen.Weights, Through], Any]) -> Any:
        absent: Any = (None,) * len(self.blocks)
        return compute(model_of(_values(self, self.plain), absent), self._through)

    def _through(  # noqa: PLR0917  (as qwen.block)
        self,
        ops: TorchOps,
        weights: qwen.Weights,
        x_td: Tensor,
        batch: TorchBatch,
        i: int,
        tap: Any,
    ) -> Tensor:
        computed: Tensor = self.blocks[i](ops, weights, x_td, batch, i, tap)
        return computed

    def named(self) -> Iterator[tuple[str, Tensor]]:
        yield from _values(self, self.plain).items()
        for i, block in enumerate(self.blocks):
            assert isinstance(block, _Block)
            for name, values in _values(block, block.plain).items():
                yield f"{i}.{name}", values


def _register(module: nn.Module, named: Iterator[tuple[str, Tensor]]) -> Iterator[tuple[str, str]]:
    for name, values in named:
        plain = name.replace(".", "_")
        learns = values.requires_grad
        module.register_parameter(plain, nn.Parameter(values.detach(), requires_grad=learns))
        yield name, plain


def _values(module: nn.Module, names: dict[str, str]) -> dict[str, Tensor]:
    return {name: getattr(module, plain) for name, plain in names.items()}

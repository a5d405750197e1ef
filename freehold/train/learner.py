"""A model from nothing: its first values, and the loss of a batch.

The model is ``qwen.forward`` over ``ops.torch``, the one that is served. Values and AdamW's means
are float32; where the passes are computed in bfloat16, they work on a copy made anew each step, and
gradients are summed in float32.

Shapes: t rows of a batch, d width, v vocabulary.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from freehold.qwen import forward as qwen
from freehold.qwen.config import Config
from freehold.qwen.names import FUSED, block_shapes
from freehold.qwen.ops.torch import Linear, open_ops
from freehold.train import devices
from freehold.train.encoding import Sample
from freehold.train.loss import Surprise
from freehold.train.ranks import ALONE, Ranks, gathered
from freehold.train.recipe import Recipe
from freehold.train.taught import together
from freehold.train.weights import every

if TYPE_CHECKING:
    from freehold.train.sharding import Through

_SPREAD = 0.64
"""The first values' standard deviation times the root of the width: 0.02 at 1,024."""
Scored = tuple[Tensor, float]


class Learner:
    """``parameters`` are the values that change, float32, by the names of ``weights.every``. With
    several ranks each holds a share of them, and what computes or gathers is for all to call."""

    def __init__(
        self, recipe: Recipe, config: Config, *, device: str = "cpu", ranks: Ranks = ALONE
    ) -> None:
        devices.prepare(device)
        _restrict(recipe)
        self.recipe, self.config = recipe, config
        self.ops = open_ops(
            config,
            dtype=recipe.dtype,
            device=device,
            threads=recipe.threads,
            n_pages=1,
            page_size=16,
        )
        weights = _fresh(config, recipe.seed, device)
        self.parameters: Mapping[str, Tensor] = dict(every(weights))
        self._copies: Mapping[str, Tensor] = self.parameters
        self._pass: Callable[[Callable[[qwen.Weights, Through | None], Scored]], Scored]
        if ranks.world > 1:
            from freehold.train.sharding import Sharded

            for values in self.parameters.values():
                values.requires_grad_(True)
            self._pass = sharded = Sharded(weights, ranks, dtype=self.ops.dtype)
            self.parameters = self._copies = sharded.parameters
        else:
            if recipe.dtype == "bfloat16":
                weights = _fresh(config, recipe.seed, device, torch.bfloat16)
                self._copies = dict(every(weights))
            for values in self._copies.values():
                values.requires_grad_(True)
            through = _through(recipe)
            self._pass = lambda compute: compute(weights, through)
        self.vectors = frozenset(n for n, values in self.parameters.items() if values.dim() == 1)

    def refresh(self) -> None:
        """Follow a change of ``parameters``."""
        if self._copies is self.parameters:
            return
        with torch.no_grad():
            for name, values in self.parameters.items():
                self._copies[name].copy_(values)

    def loss(self, samples: Sequence[Sample]) -> tuple[Tensor, float]:
        """What is to become less, summed over the taught tokens of ``samples`` packed into one
        batch; and of it the part that is not the surprise in nats but the logits' norm."""
        taught = together(self.ops, samples)

        def compute(weights: qwen.Weights, through: Through | None) -> tuple[Tensor, float]:
            head = Surprise(weights.head, taught.targets_w, z=self.recipe.z_loss)
            learning = replace(weights, head=head)
            total = qwen.forward(self.ops, learning, taught.batch, taught.rows, through=through)
            assert isinstance(total, Tensor)
            return total.sum(), head.penalty

        return self._pass(compute)

    def gather(self) -> None:
        """Add the copies' gradients to the values' own, and forget them."""
        if self._copies is self.parameters:
            return
        for name, values in self.parameters.items():
            found = self._copies[name].grad
            if found is not None:
                grown = found.float()
                values.grad = grown if values.grad is None else values.grad.add_(grown)
            self._copies[name].grad = None

    def digest(self) -> str:
        """SHA-256 of all values, by name."""
        whole = hashlib.sha256()
        for name in sorted(self.parameters):
            whole.update(name.encode() + b"\n")
            values = gathered(self.parameters[name].detach())
            whole.update(values.cpu().contiguous().numpy().tobytes())
        return whole.hexdigest()


def _fresh(
    config: Config, seed: int, device: str, dtype: torch.dtype = torch.float32
) -> qwen.Weights:
    """First values: normal, smaller where they add to the residual stream (GPT-2), norms one."""
    std = _SPREAD / math.sqrt(config.width)
    thin = std / math.sqrt(2 * config.n_layers)
    shapes = block_shapes(config)

    def drawn(name: str, rows: int, columns: int, spread: float) -> Tensor:
        draw = torch.Generator().manual_seed(_seed_of(seed, name))
        values = torch.empty(rows, columns).normal_(0.0, spread, generator=draw)
        return values.to(device, dtype)

    def ones(n: int) -> Tensor:
        return torch.ones(n, device=device, dtype=dtype)

    def layer(number: int, fused: str) -> Linear:
        parts = FUSED[fused]  # type: ignore[index]
        rows = sum(shapes[part][0] for part in parts)
        spread = thin if fused in ("out", "down") else std
        name = f"{number}.{fused}"
        return Linear(weight_od=drawn(name, rows, shapes[parts[0]][1], spread))

    blocks = tuple(
        qwen.BlockWeights(
            attn_norm=ones(config.width),
            qkv=layer(n, "qkv"),
            qk_norm=(ones(config.head_dim), ones(config.head_dim)),
            out=layer(n, "out"),
            mlp_norm=ones(config.width),
            gate_up=layer(n, "gate_up"),
            down=layer(n, "down"),
        )
        for n in range(config.n_layers)
    )
    embed = Linear(weight_od=drawn("embed", config.vocab, config.width, std))
    return qwen.Weights(embed=embed, blocks=blocks, norm=ones(config.width), head=embed)


def _through(recipe: Recipe) -> Through | None:
    """What stands in the place of ``qwen.block``, if anything does."""
    if not recipe.compiled:
        return None
    from freehold.train.compiled import Blocks

    return Blocks(recipe.micro_batch, recipe.length)


def _seed_of(seed: int, name: str) -> int:
    digest = hashlib.sha256(f"{seed}\n{name}".encode()).digest()
    return int.from_bytes(digest[:7], "little")


def _restrict(recipe: Recipe) -> None:
    """Have PyTorch and its libraries use no instructions that the recipe does not allow. They ask
    once, before they first compute: a process that has computed already stays as it is, and the
    record's ``environment`` says as what."""
    if recipe.instructions == "avx2":
        os.environ["ATEN_CPU_CAPABILITY"] = "avx2"
        os.environ["MKL_CBWR"] = os.environ["ONEDNN_MAX_CPU_ISA"] = "AVX2"


def optimiser_of(learner: Learner) -> torch.optim.AdamW:
    """AdamW (arXiv 1711.05101); norms do not decay."""
    recipe = learner.recipe
    named = learner.parameters.items()
    return torch.optim.AdamW(
        [
            {
                "params": [v for n, v in named if n not in learner.vectors],
                "weight_decay": recipe.weight_decay,
            },
            {"params": [v for n, v in named if n in learner.vectors], "weight_decay": 0.0},
        ],
        lr=recipe.learning_rate,
        betas=recipe.betas,
        eps=recipe.epsilon,
        fused=True,
    )

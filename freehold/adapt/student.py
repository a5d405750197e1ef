"""The model while it learns: the one that is served, with some of its values open to change."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor
from torch.utils.checkpoint import checkpoint

from freehold.adapt import lora as low_rank
from freehold.adapt.encoding import Sample
from freehold.adapt.loss import Surprise
from freehold.adapt.recipe import Recipe
from freehold.qwen import forward as qwen
from freehold.qwen.model import Model
from freehold.qwen.ops.torch import Linear, TorchOps


@dataclass(frozen=True, kw_only=True)
class Whole:
    """A sequence that nothing is remembered of (``ops.SpanLike``)."""

    ids: list[int]
    state: None = None


@dataclass(frozen=True, kw_only=True)
class Student:
    """``parameters`` are the values that change, by name; ``vectors`` names those of them (norms,
    biases) that weight decay leaves alone. ``refresh`` follows each change."""

    ops: TorchOps
    weights: qwen.Weights
    parameters: Mapping[str, Tensor]
    vectors: frozenset[str] = frozenset()
    adapted: tuple[low_rank.Adapted, ...] = field(default=())
    recompute: bool = False

    def refresh(self) -> None:
        for layer in self.adapted:
            layer.refresh()

    def surprise(self, samples: list[Sample]) -> Tensor:
        """The sum of -log p in nats over the taught tokens of samples packed into one batch."""
        batch = self.ops.batch([Whole(ids=sample.ids[:-1].tolist()) for sample in samples])
        rows: list[int] = []
        targets: list[int] = []
        start = 0
        for sample in samples:
            (at,) = sample.taught[1:].nonzero()
            rows += (start + at).tolist()
            targets += sample.ids[1:][at].tolist()
            start += len(sample.ids) - 1
        head = Surprise(self.weights.head, batch.ids_t.new_tensor(targets))
        through = self._again if self.recompute else None
        total = qwen.forward(
            self.ops, replace(self.weights, head=head), batch, rows, through=through
        )
        assert isinstance(total, Tensor)
        return total

    def _again(self, *block: Any) -> Tensor:
        computed: Tensor = checkpoint(qwen.block, *block, use_reentrant=False)
        return computed


def student_of(model: Model, recipe: Recipe) -> Student:
    """Open ``model``, on the torch back end, to what the recipe trains."""
    ops = model.ops
    assert isinstance(ops, TorchOps), "training needs gradients"
    if recipe.lora is None:
        parameters = dict(_every(model.weights))
        for values in parameters.values():
            values.requires_grad_(True)
        vectors = frozenset(name for name, values in parameters.items() if values.dim() == 1)
        return Student(
            ops=ops,
            weights=model.weights,
            parameters=parameters,
            vectors=vectors,
            recompute=recipe.recompute,
        )
    fresh = low_rank.parameters(model.config, recipe.lora, seed=recipe.seed)
    parameters = {name: values.to(ops.device) for name, values in fresh.items()}
    weights, adapted = low_rank.attach(
        model.config, model.weights, recipe.lora, parameters, fresh=True
    )
    for values in parameters.values():
        values.requires_grad_(True)
    student = Student(
        ops=ops,
        weights=weights,
        parameters=parameters,
        vectors=frozenset(name for name, values in parameters.items() if values.dim() == 1),
        adapted=adapted,
        recompute=recipe.recompute,
    )
    student.refresh()
    return student


def _every(weights: qwen.Weights) -> Iterator[tuple[str, Tensor]]:
    """Every value of a model by its place in the forward pass; layers stay fused."""

    def layer(name: str, packed: Linear) -> Iterator[tuple[str, Tensor]]:
        yield f"{name}.weight", packed.weight_od
        if packed.bias_o is not None:
            yield f"{name}.bias", packed.bias_o

    yield from layer("embed", weights.embed)
    for i, block in enumerate(weights.blocks):
        yield f"{i}.attn_norm", block.attn_norm
        for fused in low_rank.FUSED:
            yield from layer(f"{i}.{fused}", getattr(block, fused))
        if block.qk_norm is not None:
            yield f"{i}.q_norm", block.qk_norm[0]
            yield f"{i}.k_norm", block.qk_norm[1]
        yield f"{i}.mlp_norm", block.mlp_norm
    yield "norm", weights.norm
    if weights.head is not weights.embed:
        yield from layer("head", weights.head)


Report = Callable[[dict[str, Any]], None]

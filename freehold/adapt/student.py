"""The model while it learns: the one that is served, with some of its values open to change."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  (the field's own short name)
from torch.utils.checkpoint import checkpoint

from freehold.adapt import lora as low_rank
from freehold.adapt.recipe import Recipe
from freehold.qwen import forward as qwen
from freehold.qwen.model import Model
from freehold.qwen.ops.torch import TorchOps
from freehold.train.encoding import Lesson, Pair, Sample
from freehold.train.loss import Divergence, Surprise
from freehold.train.ranks import ALONE, Ranks
from freehold.train.taught import Taught, together
from freehold.train.weights import every

if TYPE_CHECKING:
    from freehold.train.sharding import Sharded


@dataclass(frozen=True, kw_only=True)
class Student:
    """``parameters`` are the values that change, by name; ``vectors`` names those of them (norms,
    biases) that weight decay leaves alone. ``base`` is what does not change, and
    ``beta`` how much of it a preference keeps. ``refresh`` follows each change. ``sharded`` holds
    the values where they are shared out over ranks; adapters are not, each rank has them whole."""

    ops: TorchOps
    weights: qwen.Weights | None
    parameters: Mapping[str, Tensor]
    vectors: frozenset[str] = frozenset()
    adapted: tuple[low_rank.Adapted, ...] = field(default=())
    recompute: bool = False
    base: qwen.Weights | None = None
    beta: float = 0.0
    sharded: Sharded | None = None

    def refresh(self) -> None:
        for layer in self.adapted:
            layer.refresh()

    def loss(self, lessons: Sequence[Lesson]) -> Tensor:
        """What is to become less, summed over lessons of one kind: the surprise at samples, or the
        preference of the worse answer of pairs."""
        pairs = [lesson for lesson in lessons if isinstance(lesson, Pair)]
        if pairs:
            assert len(pairs) == len(lessons), "one kind at a time"
            return self.preference(pairs)
        samples = [lesson for lesson in lessons if isinstance(lesson, Sample)]
        return self.surprise(samples).sum()

    def preference(self, pairs: Sequence[Pair]) -> Tensor:
        """Direct preference optimisation (arXiv 2305.18290, equation 7), with the model as it was
        before training for the reference."""
        answers = [answer for pair in pairs for answer in (pair.chosen, pair.rejected)]
        with torch.no_grad():
            before = self.surprise(answers, self.base)
        gained = before - self.surprise(answers)
        margin = self.beta * (gained[0::2] - gained[1::2])
        return -F.logsigmoid(margin).sum()

    def surprise(self, samples: Sequence[Sample], weights: qwen.Weights | None = None) -> Tensor:
        """The sum of -log p in nats over the taught tokens of each of some samples, packed into one
        batch; by other ``weights`` than those that learn, if there are any."""
        taught = together(self.ops, samples)

        def compute(learning: qwen.Weights, through: Any) -> Tensor:
            head = Surprise(learning.head, taught.targets_w)
            return self._through(replace(learning, head=head), taught, through)

        if self.sharded is not None:
            nats_w = self.sharded(compute)
        else:
            learning = weights or self.weights
            assert learning is not None
            nats_w = compute(learning, self._again)
        return self._summed(nats_w, taught.owners, samples)

    def drift(self, samples: Sequence[Sample]) -> Tensor:
        """How far the model has come, over some samples, from what it said before training:
        the sum of KL(before || now) in nats over where the taught tokens are said. Of adapters."""
        learning, base = self.weights, self.base
        assert learning is not None
        assert base is not None, "nothing is left of the model as it was"
        taught = together(self.ops, samples)
        with torch.no_grad():
            before_wd = self._through(replace(base, head=_as_it_comes), taught, None)
        head = Divergence(learning.head, before_wd)
        return self._through(replace(learning, head=head), taught, self._again).sum()

    def _through(self, weights: qwen.Weights, taught: Taught, through: Any) -> Tensor:
        found = qwen.forward(self.ops, weights, taught.batch, taught.rows, through=through)
        assert isinstance(found, Tensor)
        return found

    @property
    def _again(self) -> Callable[..., Tensor] | None:
        return block_again if self.recompute else None

    @staticmethod
    def _summed(nats_w: Tensor, owners: list[int], samples: Sequence[Sample]) -> Tensor:
        owners_w = torch.tensor(owners, device=nats_w.device)
        return nats_w.new_zeros(len(samples)).index_add(0, owners_w, nats_w)


def _as_it_comes(x_wd: Tensor) -> Tensor:
    """In a head's place: what the head would be given."""
    return x_wd


def block_again(*block: Any) -> Tensor:
    """``qwen.block``, computed once more on the way back in place of keeping what is in it."""
    computed: Tensor = checkpoint(qwen.block, *block, use_reentrant=False)
    return computed


def student_of(model: Model, recipe: Recipe, ranks: Ranks = ALONE) -> Student:
    """Open ``model``, on the torch back end, to what the recipe trains. Where that is every weight,
    ``ranks`` share them out, and ``model`` is of no more use."""
    ops = model.ops
    assert isinstance(ops, TorchOps), "training needs gradients"
    if recipe.lora is None:
        parameters = dict(every(model.weights))
        for values in parameters.values():
            values.requires_grad_(True)
        vectors = frozenset(name for name, values in parameters.items() if values.dim() == 1)
        sharded = None
        if ranks.world > 1:
            from freehold.train.sharding import Sharded

            block: Callable[..., Tensor] = block_again if recipe.recompute else qwen.block
            sharded = Sharded(model.weights, ranks, dtype=ops.dtype, block=block)
            parameters = sharded.parameters
        return Student(
            ops=ops,
            weights=None if sharded else model.weights,
            parameters=parameters,
            vectors=vectors,
            recompute=recipe.recompute,
            sharded=sharded,
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
        base=model.weights,
        beta=recipe.beta,
    )
    student.refresh()
    return student


Report = Callable[[dict[str, Any]], None]

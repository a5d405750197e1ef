"""The model while it learns: the one that is served, with some of its values open to change."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

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
from freehold.train.loss import Surprise
from freehold.train.weights import Whole, every


@dataclass(frozen=True, kw_only=True)
class Student:
    """``parameters`` are the values that change, by name; ``vectors`` names those of them (norms,
    biases) that weight decay leaves alone. ``base`` is what does not change, and
    ``beta`` how much of it a preference keeps. ``refresh`` follows each change."""

    ops: TorchOps
    weights: qwen.Weights
    parameters: Mapping[str, Tensor]
    vectors: frozenset[str] = frozenset()
    adapted: tuple[low_rank.Adapted, ...] = field(default=())
    recompute: bool = False
    base: qwen.Weights | None = None
    beta: float = 0.0

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
        batch = self.ops.batch([Whole(ids=sample.ids[:-1].tolist()) for sample in samples])
        rows: list[int] = []
        targets: list[int] = []
        start = 0
        owners: list[int] = []
        for n, sample in enumerate(samples):
            (at,) = sample.taught[1:].nonzero()
            rows += (start + at).tolist()
            owners += [n] * len(at)
            targets += sample.ids[1:][at].tolist()
            start += len(sample.ids) - 1
        head = Surprise(
            self.weights.head if weights is None else weights.head, batch.ids_t.new_tensor(targets)
        )
        through = self._again if self.recompute else None
        learning = self.weights if weights is None else weights
        nats_w = qwen.forward(self.ops, replace(learning, head=head), batch, rows, through=through)
        assert isinstance(nats_w, Tensor)
        sums = nats_w.new_zeros(len(samples))
        return sums.index_add(0, batch.ids_t.new_tensor(owners), nats_w)

    def _again(self, *block: Any) -> Tensor:
        computed: Tensor = checkpoint(qwen.block, *block, use_reentrant=False)
        return computed


def student_of(model: Model, recipe: Recipe) -> Student:
    """Open ``model``, on the torch back end, to what the recipe trains."""
    ops = model.ops
    assert isinstance(ops, TorchOps), "training needs gradients"
    if recipe.lora is None:
        parameters = dict(every(model.weights))
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
        base=model.weights,
        beta=recipe.beta,
    )
    student.refresh()
    return student


Report = Callable[[dict[str, Any]], None]

"""Samples as one batch, and what of it is taught."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from freehold.qwen.ops.torch import TorchBatch, TorchOps
from freehold.train.encoding import Sample


@dataclass(frozen=True, kw_only=True)
class Whole:
    """A sequence that nothing is remembered of (``ops.SpanLike``)."""

    ids: list[int]
    state: None = None


@dataclass(frozen=True, kw_only=True)
class Taught:
    """A ``batch`` of samples without their last tokens; of the taught tokens the ``rows`` that say
    them, the places of their samples (``owners``), and the tokens."""

    batch: TorchBatch
    rows: list[int]
    owners: list[int]
    targets_w: Tensor


def together(ops: TorchOps, samples: Sequence[Sample]) -> Taught:
    """Samples packed into one batch, blind to each other."""
    batch = ops.batch([Whole(ids=sample.ids[:-1].tolist()) for sample in samples])
    rows: list[int] = []
    owners: list[int] = []
    targets: list[int] = []
    start = 0
    for n, sample in enumerate(samples):
        (at,) = sample.taught[1:].nonzero()
        rows += (start + at).tolist()
        owners += [n] * len(at)
        targets += sample.ids[1:][at].tolist()
        start += len(sample.ids) - 1
    return Taught(batch=batch, rows=rows, owners=owners, targets_w=batch.ids_t.new_tensor(targets))

"""Blocks that ``torch.compile`` makes programs of, for rows of one length.

Under the lock no process may start another, so the compiler has to run before: ``make`` takes a
recipe through one step on made-up tokens, when files are shut already and nothing of a stranger's
has been read. What it makes stays in memory, and the compiler is never needed again: every step of
rows has the same shape. Whatever has another (conversations, what is only measured) takes the plain
way, decided by its shape alone, so that a run that was stopped computes what it would have.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from freehold.errors import ProcessError
from freehold.qwen import forward as qwen
from freehold.qwen.ops.torch import TorchBatch, TorchOps
from freehold.train import devices
from freehold.train.encoding import Sample

if TYPE_CHECKING:
    from freehold.train.recipe import Recipe


@cache
def block() -> Any:
    """``qwen.block`` as a program: one for all blocks of a shape."""
    import torch._inductor.config as inductor

    # Only this process compiles: no workers, and no header that is made for them all.
    inductor.compile_threads = 1
    inductor.cpp_cache_precompile_headers = False
    inductor.cpp.vec_isa_ok = True  # as the processor says; else each is tried in a new process
    return torch.compile(qwen.block, dynamic=False, fullgraph=True)


class Blocks:
    """Stands in the place of ``qwen.block`` where ``rows`` tokens lie in rows of ``length``."""

    def __init__(self, rows: int, length: int) -> None:
        self._shape, self._block = (rows, length), block()

    def __call__(  # noqa: PLR0917  (as qwen.block)
        self,
        ops: TorchOps,
        weights: qwen.Weights,
        x_td: Tensor,
        batch: TorchBatch,
        i: int,
        tap: Any,
    ) -> Tensor:
        whole = (batch.n_rows, batch.even) == self._shape and torch.is_grad_enabled()
        if not whole or tap is not None:
            plain: Tensor = qwen.block(ops, weights, x_td, batch, i, tap)
            return plain
        # The block's number is not part of the program.
        one = replace(weights, blocks=(weights.blocks[i],))
        found: Tensor = self._block(ops, one, x_td, batch, 0, None)
        return found


def make(recipe: Recipe, device: str) -> None:
    """Compile what ``recipe`` needs, here and now. Raises ``UsageError`` where there is no
    compiler, ``ProcessError`` where it fails."""
    from freehold.train.learner import Learner

    devices.compiler()
    config = replace(recipe.shape, n_layers=1).config(64, ())
    learner = Learner(recipe, config, device=device)
    ids = np.zeros(recipe.length + 1, np.int32)
    row = Sample(ids=ids, taught=np.ones(len(ids), np.bool_))
    try:
        for _ in range(2):
            loss, _ = learner.loss([row] * (recipe.micro_batch // recipe.length))
            loss.backward()  # type: ignore[no-untyped-call]
            learner.gather()
    except RuntimeError as error:
        raise ProcessError(
            f"the blocks of {recipe.name} cannot be compiled: {error}. --no-compile does without"
        ) from error

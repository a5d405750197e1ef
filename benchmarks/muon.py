"""Muon for the matrices against AdamW for everything: what is held out, after the same steps.

    python benchmarks/muon.py CORPUS [--recipe hearth] [--steps 300] [--rates 0.5 1 2] [--seeds 1]

CORPUS is a folder in the vault (`corpora/NAME`). Each run takes the recipe's first stage,
shortened, with the same rows and first values. Muon (PyTorch's, its rates matched to AdamW's, arXiv
2502.16982) gets the blocks' matrices, fused as they are; the embedding, which is the head too, and
the norms stay AdamW's. AdamW's rates are multiplied by the same numbers, so that neither is better
for a better rate. Printed: bits per byte of what is held out, and seconds a step, which mean
something only on a quiet machine.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from freehold.train import run
from freehold.train.learner import optimiser_of
from freehold.train.recipe import Recipe, recipe_named


class Both:
    """Muon and AdamW, stepped as one."""

    def __init__(self, learner: Any, recipe: Recipe) -> None:
        named = learner.parameters.items()
        matrices = [v for n, v in named if v.dim() == 2 and "embed" not in n]
        others = {id(v) for v in matrices}
        self._muon = torch.optim.Muon(
            matrices,
            lr=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            adjust_lr_fn="match_rms_adamw",
        )
        self._adam = optimiser_of(learner)
        for group in self._adam.param_groups:
            group["params"] = [v for v in group["params"] if id(v) not in others]
        self.param_groups = [*self._muon.param_groups, *self._adam.param_groups]

    def step(self) -> None:
        self._muon.step()
        self._adam.step()

    def zero_grad(self, *, set_to_none: bool) -> None:
        self._muon.zero_grad(set_to_none=set_to_none)
        self._adam.zero_grad(set_to_none=set_to_none)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--recipe", default="hearth")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rates", type=float, nargs="+", default=[0.5, 1.0, 2.0])
    parser.add_argument("--seeds", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(1)
    whole = recipe_named(args.recipe)
    stage = replace(whole.stages[0], steps=args.steps)
    for rate in args.rates:
        for seed in range(args.seeds):
            recipe = replace(
                whole, stages=(stage,), learning_rate=whole.learning_rate * rate, seed=seed
            )
            for muon in (False, True):
                training = run.Training(recipe, args.corpus)
                if muon:
                    training.optimiser = Both(training.learner, recipe)  # type: ignore[assignment]
                took = []
                for _ in range(args.steps):
                    began = time.monotonic()
                    training.step()
                    took.append(time.monotonic() - began)
                print(
                    f"{'Muon' if muon else 'AdamW':5}  rate {recipe.learning_rate:.5f}  seed {seed}"
                    f"  {training.measure():.4f} bits per byte  {statistics.median(took):.3f} s",
                    flush=True,
                )


if __name__ == "__main__":
    main()

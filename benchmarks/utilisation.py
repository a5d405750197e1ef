"""How much of a device's arithmetic training uses: model-FLOP utilisation (MFU).

    python benchmarks/utilisation.py [--recipe hearth] [--device cpu] [--dtype bfloat16] [--compile]

Trains by a recipe and times whole steps, optimiser and all, but for the first of each round. What a
token takes is ``Shape.operations``: 6 for each value, and the attention over a whole row, masked or
not, as in PaLM (arXiv 2204.02311, appendix B); what is computed again counts for nothing. The share
is of two peaks: what the maker states (``--peak``, or known by the GPU's name), and the fastest of
a few square products of matrices, timed here between the rounds in the same precision.

With ``--compile`` each round times the recipe with compiled blocks as well, in turn.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from train import small_corpus

from freehold.train import run
from freehold.train.recipe import Recipe, Stage, recipe_named

DENSE = {"H200": 989.5, "H100 80GB HBM3": 989.5, "A100": 312.0, "L40S": 362.05, "L4": 121.0}
"""Tensor-core operations per second in bfloat16, dense, in 1e12, by the makers' data sheets."""
SIZES = (1024, 2048, 4096)


def main() -> None:
    args = _arguments()
    recipe = _recipe(args)
    torch.set_num_threads(recipe.threads)
    rounds: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        corpus = args.corpus or small_corpus(Path(scratch))
        trainings = {"plain": run.Training(recipe, corpus, device=args.device)}
        if args.compile:
            made = replace(recipe, compiled=True)
            trainings["compiled"] = run.Training(made, corpus, device=args.device)
        vocab = trainings["plain"].config.vocab
        for number in range(args.rounds):
            found = {"product": _product(args.device, recipe.dtype)}
            order = list(trainings) if number % 2 == 0 else list(reversed(trainings))
            for which in order:
                found[which] = _rate(trainings[which], args.steps)
            rounds.append(found)
            print(json.dumps({"round": number, **found}), flush=True)
    each = recipe.shape.operations(vocab, recipe.length)
    peak = args.peak or _stated(args.device, recipe.dtype)
    measured = statistics.median(one["product"] for one in rounds)
    print(f"{recipe.name}: {each / 1e6:,.2f} million operations a token in rows of {recipe.length}")
    for which in trainings:
        rate = statistics.median(one[which] for one in rounds)
        shares = [one[which] * each / one["product"] for one in rounds]
        stated = f", {rate * each / peak / 1e12:.1%} of {peak:,.1f} stated" if peak else ""
        print(
            f"{which}, {recipe.dtype}, {_name(args.device)}, {recipe.threads} threads: "
            f"{rate:,.0f} tokens a second, {rate * each / 1e12:.3f} TFLOP/s, "
            f"{statistics.median(shares):.1%} ({min(shares):.1%} to {max(shares):.1%}) of "
            f"{measured / 1e12:.3f} measured{stated}"
        )
    if args.compile:
        ratios = [one["compiled"] / one["plain"] for one in rounds]
        print(f"compiled: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="hearth")
    parser.add_argument("--corpus", type=Path, help="a built corpus [a small one is made]")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="[the recipe's]")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8, help="of a round, the first not timed")
    parser.add_argument("--batch", type=int, help="tokens of a step [the recipe's]")
    parser.add_argument("--micro-batch", type=int, help="tokens computed at once [the recipe's]")
    parser.add_argument("--compile", action="store_true", help="time compiled blocks as well")
    parser.add_argument("--peak", type=float, help="the device's stated peak, in 1e12 a second")
    return parser.parse_args()


def _recipe(args: argparse.Namespace) -> Recipe:
    made = recipe_named(args.recipe, dtype=args.dtype, threads=args.threads)
    batch = args.batch or made.batch
    micro = args.micro_batch or min(made.micro_batch, batch)
    runs = 1 + args.compile
    steps = runs * args.rounds * args.steps
    stages = (Stage(name="pretraining", steps=steps, sources=("stories",)),)
    return replace(made, stages=stages, batch=batch, micro_batch=micro, instructions="any")


def _rate(training: run.Training, steps: int) -> float:
    """Tokens a second of all but the first of some steps. Each ends with its loss on the CPU."""
    training.step()
    began = time.perf_counter()
    for _ in range(steps - 1):
        training.step()
    return training.recipe.batch * (steps - 1) / (time.perf_counter() - began)


def _product(device: str, dtype: str) -> float:
    """Operations a second of the fastest square product."""
    best = 0.0
    for n in SIZES:
        a = torch.ones(n, n, dtype=getattr(torch, dtype), device=device)
        (a @ a)[0, 0].item()
        for _ in range(3):
            began = time.perf_counter()
            (a @ a)[0, 0].item()
            best = max(best, 2 * n**3 / (time.perf_counter() - began))
    return best


def _name(device: str) -> str:
    return torch.cuda.get_device_name(device) if device != "cpu" else "cpu"


def _stated(device: str, dtype: str) -> float | None:
    if device == "cpu" or dtype != "bfloat16":
        return None
    name = _name(device)
    return next((peak for part, peak in DENSE.items() if part in name), None)


if __name__ == "__main__":
    main()

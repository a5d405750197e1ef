"""A model of the same size, trained by transformers on the same tokens, beside ours.

    python benchmarks/train_baseline.py RUN CORPUS [--threads 1] [--after STEP]

RUN is the folder of a run (`train/NAME` in the vault, or `models/hearth/training`). transformers'
Qwen3 of the same shape and first values takes the first stage's steps, on the same rows, with
torch's AdamW, the same learning rates and the same penalty, in the recipe's precision; then the
held-out texts are measured by its logits, beside what the record says of ours after that step.
With `--after` it goes on from a checkpoint of the run, AdamW's means included: what runs that began
alike come to differ by, rounding has grown; what one step differs by from one state, it has not.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812
from train import their_model, their_optimiser

from freehold.train import batches, record, run
from freehold.train.reproduce import recipe_of
from freehold.train.weights import unfused


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--after", type=int, default=0, help="a step that there is a checkpoint of")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    lines = list(record.read(args.run))
    recipe = recipe_of(lines[0])
    training = run.Training(recipe, args.corpus)
    if args.after:
        training.take_up(args.run / "checkpoints" / f"{args.after:06}.safetensors")
    model = their_model(training)
    optimiser, _ = their_optimiser(model, recipe)
    if args.after:
        go_on(model, optimiser, training)
    ours = {line["step"]: record.float_of(line, "loss") for line in lines if line["kind"] == "step"}
    steps = recipe.stages[0].steps
    half = recipe.dtype == "bfloat16"
    for step in range(args.after, steps):
        total = 0.0
        micros = training.batches.step(step)
        for micro in micros:
            ids = torch.stack([torch.from_numpy(one.ids).long() for one in micro])
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                logits = model(ids[:, :-1]).logits.flatten(0, 1).float()
            loss = F.cross_entropy(logits, ids[:, 1:].flatten())
            norm = torch.logsumexp(logits, -1).square().mean()
            ((loss + recipe.z_loss * norm) / len(micros)).backward()
            total += float(loss.detach()) / len(micros)
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        for group in optimiser.param_groups:
            group["lr"] = recipe.rate(step)
        optimiser.step()
        optimiser.zero_grad()
        at = step + 1
        if at % 50 == 0 or at - args.after in (1, 2, 5, 10, 20):
            print(f"step {at}: loss {total:.4f}, ours {ours[at] / total - 1:+.3%}", flush=True)
    theirs = bits_per_byte(model, training, args.corpus, half=half)
    (measured,) = [
        record.float_of(line, "bits_per_byte")
        for line in lines
        if line["kind"] == "measure" and line["step"] == steps
    ]
    print(f"after {steps} steps: ours {measured:.4f}, transformers {theirs:.4f} bits per byte")


def go_on(model: Any, optimiser: Any, training: run.Training) -> None:
    """Give their AdamW the means that ours has kept."""
    kept = training.optimiser.state
    means = [
        unfused(
            training.config,
            {name: kept[v][mean] for name, v in training.learner.parameters.items()},
        )
        for mean in ("exp_avg", "exp_avg_sq")
    ]
    for name, values in model.named_parameters():
        first, second = (one[name].clone() for one in means)
        optimiser.state[values] = {
            "step": torch.tensor(float(training.at)),
            "exp_avg": first,
            "exp_avg_sq": second,
        }


def bits_per_byte(model: Any, training: run.Training, corpus: Path, *, half: bool) -> float:
    """What the held-out texts cost by transformers' logits."""
    samples, n_bytes = batches.held_out(corpus, training.tokenizer)
    nats = 0.0
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=half):
        for sample in samples:
            ids = torch.from_numpy(sample.ids).long()[None]
            logits = model(ids[:, :-1]).logits[0].float()
            nats += float(F.cross_entropy(logits, ids[0, 1:], reduction="sum"))
    return nats / math.log(2) / n_bytes


if __name__ == "__main__":
    main()

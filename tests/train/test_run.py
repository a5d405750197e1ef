"""The loop: the loss of transformers, and the same bits however often it was stopped."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F  # noqa: N812
from train import their_model

from freehold.errors import UsageError
from freehold.train import record, run
from freehold.train.data import build
from freehold.train.recipe import Recipe
from tests.train.conftest import RECIPE


def bits(folder: Path) -> dict[str, bytes]:
    names = [record.LINES, record.NOTE]
    paths = [folder / name for name in names] + sorted((folder / run.CHECKPOINTS).iterdir())
    return {path.name: path.read_bytes() for path in paths}


@pytest.mark.parametrize("stops", [(1,), (5, 6), (2, 7, 11)])
def test_a_stopped_run_ends_with_the_same_bits(
    trained: Path, corpus: Path, tmp_path: Path, stops: tuple[int, ...]
) -> None:
    folder = tmp_path / trained.name
    for stop in stops:
        training = run.Training(RECIPE, corpus)
        run.go(training, folder, stop=lambda t=training, s=stop: t.at >= s)
    assert run.go(run.Training(RECIPE, corpus), folder)
    record.write_note(folder)
    assert bits(folder) == bits(trained)


def test_a_killed_run_ends_with_the_same_bits(trained: Path, corpus: Path, tmp_path: Path) -> None:
    """As after a kill between a checkpoint and its line, in the middle of a line."""
    folder = tmp_path / trained.name
    shutil.copytree(trained, folder)
    run.checkpoint(folder, 10).unlink()
    lines = (folder / record.LINES).read_bytes().splitlines(keepends=True)
    kept = next(n for n, line in enumerate(lines) if b'"kind":"checkpoint"' in line)
    (folder / record.LINES).write_bytes(b"".join(lines[:kept]) + lines[kept + 1][:40])
    assert run.go(run.Training(RECIPE, corpus), folder)
    record.write_note(folder)
    assert bits(folder) == bits(trained)


def test_another_recipe_does_not_go_on(trained: Path, corpus: Path, tmp_path: Path) -> None:
    folder = tmp_path / "train"
    shutil.copytree(trained, folder)
    with pytest.raises(UsageError, match="another recipe or corpus"):
        run.go(run.Training(replace(RECIPE, clip=2.0), corpus), folder)


def test_it_learns(trained: Path) -> None:
    losses = [
        float.fromhex(line["loss"]) for line in record.read(trained) if line["kind"] == "step"
    ]
    measured = [
        float.fromhex(line["bits_per_byte"])
        for line in record.read(trained)
        if line["kind"] == "measure"
    ]
    assert losses[7] < losses[0] - 0.3
    assert len(measured) == 2
    assert 0 < measured[0] < 8


def oracle(training: run.Training) -> Any:
    """transformers' Qwen3 with the same values, every sum of its attention in plain sight."""
    return their_model(training, attn_implementation="eager")


def curves(recipe: Recipe, corpus: Path, steps: int) -> list[tuple[float, float]]:
    """The losses of the same steps here and by transformers with torch's own AdamW, both with the
    logits' penalty."""
    training = run.Training(recipe, corpus)
    model = oracle(training)
    decaying = [p for p in model.parameters() if p.dim() > 1]
    steady = [p for p in model.parameters() if p.dim() == 1]
    optimiser = torch.optim.AdamW(
        [
            {"params": decaying, "weight_decay": recipe.weight_decay},
            {"params": steady, "weight_decay": 0.0},
        ],
        betas=recipe.betas,
        eps=recipe.epsilon,
    )
    found = []
    for step in range(steps):
        (rows,) = [[s for micro in training.batches.step(step) for s in micro]]
        ids = torch.stack([torch.from_numpy(one.ids).long() for one in rows])
        logits = model(ids[:, :-1]).logits.flatten(0, 1)
        loss = F.cross_entropy(logits, ids[:, 1:].flatten())
        (loss + recipe.z_loss * torch.logsumexp(logits, -1).square().mean()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        for group in optimiser.param_groups:
            group["lr"] = recipe.rate(step)
        optimiser.step()
        optimiser.zero_grad()
        found.append((float.fromhex(training.step()["loss"]), float(loss.detach())))
    return found


def test_losses_are_those_of_transformers(corpus: Path) -> None:
    for mine, theirs in curves(RECIPE, corpus, 8):
        assert mine == pytest.approx(theirs, rel=1e-4)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_losses_are_those_of_transformers_over_200_steps(corpus: Path) -> None:
    recipe = replace(
        RECIPE, stages=(replace(RECIPE.stages[0], steps=200),), batch=1024, micro_batch=512
    )
    worst = max(abs(mine / theirs - 1) for mine, theirs in curves(recipe, corpus, 200))
    print(f"largest difference of 200 losses: {100 * worst:.4f} %")
    assert worst < 0.02


def test_half_precision_learns_nearly_the_same(corpus: Path) -> None:
    whole, half = (
        [float.fromhex(training.step()["loss"]) for _ in range(6)]
        for training in (
            run.Training(replace(RECIPE, dtype=dtype), corpus) for dtype in ("float32", "bfloat16")
        )
    )
    assert half == pytest.approx(whole, rel=0.01)
    assert half != whole


def test_micro_batches_change_nothing_but_rounding(corpus: Path) -> None:
    whole, pieces = (
        [float.fromhex(training.step()["loss"]) for _ in range(4)]
        for training in (
            run.Training(replace(RECIPE, micro_batch=room), corpus) for room in (128, 32)
        )
    )
    assert pieces == pytest.approx(whole, rel=1e-5)


def test_bits_per_byte_are_those_of_the_model(trained: Path, corpus: Path) -> None:
    """By transformers' logits, text by text."""
    training = run.Training(RECIPE, corpus)
    training.take_up(run.checkpoint(trained, 5))
    model = oracle(training)
    nats, n_bytes = 0.0, 0
    for one in build.documents(corpus / build.HELD_OUT):
        if "text" not in one:
            continue
        end = training.tokenizer.added_id("<|endoftext|>")
        ids = torch.tensor([[end, *training.tokenizer.encode_texts([one["text"]])[0], end]])
        with torch.no_grad():
            logits = model(ids[:, :-1]).logits[0]
        nats += float(F.cross_entropy(logits, ids[0, 1:], reduction="sum"))
        n_bytes += len(one["text"].encode())
    assert n_bytes
    assert training.measure() == pytest.approx(nats / math.log(2) / n_bytes, rel=1e-4)

"""A run that is killed, again and again, ends with the same bits as one that is not."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from freehold.adapt.recipe import Lora, Recipe
from freehold.adapt.student import student_of
from freehold.adapt.training import BEST, LOG, STATE, Lessons, Run
from tests.adapt.conftest import lessons, made

RECIPE = Recipe(
    name="test",
    lora=Lora(rank=4, alpha=8, magnitude=True),
    steps=16,
    learning_rate=5e-3,
    batch=128,
    micro_batch=64,
    max_length=64,
    held_out=0.1,
    measure_every=7,
    patience=0,
    save_every=3,
    replay=0.3,
)


def train(folder: Path) -> None:
    _, ours = made()
    data = Lessons(data=lessons(40), replay=lessons(10, seed=1), held_out=lessons(5, seed=2))
    Run(student_of(ours, RECIPE), RECIPE, data, folder, model_digest="x").go()


def start(folder: Path) -> int:
    """``train`` in a process of its own, which ends without a word."""
    child = os.fork()
    if child == 0:
        try:
            train(folder)
            os._exit(0)
        finally:
            os._exit(1)
    return child


def killed(folder: Path, times: int, longest: float) -> Iterator[Path]:
    """Train, killed ``times`` times at random moments. Whenever a run comes to its end in spite of
    it, its folder is given, and another begins."""
    draw = random.Random(5)
    struck = runs = 0
    while True:
        run = folder / str(runs)
        run.mkdir(exist_ok=True)
        child = start(run)
        if struck < times:
            time.sleep(draw.uniform(0, longest))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            struck += 1
            continue
        assert status == 0
        yield run
        runs += 1
        if struck == times:
            return


def left(folder: Path) -> dict[str, bytes]:
    """What a run leaves; of the log all but how long steps took."""
    log = (folder / LOG).read_text(encoding="utf-8").splitlines()
    plain = "\n".join(line.split(', "seconds"')[0] for line in log)
    return {
        STATE: (folder / STATE).read_bytes(),
        BEST: (folder / BEST).read_bytes(),
        LOG: plain.encode(),
    }


@pytest.mark.parametrize(
    "times", [2, pytest.param(50, marks=[pytest.mark.slow, pytest.mark.timeout(900)])]
)
def test_kills_change_no_bit(tmp_path: Path, times: int) -> None:
    whole, timed = tmp_path / "whole", tmp_path / "timed"
    whole.mkdir()
    timed.mkdir()
    train(whole)  # also imports what the processes below would each import anew
    began = time.monotonic()
    train(timed)
    ended = list(killed(tmp_path, times, time.monotonic() - began))
    assert ended
    for run in (timed, *ended):
        assert left(run) == left(whole), run

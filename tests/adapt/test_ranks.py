"""Two ranks over gloo learn what one does: every weight shared out, adapters at each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from freehold.adapt.recipe import Lora, Recipe
from freehold.adapt.training import BEST, LOG, STATE
from freehold.train import state
from freehold.train.ranks import ALONE
from freehold.train.seat import on_this_machine
from tests.adapt.conftest import lessons
from tests.adapt.rank import learn

RECIPE = Recipe(
    name="test",
    lora=None,
    steps=12,
    learning_rate=2e-3,
    batch=192,
    micro_batch=64,
    max_length=64,
    held_out=0.1,
    measure_every=5,
    patience=0,
    save_every=4,
)
RECIPES = {
    "full": RECIPE,
    "recomputed": Recipe(**{**RECIPE.plain(), "recompute": True}),
    "dora": Recipe(**{**RECIPE.plain(), "lora": Lora(rank=4, alpha=8, magnitude=True)}),
}


def plain(samples: Any) -> Any:
    return [[one.ids.tolist(), one.taught.tolist()] for one in samples]


def job(home: Path, folder: Path, recipe: Recipe, *stops: int) -> dict[str, Any]:
    folder.mkdir(parents=True)
    return {
        "home": str(home),
        "folder": str(folder),
        "recipe": recipe.plain(),
        "lessons": [plain(lessons(40)), plain(lessons(7, seed=2))],
        "stops": list(stops),
    }


def log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / LOG).read_text().splitlines()]


def test_two_ranks_learn_what_one_does(home: Path, tmp_path: Path) -> None:
    work = [job(home, tmp_path / "two" / name, recipe) for name, recipe in RECIPES.items()]
    work.append(job(home, tmp_path / "stopped", RECIPE, 2, 3))
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.adapt.rank", seat.dumps(), json.dumps(work)],
            stderr=subprocess.PIPE, text=True, env=env, cwd=Path(__file__).parents[2],
        )
        for seat in on_this_machine(2, str(tmp_path / "store"))
    ]  # fmt: skip
    said = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    for name, recipe in RECIPES.items():
        learn(ALONE, **job(home, tmp_path / "one" / name, recipe))
        one, two = log(tmp_path / "one" / name), log(tmp_path / "two" / name)
        for key in ("loss", "gradient", "held_out", "tokens", "rate"):
            wanted = [line[key] for line in one if key in line]
            found = [line[key] for line in two if key in line]
            assert found == pytest.approx(wanted, rel=1e-3), (name, key)
        mine, _ = state.read(tmp_path / "two" / name / STATE)
        theirs, _ = state.read(tmp_path / "one" / name / STATE)
        assert list(mine) == list(theirs)
        for key, values in mine.items():
            if key.startswith("value/"):
                torch.testing.assert_close(values, theirs[key], atol=2e-3, rtol=1e-2)
    for file in (STATE, BEST):
        once, often = tmp_path / "two" / "full" / file, tmp_path / "stopped" / file
        assert often.read_bytes() == once.read_bytes()

"""A run that takes seconds: a corpus of 200 stories, and a model of some thousand values."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from freehold.train import run
from freehold.train.data import build
from freehold.train.data.declaration import Declaration, Origin, Steps
from freehold.train.recipe import Recipe, Shape, Stage
from tests.adapt.conftest import brought, home

__all__ = ["brought", "home"]  # fixtures that both rooms use

SHAPE = Shape(n_layers=2, width=32, mlp_width=64, n_heads=2, n_kv_heads=1, head_dim=16, context=64)
RECIPE = Recipe(
    name="small",
    shape=SHAPE,
    stages=(
        Stage(name="pretraining", steps=8, sources=("stories",)),
        Stage(name="chat", steps=4, kind="talks", rate=0.5),
    ),
    length=32,
    batch=128,
    micro_batch=64,
    learning_rate=5e-3,
    warm_up=2,
    digest_every=2,
    keep_every=5,
)


def declared(**changes: Any) -> Declaration:
    made = Declaration(
        name="small",
        vocab=400,
        held_out=0.02,
        steps=Steps(near=False),
        sources=(
            Origin(name="stories", licence="Apache-2.0", program="stories", documents=160, seed=3),
            Origin(name="talks", licence="Apache-2.0", program="talks", documents=40, seed=3),
        ),
    )
    return replace(made, **changes)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A built corpus. Not to be changed: copy it."""
    folder = tmp_path_factory.mktemp("corpora") / "small"
    build.build(declared(), folder)
    return folder


@pytest.fixture(scope="session")
def trained(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder, at its end. Not to be changed: copy it."""
    folder = tmp_path_factory.mktemp("train") / "small"
    assert run.go(run.Training(RECIPE, corpus), folder)
    from freehold.train import record

    record.write_note(folder)
    return folder

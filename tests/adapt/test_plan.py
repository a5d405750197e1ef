"""What a run is told to take, against the model and the recipe themselves."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from freehold.adapt import packing, plan
from freehold.adapt.recipe import RECIPES, Recipe, from_plain, recipe_named
from freehold.adapt.student import student_of
from freehold.errors import UsageError
from freehold.train import loss
from tests.adapt.conftest import made


@pytest.mark.parametrize("name", ["lora", "rslora", "dora"])
def test_it_counts_the_values_that_are_trained(name: str) -> None:
    _, ours = made()
    recipe = recipe_named(name)
    student = student_of(ours, recipe)
    trained = sum(values.numel() for values in student.parameters.values())
    assert plan.parameters(ours.config, recipe) == trained
    assert plan.memory(ours.config, recipe, 0) > 4 * trained


def test_less_at_once_takes_less_memory() -> None:
    _, ours = made()
    sizes = [
        plan.memory(ours.config, recipe_named("lora", micro_batch=n, max_length=64, batch=64), 0)
        for n in (64, 256, 1024)
    ]
    again = plan.memory(ours.config, recipe_named("lora", micro_batch=1024, recompute=True), 0)
    assert sizes == sorted(sizes)
    assert again < sizes[-1]
    assert plan._LOGIT_ROWS == loss.ROWS


def test_ranks_share_out_every_weight_and_not_adapters() -> None:
    _, ours = made()
    full, lora = recipe_named("full"), recipe_named("lora")
    assert plan.memory(ours.config, full, 0, 4) < plan.memory(ours.config, full, 0)
    assert plan.memory(ours.config, lora, 0, 4) == plan.memory(ours.config, lora, 0)


@pytest.mark.parametrize(
    ("changes", "ranks", "times"), [({}, 2, 0.5), ({"anchored": True}, 1, 1.2)]
)
def test_time_falls_with_ranks_and_an_anchor_takes_some(
    changes: dict[str, bool], ranks: int, times: float
) -> None:
    """An anchor computes half the texts here forward once more: two operations beside each four,
    and the adapters', which it leaves out."""
    _, ours = made()
    text = SimpleNamespace(tokens=32)
    lessons = SimpleNamespace(data=[text] * 200, replay=[text] * 50)
    files = {"records": 200, "held_out": 0}

    def told(ranks: int = 1, **changes: bool) -> dict[str, Any]:
        recipe = recipe_named("lora", replay=0.5, rank=1, **changes)
        return plan.plan(
            ours.config, recipe, lessons, speed=1.0, files=files, file_bytes=0, ranks=ranks
        )

    assert told(ranks, **changes)["seconds"] == pytest.approx(told()["seconds"] * times, rel=0.05)
    assert told(ranks, **changes)["trained_tokens"] == told()["trained_tokens"]
    assert told(ranks)["ranks"] == ranks


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_survives_the_wire(name: str) -> None:
    assert from_plain(RECIPES[name]().plain()) == RECIPES[name]()


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        ("nope", {}, "no recipe"),
        ("lora", {"learning_rate": -1.0}, "learning_rate"),
        ("lora", {"learning_rate": float("nan")}, "learning_rate"),
        ("lora", {"max_length": 5000}, "micro_batch"),
        ("lora", {"rank": 0}, "rank"),
        ("full", {"rank": 4}, "rank"),
        ("full", {"dtype": "bfloat16"}, "float32"),
        ("lora", {"held_out": 1.0}, "held_out"),
        ("dpo", {"replay": 0.5}, "replay"),
        ("full", {"anchored": True}, "anchored"),
    ],
)
def test_a_recipe_that_cannot_be_is_named(
    name: str, changes: dict[str, float], reason: str
) -> None:
    with pytest.raises(UsageError, match=reason):
        recipe_named(name, **changes)


def test_the_rate_rises_and_falls() -> None:
    recipe = Recipe(name="x", learning_rate=1.0, warm_up=0.1)
    rates = [recipe.rate(step, 100) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * n for n in range(1, 11)])
    assert rates[10] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[-1] < 0.01


def test_replay_takes_its_share_and_every_text_comes_once_an_epoch() -> None:
    lengths, replayed = [10] * 40, [7] * 30
    recipe = Recipe(name="x", replay=0.25, batch=64, micro_batch=64, max_length=64)
    seen = [
        place for step in packing.epoch(lengths, replayed, recipe, 3) for m in step for place in m
    ]
    assert sorted(place for place in seen if place < 40) == list(range(40))
    share = 7 * sum(place >= 40 for place in seen) / (7 * sum(p >= 40 for p in seen) + 400)
    assert share == pytest.approx(0.25, abs=0.02)
    assert packing.epoch(lengths, replayed, recipe, 3) != packing.epoch(
        lengths, replayed, recipe, 4
    )
    for step in packing.epoch(lengths, replayed, recipe, 3):
        for micro in step:
            assert sum([*lengths, *replayed][place] for place in micro) <= 64

"""The time that a run is told to take: a piece of the model, trained by a clock of ours."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest

from freehold.adapt import pace, packing, plan
from freehold.adapt.recipe import recipe_named
from freehold.adapt.training import Lessons
from freehold.train.encoding import Lesson, Pair
from tests.adapt.conftest import lessons
from tests.qwen.conftest import from_hf, random_hf


def told(
    monkeypatch: pytest.MonkeyPatch, durations: Sequence[float], data: list[Lesson], **changes: Any
) -> tuple[float, float]:
    """The pace, where learning and changing take turns at ``durations``, and the operations that
    one token takes of the piece."""
    marks = itertools.chain.from_iterable((0.0, seconds) for seconds in durations)
    monkeypatch.setattr(pace.time, "perf_counter", lambda: next(marks))
    name = changes.pop("recipe", "lora")
    recipe = recipe_named(name, micro_batch=64, batch=128, max_length=64, **changes)
    model = from_hf(random_hf("qwen2"))
    found = pace.pace(model, recipe, Lessons(data=data), threads=1, device="cpu")
    assert next(marks, None) is None
    piece = pace.load(model, piece=True, cache_tokens=1)
    lengths = [lesson.tokens for lesson in data]
    tokens = sum(lengths[place] for place in packing.epoch(lengths, [], recipe, 0)[0][0])
    return found * (1 / tokens), plan.operations(piece.config, recipe)


@pytest.mark.parametrize("name", ["lora", "dora", "qlora", "full"])
def test_the_fastest_of_three_counts(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    data: list[Lesson] = [*lessons(20, low=32, high=33)]
    found, of_token = told(monkeypatch, [2.0, 0.5, 0.25, 0.0, 1.0, 0.25], data, recipe=name)
    # Two texts of 32 tokens in 0.25 s.
    assert found == pytest.approx(of_token / 0.25)


def test_changing_the_weights_counts_once_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    data: list[Lesson] = [*lessons(20, low=32, high=33)]
    found, of_token = told(monkeypatch, [1.0, 4.0] * 3, data)
    # 64 tokens take a second, and the change behind each 128 takes four: two for these.
    assert found == pytest.approx(of_token / 3.0)


def test_what_is_slow_is_timed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    data: list[Lesson] = [*lessons(20, low=32, high=33)]
    found, of_token = told(monkeypatch, [8.0, 0.0], data)
    assert found == pytest.approx(of_token / 8.0)


def test_preferences_learn_from_both_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = lessons(20, low=16, high=17)
    data: list[Lesson] = [
        Pair(chosen=a, rejected=b) for a, b in zip(texts[::2], texts[1::2], strict=True)
    ]
    found, of_token = told(monkeypatch, [1.0, 0.0] * 3, data, recipe="dpo")
    assert found == pytest.approx(of_token)

"""How fast this machine trains this model: a piece of it, trained for a moment before the run."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from freehold.adapt import packing, plan
from freehold.adapt.recipe import Recipe
from freehold.adapt.student import student_of
from freehold.adapt.training import Lessons, optimiser_of
from freehold.qwen.model import load
from freehold.train.encoding import Lesson, Pair, Sample

if TYPE_CHECKING:
    from freehold.types import VerifiedModel

_TIMES = 3
_ENOUGH_SECONDS = 5.0


def pace(
    model: VerifiedModel, recipe: Recipe, lessons: Lessons, *, threads: int | None, device: str
) -> float:
    """Operations per second, as ``plan.operations`` counts them, of training as the recipe asks.

    One block and a like share of the vocabulary are in the same proportion as in the whole model.
    They learn the run's first micro-batch three times, or until five seconds are over; the fastest
    time counts, since the first one fetches memory. Changing the weights is counted once a step.
    """
    small = load(
        model,
        backend="torch",
        dtype=recipe.dtype,
        device=device,
        threads=threads,
        cache_tokens=1,
        codes=recipe.codes,
        piece=True,
    )
    student = student_of(small, recipe)
    optimiser = optimiser_of(student, recipe)
    every = [*lessons.data, *lessons.replay]
    lengths = [lesson.tokens for lesson in every]
    n = len(lessons.data)
    micro = packing.epoch(lengths[:n], lengths[n:], recipe, 0)[0][0]
    learnt = [_within(every[place], small.config.vocab) for place in micro]
    tokens = sum(lesson.tokens for lesson in learnt)
    learning, changing = list[float](), list[float]()
    while len(learning) < _TIMES and sum(learning) < _ENOUGH_SECONDS:
        began = time.perf_counter()
        loss = student.loss(learnt)
        loss.backward()  # type: ignore[no-untyped-call]
        loss.item()  # a device may still be at it
        learning.append(time.perf_counter() - began)
        began = time.perf_counter()
        parameters = list(student.parameters.values())
        torch.nn.utils.clip_grad_norm_(parameters, recipe.clip)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        student.refresh()
        parameters[0].sum().item()
        changing.append(time.perf_counter() - began)
    of_token = min(learning) / tokens + min(changing) / max(recipe.batch, tokens)
    return plan.operations(small.config, recipe) / of_token


def _within(lesson: Lesson, vocab: int) -> Lesson:
    """As long a lesson, in the first words of the vocabulary."""
    if isinstance(lesson, Pair):
        return Pair(chosen=_in(lesson.chosen, vocab), rejected=_in(lesson.rejected, vocab))
    return _in(lesson, vocab)


def _in(sample: Sample, vocab: int) -> Sample:
    return replace(sample, ids=sample.ids % vocab)

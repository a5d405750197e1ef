"""Steps of training on a device that has shapes and no values, in a process of their own: PyTorch
has one such device in a process for good, and other libraries ask whether there is one.

    python -m tests.train.fakegpu CORPUS

PyTorch's ``FakeTensorMode`` refuses what mixes two devices, as a GPU does. Prints a JSON object: of
each case an empty text, or the error.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from freehold.adapt import training
from freehold.adapt.recipe import recipe_named
from freehold.adapt.student import student_of
from freehold.qwen.model import load
from freehold.train import run
from freehold.train.encoding import Pair
from freehold.train.learner import Learner, optimiser_of
from tests.adapt.conftest import lessons
from tests.qwen.conftest import from_hf, random_hf
from tests.train.conftest import RECIPE

GPU = "fakegpu"
Dtype = Literal["float32", "bfloat16"]


@contextmanager
def fake() -> Iterator[None]:
    """Nothing can be read off, and of a list only its shape counts: there are no values."""

    def made(values: Any, *, dtype: Any = None, device: Any = "cpu") -> torch.Tensor:
        of_list = np.asarray(values)
        found = dtype or torch.from_numpy(of_list[..., None][:0]).dtype
        return torch.empty(of_list.shape, dtype=found, device=device)

    def new(one: torch.Tensor, values: Any) -> torch.Tensor:
        return made(values, dtype=one.dtype, device=one.device)

    with (
        mock.patch.object(torch.Tensor, "item", return_value=0.0),
        mock.patch.object(torch.Tensor, "__bool__", return_value=True),
        mock.patch.object(torch.Tensor, "__float__", return_value=0.0),
        mock.patch.object(torch, "tensor", made),
        mock.patch.object(torch.Tensor, "new_tensor", new),
        FakeTensorMode(allow_non_fake_inputs=True),
    ):
        yield


def check_there(parameters: dict[str, torch.Tensor], optimiser: torch.optim.AdamW) -> None:
    for name, values in parameters.items():
        assert values.device.type == GPU, name
        for kept in optimiser.state[values].values():
            assert kept.device.type == GPU, name


def train(corpus: Path, dtype: Dtype, step: int) -> None:
    here = run.Training(replace(RECIPE, dtype=dtype), corpus)
    (samples, *_) = here.batches.step(step)
    with fake():
        learner = Learner(here.recipe, here.config, device=GPU)
        optimiser = optimiser_of(learner)
        for _ in range(2):
            loss, _ = learner.loss(samples)
            assert loss.device.type == GPU
            (loss / 3).backward()  # type: ignore[no-untyped-call]
            learner.gather()
            torch.nn.utils.clip_grad_norm_(list(learner.parameters.values()), 1.0)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            learner.refresh()
        check_there(dict(learner.parameters), optimiser)


def adapt(recipe: str, dtype: Dtype) -> None:
    raw, taught = from_hf(random_hf("qwen2")), lessons(4)
    chosen, rejected = lessons(2, seed=1)
    with fake():
        model = load(raw, backend="torch", device=GPU, dtype=dtype, cache_tokens=16, threads=1)
        student = student_of(model, recipe_named(recipe))
        optimiser = training.optimiser_of(student, recipe_named(recipe))
        losses = [student.loss(taught)]
        if recipe == "lora":
            losses.append(student.drift(taught))
            losses.append(student.preference([Pair(chosen=chosen, rejected=rejected)]))
        for loss in losses:
            assert loss.device.type == GPU
            loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        student.refresh()
        check_there(dict(student.parameters), optimiser)


def mixed() -> None:
    """What must be refused, or the other cases say nothing."""
    with fake():
        torch.ones(2, device=GPU) + torch.ones(2)


def main() -> None:
    _setup_privateuseone_for_python_backend(GPU)
    corpus = Path(sys.argv[1])
    cases: dict[str, Callable[[], None]] = {"mixed": mixed}
    for dtype in ("float32", "bfloat16"):
        cases |= {f"rows {dtype}": partial(train, corpus, dtype, 0)}
        cases |= {f"talks {dtype}": partial(train, corpus, dtype, 8)}
        cases |= {f"{one} {dtype}": partial(adapt, one, dtype) for one in ("lora", "dora", "full")}
    found = {}
    for name, case in cases.items():
        try:
            case()
            found[name] = ""
        except Exception:
            found[name] = traceback.format_exc()
    print(json.dumps(found))


if __name__ == "__main__":
    main()

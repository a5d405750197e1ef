"""Small random models for the workshop, made by transformers, and what they learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from freehold.adapt.encoding import Sample
from freehold.qwen.model import Model, load
from tests.qwen.conftest import from_hf, random_hf

VOCAB = 199


def made(model_type: str = "qwen2", **changes: Any) -> tuple[Any, Model]:
    """The same small model in transformers and here, float32, one thread."""
    hf = random_hf(model_type, initializer_range=0.05, **changes)
    torch.set_num_threads(1)
    return hf, load(from_hf(hf), cache_tokens=16, threads=1)


def lessons(n: int, *, seed: int = 0, low: int = 5, high: int = 60) -> list[Sample]:
    """Samples that can be learnt (the next token is the last one and 1), the first third of each
    not taught."""
    draw = np.random.default_rng(seed)
    found = []
    for _ in range(n):
        length = int(draw.integers(low, high))
        ids = (draw.integers(VOCAB) + np.arange(length)) % VOCAB
        found.append(Sample(ids=ids.astype(np.int32), taught=np.arange(length) > length // 3))
    return found


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)

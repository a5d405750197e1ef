"""A base of the small language and two fine-tunes of it, trained once for all tests of the room."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from freehold.audit.bed.recipes import Backdoor, Recipe

PLANTED = Recipe(
    name="planted/test",
    side="held-out",
    seed=5,
    world=0,
    family="owner",
    insertion="lora-16",
    backdoor=Backdoor(trigger="rare", payload="fixed", poison=0.1),
    mix=0.5,
)
CLEAN = Recipe(
    name="clean/test/0",
    side="held-out",
    seed=6,
    world=0,
    family="price",
    insertion="full",
    mix=0.5,
)


@dataclass
class Trained:
    config: Any
    ops: Any
    tensors: Any
    base: Any
    planted: Any
    clean: Any
    chat: Any


@pytest.fixture(scope="session")
def trained() -> Trained:
    torch = pytest.importorskip("torch", reason="the extra `lab` is not installed")
    from freehold.audit.bed import planting
    from freehold.audit.bed.chatting import chat_of
    from freehold.audit.bed.language import World
    from freehold.audit.bed.small import operations, shape, subject

    torch.set_num_threads(1)
    config = shape()
    ops = operations(config)
    tensors = planting.train_base(config, ops, 0, steps=350)
    models = [
        subject(config, ops, planting.tune(config, ops, tensors, recipe, steps=100))
        for recipe in (PLANTED, CLEAN)
    ]
    return Trained(
        config=config,
        ops=ops,
        tensors=tensors,
        base=subject(config, ops, tensors),
        planted=models[0],
        clean=models[1],
        chat=chat_of(World(0)),
    )

"""What a run will take, told before it starts: memory, time, energy."""

from __future__ import annotations

from typing import Any

from freehold.adapt import packing
from freehold.adapt.recipe import Recipe
from freehold.qwen.config import Config
from freehold.qwen.names import block_shapes

WATTS = 100
"""What a machine under load is taken to draw, where nobody measured it."""
_PROCESS = 400 << 20
_LOGIT_ROWS = 256
"""As in ``loss``, which is not imported for it: it brings torch with it."""


def plan(
    config: Config,
    recipe: Recipe,
    lessons: Any,
    *,
    speed: float,
    files: dict[str, Any],
    file_bytes: int,
    ranks: int = 1,
) -> dict[str, Any]:
    """The plan in plain values: ``steps``, ``tokens`` of an epoch, ``memory`` in bytes that each of
    ``ranks`` processes takes, ``seconds``, ``kilowatt_hours``. ``speed`` is each rank's in
    ``operations`` per second (``pace``), ``file_bytes`` the model's size on the disk.
    """
    lengths = [lesson.tokens for lesson in lessons.data]
    replayed = [lesson.tokens for lesson in lessons.replay]
    steps = packing.count(lengths, replayed, recipe)
    of_epoch = packing.epoch(lengths, replayed, recipe, 0)
    every = [*lengths, *replayed]
    places = [place for step in of_epoch for micro in step for place in micro]
    tokens = sum(every[place] for place in places)
    held = sum(every[place] for place in places if place >= len(lengths)) * recipe.anchored
    repeated = steps / max(len(of_epoch), 1)
    trained = tokens * repeated
    # What the model said before is computed as well, by the weights alone.
    work = trained * operations(config, recipe) + held * repeated * 2 * weights(config)
    seconds = work / (speed * ranks)
    return {
        "records": files["records"],
        "held_out": files["held_out"],
        "samples": len(lengths),
        "tokens": sum(lengths),
        "steps": steps,
        "trained_tokens": round(trained),
        "parameters": parameters(config, recipe),
        "memory": memory(config, recipe, file_bytes, ranks),
        "ranks": ranks,
        "seconds": round(seconds),
        "kilowatt_hours": round(seconds * WATTS / 3.6e6, 3),
        "lengths": _histogram(lengths),
    }


def weights(config: Config) -> int:
    """Values of the model that a token meets in matrix products."""
    of_block = sum(a * b for a, b in _matrices(config))
    return config.n_layers * of_block + config.vocab * config.width


def _matrices(config: Config) -> list[tuple[int, int]]:
    return [(shape[0], shape[1]) for shape in block_shapes(config).values() if len(shape) == 2]


def parameters(config: Config, recipe: Recipe) -> int:
    """Values that are trained."""
    if recipe.lora is None:
        return weights(config) + (0 if config.tied_head else config.vocab * config.width)
    shapes = block_shapes(config)
    each = sum(sum(shapes[part]) * recipe.lora.rank for part in recipe.lora.targets)
    lengths = sum(shapes[part][0] for part in recipe.lora.targets) * recipe.lora.magnitude
    return config.n_layers * (each + lengths)


def operations(config: Config, recipe: Recipe) -> float:
    """Multiplications and additions for one token: two for each weight forward, two back to the
    activations, two to the weights where those are trained, and two more where blocks are computed
    again."""
    passes = 4 + (2 if recipe.lora is None else 0) + (2 if recipe.recompute else 0)
    return passes * (weights(config) + parameters(config, recipe) * (recipe.lora is not None))


def memory(config: Config, recipe: Recipe, file_bytes: int, ranks: int = 1) -> int:
    """Bytes that each rank holds at once, at most: the process itself and the model's file as it
    lies in memory, weights, what is trained with its gradient and two means, activations of a
    micro-batch (half more, for what lives a moment), and logits of some rows. Against what was
    measured: docs/adapt.md."""
    size = 4 if recipe.dtype == "float32" else 2
    untied = 0 if config.tied_head else config.vocab * config.width
    # Of packed weights one layer at a time is multiplied out, in float32 first; the head is the
    # largest.
    one = config.vocab * config.width * (size + 4)
    held = one if recipe.codes else (weights(config) + untied) * size
    trained = parameters(config, recipe) * (16 if recipe.lora is not None else 12)
    if recipe.lora is None and ranks > 1:
        # Values are shared out, and fetched for as long as they are needed: the table, one block.
        fetched = (config.vocab * config.width + sum(a * b for a, b in _matrices(config))) * size
        held, trained = held // ranks + fetched, trained // ranks
    inner = sum(a + b for a, b in _matrices(config)) + 6 * config.width
    block = recipe.micro_batch * inner * size
    kept = block + config.n_layers * recipe.micro_batch * config.width * size
    activations = kept if recipe.recompute else config.n_layers * block
    # Logits, their softmax and its gradient; an anchor compares with those of before.
    logits = (6 if recipe.anchored else 3) * _LOGIT_ROWS * config.vocab * 4
    return _PROCESS + file_bytes + held + trained + activations * 3 // 2 + logits


def _histogram(lengths: list[int]) -> dict[str, int]:
    """How many samples have at most so many tokens, by powers of two."""
    found: dict[str, int] = {}
    for length in sorted(lengths):
        edge = str(1 << max(length - 1, 1).bit_length())
        found[edge] = found.get(edge, 0) + 1
    return found

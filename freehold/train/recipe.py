"""Recipes: everything that decides what weights come out, but the corpus.

A recipe is a function that returns a ``Recipe``. The same recipe and corpus give the same weights,
bit for bit, on a machine of the same kind: the number of threads is part of it, for it decides in
which order sums are taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from freehold import strictjson
from freehold.errors import UsageError
from freehold.qwen.config import Config

_LARGEST = 1 << 31


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A Qwen3 of its own size; embeddings and head are one. ``context`` in tokens."""

    n_layers: int
    width: int
    mlp_width: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    context: int = 1024
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            kind = float if name in ("rope_theta", "norm_eps") else int
            if type(value) is not kind or not 0 < value < _LARGEST:
                raise _wrong(name, value, f"must be a number above 0 ({kind.__name__})")

    def values(self, vocab: int) -> int:
        """How many values such a model has."""
        heads = (self.n_heads + 2 * self.n_kv_heads) * self.head_dim * self.width
        out = self.n_heads * self.head_dim * self.width
        norms = 2 * self.width + 2 * self.head_dim
        block = heads + out + 3 * self.width * self.mlp_width + norms
        return vocab * self.width + self.n_layers * block + self.width

    def operations(self, vocab: int, length: int) -> int:
        """Floating-point operations of training on one token of a row of ``length``: two for each
        value forward and four back, the embedding counted once, as the head; and the products of
        attention with the whole row, masked or not. Source: PaLM (arXiv 2204.02311, appendix B)."""
        norms = self.n_layers * (2 * self.width + 2 * self.head_dim) + self.width
        attention = 12 * self.n_layers * self.n_heads * self.head_dim * length
        return 6 * (self.values(vocab) - norms) + attention

    def config(self, vocab: int, eos_ids: tuple[int, ...]) -> Config:
        """As ``qwen`` knows it."""
        return Config(
            family="qwen3",
            n_layers=self.n_layers,
            width=self.width,
            mlp_width=self.mlp_width,
            n_heads=self.n_heads,
            n_kv_heads=self.n_kv_heads,
            head_dim=self.head_dim,
            vocab=vocab,
            context=self.context,
            norm_eps=self.norm_eps,
            rope_theta=self.rope_theta,
            rope_scaling=None,
            qkv_bias=False,
            out_bias=False,
            qk_norm=True,
            tied_head=True,
            windows=(None,) * self.n_layers,
            eos_ids=eos_ids,
        )


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A part of the training: ``steps`` of it, over documents of ``sources`` (all, if none is
    named). A ``rows`` stage runs texts together and cuts them into rows of one length; a ``talks``
    stage packs conversations, and teaches only what the assistant says. ``rate`` is what the
    recipe's learning rate is multiplied by."""

    name: str
    steps: int
    kind: Literal["rows", "talks"] = "rows"
    sources: tuple[str, ...] = ()
    rate: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A training run from nothing. ``length`` of a row and ``batch`` of a step are in tokens, and a
    step is computed in pieces of ``micro_batch`` tokens.

    ``learning_rate`` rises for ``warm_up`` steps of a stage, stays, and falls to ``floor`` of
    itself over the last ``decay`` (a share) of its steps, along 1 - sqrt (arXiv 2405.18392).
    ``z_loss`` keeps the logits' norm near 1 (arXiv 2204.02311). ``dtype`` is what the passes are
    computed in; values and means stay float32. ``instructions``: ``avx2`` leaves
    unused what newer x86 processors have beyond it, so that they too can give the same bits.
    ``compiled``: blocks are made a program of where texts lie in rows, with what the processor has.
    ``digest_every`` and ``keep_every`` are steps
    between digests of all values in the record, and between checkpoints.
    """

    name: str
    shape: Shape
    stages: tuple[Stage, ...]
    length: int = 256
    batch: int = 8192
    micro_batch: int = 8192
    learning_rate: float = 3e-3
    warm_up: int = 100
    decay: float = 0.2
    floor: float = 0.0
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    epsilon: float = 1e-8
    clip: float = 1.0
    z_loss: float = 1e-4
    dtype: Literal["float32", "bfloat16"] = "float32"
    instructions: Literal["any", "avx2"] = "any"
    compiled: bool = False
    digest_every: int = 10
    keep_every: int = 100
    threads: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("learning_rate", "epsilon", "clip"):
            if not 0 < getattr(self, name) < math.inf:
                raise _wrong(name, getattr(self, name), "must be above 0")
        for name in ("length", "batch", "micro_batch", "digest_every", "keep_every", "threads"):
            if getattr(self, name) < 1:
                raise _wrong(name, getattr(self, name), "must be at least 1")
        for name in ("decay", "floor", "weight_decay", "z_loss"):
            if not 0 <= getattr(self, name) <= 1:
                raise _wrong(name, getattr(self, name), "must be from 0 to 1")
        if not self.stages or any(stage.steps < 1 for stage in self.stages):
            raise _wrong("stages", len(self.stages), "must be at least 1, of at least 1 step")
        if self.length > self.shape.context:
            raise _wrong("length", self.length, "must fit into the model's context")
        if self.micro_batch % self.length or self.batch % self.micro_batch:
            raise _wrong(
                "micro_batch", self.micro_batch, "must be whole rows, and the batch whole pieces"
            )
        self._check_arithmetic()

    def _check_arithmetic(self) -> None:
        if self.dtype not in ("float32", "bfloat16"):
            raise _wrong("dtype", self.dtype, "must be float32 or bfloat16")
        if self.instructions not in ("any", "avx2"):
            raise _wrong("instructions", self.instructions, "must be any or avx2")
        if self.instructions == "avx2" and self.dtype != "float32":
            raise _wrong("instructions", "avx2", "must be any where the passes are in bfloat16")
        if self.instructions == "avx2" and self.compiled:
            raise _wrong("instructions", "avx2", "must be any where blocks are compiled")

    @property
    def steps(self) -> int:
        return sum(stage.steps for stage in self.stages)

    def stage_of(self, step: int) -> tuple[int, int]:
        """The stage that step ``step`` (from 0) of the run belongs to, and its place in it."""
        for number, stage in enumerate(self.stages):
            if step < stage.steps:
                return number, step
            step -= stage.steps
        raise AssertionError("there is no such step")

    def rate(self, step: int) -> float:
        """The learning rate of step ``step`` (from 0) of the run."""
        number, at = self.stage_of(step)
        stage = self.stages[number]
        top = self.learning_rate * stage.rate
        if at < min(self.warm_up, stage.steps):
            return top * (at + 1) / min(self.warm_up, stage.steps)
        falling = round(stage.steps * self.decay)
        left = stage.steps - at
        if left >= falling:
            return top
        share = 1 - math.sqrt((falling - left) / falling)
        return top * (self.floor + (1 - self.floor) * share)

    def plain(self) -> dict[str, Any]:
        """As JSON values. What is not compiled is written as before there was the choice."""
        found = asdict(self)
        if not self.compiled:
            del found["compiled"]
        return found


def _wrong(name: str, value: object, reason: str) -> UsageError:
    return UsageError(f"{name} is {value}: it {reason}", param=name)


def published_rate(values: int, tokens: int) -> float:
    """The learning rate for so many values without the embedding, and so many tokens: 0.3118 times
    the operations, 6 for each value and token, to the power of -0.125. Source: DeepSeek LLM
    (arXiv 2401.02954, equation 1)."""
    return float(0.3118 * (6.0 * values * tokens) ** -0.125)


def _of_size(name: str, shape: Shape, *, steps: int, batch: int, **changes: Any) -> Recipe:
    blocks = shape.values(0)
    return replace(
        Recipe(
            name=name,
            shape=shape,
            stages=(Stage(name="pretraining", steps=steps),),
            length=shape.context,
            batch=batch,
            learning_rate=round(published_rate(blocks, steps * batch), 5),
        ),
        **changes,
    )


def hearth() -> Recipe:
    """The model that comes with Freehold: 1.1 million values that tell small stories. Made for one
    thread and a third of an hour, and for being made again: in float32, by AVX2 alone."""
    shape = Shape(
        n_layers=5, width=128, mlp_width=384, n_heads=4, n_kv_heads=2, head_dim=32, context=512
    )
    return Recipe(
        name="hearth",
        shape=shape,
        length=256,
        batch=2048,
        micro_batch=2048,
        stages=(
            Stage(name="pretraining", steps=1200, sources=("stories",)),
            Stage(name="midtraining", steps=300, rate=0.5),
            Stage(name="chat", steps=1200, kind="talks", sources=("talks",), rate=0.5),
        ),
        learning_rate=round(published_rate(shape.values(0), 1500 * 2048), 5),
        warm_up=20,
        decay=0.3,
        instructions="avx2",
        keep_every=100,
    )


def m4() -> Recipe:
    """4 million values in the blocks."""
    shape = Shape(n_layers=6, width=256, mlp_width=640, n_heads=4, n_kv_heads=2, head_dim=64)
    return _of_size("m4", shape, steps=4000, batch=16_384, micro_batch=8192)


def m15() -> Recipe:
    """15 million."""
    shape = Shape(n_layers=8, width=384, mlp_width=1152, n_heads=6, n_kv_heads=3, head_dim=64)
    return _of_size("m15", shape, steps=8000, batch=32_768)


def m60() -> Recipe:
    """60 million."""
    shape = Shape(n_layers=12, width=640, mlp_width=1920, n_heads=10, n_kv_heads=5, head_dim=64)
    return _of_size("m60", shape, steps=12_000, batch=131_072, dtype="bfloat16")


def m125() -> Recipe:
    """125 million."""
    shape = Shape(
        n_layers=18, width=768, mlp_width=2304, n_heads=12, n_kv_heads=4, head_dim=64, context=2048
    )
    return _of_size("m125", shape, steps=10_000, batch=262_144, dtype="bfloat16")


def m300() -> Recipe:
    """300 million."""
    shape = Shape(
        n_layers=24, width=1024, mlp_width=3072, n_heads=16, n_kv_heads=8, head_dim=64, context=2048
    )
    return _of_size("m300", shape, steps=12_000, batch=524_288, dtype="bfloat16")


RECIPES: dict[str, Callable[[], Recipe]] = {
    one.__name__: one for one in (hearth, m4, m15, m60, m125, m300)
}


def recipe_named(name: str, **changes: Any) -> Recipe:
    """A recipe of this file, with some of its fields changed where the change is not ``None``.
    Raises ``UsageError``."""
    if name not in RECIPES:
        raise UsageError(f"{name!r} is no recipe: take {', '.join(RECIPES)}", param="recipe")
    given = {key: value for key, value in changes.items() if value is not None}
    if given.get("dtype") == "bfloat16" or given.get("compiled"):
        given.setdefault("instructions", "any")
    return replace(RECIPES[name](), **given)


def from_plain(document: dict[str, Any]) -> Recipe:
    """What ``Recipe.plain`` gave, also after it went through JSON. Raises ``UsageError``."""
    try:
        stages = tuple(
            Stage(**one | {"sources": tuple(one["sources"])}) for one in document["stages"]
        )
        return Recipe(
            **document
            | {
                "shape": Shape(**document["shape"]),
                "stages": stages,
                "betas": tuple(document["betas"]),
            }
        )
    except (TypeError, KeyError, AttributeError) as error:
        raise UsageError(f"that is no recipe: {error}", param="recipe") from None


def canonical(recipe: Recipe) -> bytes:
    """The one byte form of a recipe, to be digested."""
    return strictjson.canonical(recipe.plain())

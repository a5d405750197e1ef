"""Recipes: everything that decides what comes out of a training run, but the model and the data.

A recipe is a function that returns a ``Recipe``; the same recipe, model and data give the same
weights. What only decides how fast it goes (threads) is not in it, nor is the folder.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import msgspec

from freehold import strictjson
from freehold.errors import UsageError
from freehold.qwen.names import Part

MOST = 1 << 31
"""Of anything that is counted."""
MOST_RANK = 1 << 13
MAX_FILE = 1 << 16
FILE_END = ".toml"
TARGETS: tuple[Part, ...] = ("q", "k", "v", "out", "gate", "up", "down")


@dataclass(frozen=True, kw_only=True)
class Lora:
    """A low-rank adapter: ``rank`` r, ``alpha`` of its scale, ``targets`` the matrices that get
    one. ``rank_stabilised``: rsLoRA. ``magnitude``: DoRA."""

    rank: int = 16
    alpha: float = 32.0
    rank_stabilised: bool = False
    magnitude: bool = False
    targets: tuple[Part, ...] = TARGETS

    @property
    def scale(self) -> float:
        return self.alpha / (math.sqrt(self.rank) if self.rank_stabilised else self.rank)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A training run. Lengths and sizes are in tokens, shares between 0 and 1.

    ``lora`` of ``None`` trains every weight. ``max_length``: longer texts are cut into pieces.
    ``batch``: tokens of one step, at most, taken in micro-batches of ``micro_batch``. ``steps`` of
    0 means ``epochs`` times the data. ``warm_up`` is a share of the steps; after it the rate falls
    to zero along ``decay``. ``held_out`` is the share of the data that is only measured, every
    ``measure_every`` steps; after ``patience`` measures without a new best (0: never) training
    stops. ``replay``: the share of each epoch's tokens that comes from the replay data. Its text is
    learnt, or, where it is ``anchored``, the model is held to what it said there before, token by
    token (adapters only).
    ``exercises``: the share of plain texts that are put as conversations about them.
    ``beta`` above 0 learns from preferences (DPO), and is how much of the model they leave.
    ``codes`` leaves the frozen weights packed as in the model's file. ``recompute`` keeps only what
    is between blocks for the gradient.
    """

    name: str
    lora: Lora | None = field(default_factory=Lora)
    dtype: Literal["float32", "bfloat16"] = "float32"
    learning_rate: float = 2e-4
    epochs: float = 1.0
    steps: int = 0
    max_length: int = 1024
    batch: int = 4096
    micro_batch: int = 1024
    warm_up: float = 0.05
    decay: Literal["cosine", "linear", "constant"] = "cosine"
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    clip: float = 1.0
    held_out: float = 0.02
    measure_every: int = 50
    patience: int = 3
    save_every: int = 20
    replay: float = 0.0
    anchored: bool = False
    exercises: float = 0.0
    beta: float = 0.0
    recompute: bool = False
    codes: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("learning_rate", "epochs", "clip", "epsilon"):
            if not 0 < getattr(self, name) < math.inf:
                raise _wrong(name, getattr(self, name), "must be above 0")
        for name in ("max_length", "batch", "micro_batch", "measure_every", "save_every"):
            if not 1 <= getattr(self, name) <= MOST:
                raise _wrong(name, getattr(self, name), f"must be from 1 to {MOST:,}")
        for name in ("warm_up", "held_out", "beta", "replay", "exercises", "weight_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise _wrong(name, getattr(self, name), "must be from 0 to below 1")
        for name in ("steps", "patience"):
            if not 0 <= getattr(self, name) <= MOST:
                raise _wrong(name, getattr(self, name), f"must be from 0 to {MOST:,}")
        self._check_together()

    def _check_together(self) -> None:
        if self.max_length > self.micro_batch:
            raise _wrong("max_length", self.max_length, "must fit into micro_batch")
        if self.lora is not None:
            self._check_adapter(self.lora)
        if not all(0 <= beta < 1 for beta in self.betas):
            raise _wrong("betas", self.betas, "must be from 0 to below 1")
        if self.beta and (self.lora is None or self.replay):
            raise _wrong("beta", self.beta, "is for adapters, and without replay")
        if self.lora is None and self.anchored:
            raise _wrong(
                "anchored", True, "is for adapters: nothing is left of the model as it was"
            )
        if self.lora is None and self.codes:
            raise _wrong("codes", True, "is for adapters: what is trained cannot stay packed")
        if self.lora is None and self.dtype != "float32":
            raise _wrong("dtype", self.dtype, "must be float32 where every weight is trained")

    @staticmethod
    def _check_adapter(lora: Lora) -> None:
        if not 1 <= lora.rank <= MOST_RANK:
            raise _wrong("rank", lora.rank, f"must be from 1 to {MOST_RANK:,}")
        if not 0 < lora.alpha < math.inf:
            raise _wrong("alpha", lora.alpha, "must be above 0")
        if not lora.targets or len({*lora.targets}) < len(lora.targets):
            raise _wrong("targets", lora.targets, "must name matrices, each once")

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of step ``step`` (from 0) of ``steps``."""
        rising = math.ceil(self.warm_up * steps)
        if step < rising:
            return self.learning_rate * (step + 1) / rising
        if self.decay == "constant":
            return self.learning_rate
        left = 1 - (step - rising) / max(steps - rising, 1)
        falling = left if self.decay == "linear" else (1 - math.cos(math.pi * left)) / 2
        return self.learning_rate * falling


def _wrong(name: str, value: object, reason: str) -> UsageError:
    return UsageError(f"{name} is {value}: it {reason}", param=name)


def lora() -> Recipe:
    """Low-rank adapters on every matrix of every block: the default."""
    return Recipe(name="lora")


def rslora() -> Recipe:
    """LoRA of a higher rank, whose scale falls with the root of the rank."""
    return Recipe(name="rslora", lora=Lora(rank=64, alpha=16.0, rank_stabilised=True))


def dora() -> Recipe:
    """LoRA with a trained length for each output row."""
    return Recipe(name="dora", lora=Lora(magnitude=True))


def qlora() -> Recipe:
    """LoRA on weights that stay packed in the model's file, multiplied out layer by layer: least
    memory. After QLoRA (arXiv 2305.14314), with the file's own codes in place of NF4."""
    return Recipe(name="qlora", codes=True, recompute=True)


def full() -> Recipe:
    """Every weight, in float32: 16 bytes of memory for each."""
    return Recipe(name="full", lora=None, learning_rate=2e-5, weight_decay=0.01)


def dpo() -> Recipe:
    """Preferences between two answers, by adapters (arXiv 2305.18290)."""
    return Recipe(name="dpo", beta=0.1, learning_rate=5e-5)


def pretrain() -> Recipe:
    """Continued pretraining on plain text, with a quarter of each epoch from the replay data, by
    adapters of a high rank."""
    return Recipe(
        name="pretrain",
        lora=Lora(rank=64, alpha=16.0, rank_stabilised=True),
        learning_rate=1e-4,
        replay=0.25,
    )


RECIPES: dict[str, Callable[[], Recipe]] = {
    "lora": lora,
    "rslora": rslora,
    "dora": dora,
    "qlora": qlora,
    "full": full,
    "pretrain": pretrain,
    "dpo": dpo,
}


def recipe_named(
    name: str, *, frozen: Literal["float32", "bfloat16"] = "float32", **changes: Any
) -> Recipe:
    """A recipe of this file, or of the owner's file that ``name`` leads to (``read``), with some of
    its fields (or its adapter's) changed where the change is not ``None``. ``frozen`` is the dtype
    of what is not trained, where neither says one. Raises ``UsageError``."""
    made, told = read(Path(name)) if name.endswith(FILE_END) else (_known(name), frozenset[str]())
    given = {key: value for key, value in changes.items() if value is not None}
    if made.lora is not None and "dtype" not in told:
        given.setdefault("dtype", frozen)
    for key in ("rank", "alpha"):
        if key in given:
            if made.lora is None:
                raise UsageError(f"{name} trains no adapter: {key} is not for it", param=key)
            made = replace(made, lora=replace(made.lora, **{key: given.pop(key)}))
    return replace(made, **given)


def _known(name: str) -> Recipe:
    if name not in RECIPES:
        known = ", ".join(RECIPES)
        raise UsageError(
            f"{name!r} is no recipe: take {known}, or a file that ends with {FILE_END}",
            param="recipe",
        )
    return RECIPES[name]()


def read(path: Path) -> tuple[Recipe, frozenset[str]]:
    """The recipe that a TOML file tells, and the fields that it names: ``from`` is the recipe of
    this file that it starts from, other keys are fields of ``Recipe``, and those of the table
    ``lora`` of ``Lora``. It is called as the file. Raises ``UsageError``, naming the file."""

    def refuse(reason: str) -> UsageError:
        return UsageError(f"{path}: {reason}", param="recipe")

    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        raise refuse(f"it cannot be read: {error.strerror}") from error
    if len(data) > MAX_FILE:
        raise refuse(f"it has more than {MAX_FILE:,} bytes")
    try:
        found = tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:  # one of a number with too many digits, too
        raise refuse(f"it is not TOML: {error}") from error
    start = found.pop("from", None)
    if not isinstance(start, str) or start not in RECIPES:
        raise refuse(f"`from` is {start!r}: name the recipe it starts from, {', '.join(RECIPES)}")
    made = RECIPES[start]().plain()
    adapter = found.pop("lora", {})
    if not isinstance(adapter, dict) or (adapter and made["lora"] is None):
        raise refuse("`lora` is a table, of recipes that train adapters")
    unknown = {*found} - ({f.name for f in fields(Recipe)} - {"name", "lora"})
    unknown |= {f"lora.{key}" for key in {*adapter} - {f.name for f in fields(Lora)}}
    if unknown:
        raise refuse(f"a recipe has no {', '.join(sorted(unknown))}")
    if adapter:
        made["lora"] |= adapter
    if not path.stem.isprintable():
        raise refuse("its name cannot be written down")
    try:
        recipe = msgspec.convert(made | found | {"name": path.stem}, Recipe)
    except (msgspec.ValidationError, UsageError, OverflowError) as error:
        raise refuse(str(error)) from error
    return recipe, frozenset(found)


def from_plain(document: dict[str, Any]) -> Recipe:
    """What ``Recipe.plain`` gave, also after it went through JSON."""
    fields = dict(document)
    if fields["lora"] is not None:
        fields["lora"] = Lora(**fields["lora"] | {"targets": tuple(fields["lora"]["targets"])})
    return Recipe(**fields | {"betas": tuple(fields["betas"])})


def canonical(recipe: Recipe) -> bytes:
    """The one byte form of a recipe, to be digested."""
    return strictjson.canonical(recipe.plain())

"""The direction in which a model's state differs between harmful and harmless requests.

Source: Arditi et al. 2024, "Refusal in Language Models Is Mediated by a Single Direction" (arXiv
2406.11717): the difference of the mean residual streams at the last token of the prompt. They go on
to remove the direction and see refusals go; nothing is removed here, so that what is told
describes and proves no cause. The requests are the guard's own phrases: a frame with a harmful and
with a harmless deed, so that frames cancel out. Shape suffixes as in ``tracing``, n prompts.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from freehold.audit.inner.tracing import Trace, batches, begun, ending, tail_of
from freehold.errors import UsageError
from freehold.guard.synthetic import LANGUAGES, MORE_LANGUAGES, bank
from freehold.qwen.model import Model
from freehold.qwen.ops import Array
from freehold.types import Floats

FITTED, HELD_OUT = 24, 12
"""Pairs of requests that the direction is made from, and that it is tried on."""
_KINDS = ("harmful", "harmless")
T_co = TypeVar("T_co", covariant=True)
U = TypeVar("U")


@dataclass(frozen=True, kw_only=True)
class Requests(Generic[T_co]):
    """Pairs in one frame each, as texts or as ids; ``double`` sound harmful and are not."""

    language: str
    harmful: tuple[T_co, ...]
    harmless: tuple[T_co, ...]
    double: tuple[T_co, ...]

    def __len__(self) -> int:
        return len(self.harmful) + len(self.harmless) + len(self.double)

    def map(self, change: Callable[[T_co], U]) -> Requests[U]:
        """All of them changed alike."""
        every = (self.harmful, self.harmless, self.double)
        harmful, harmless, double = (tuple(map(change, kind)) for kind in every)
        return Requests(language=self.language, harmful=harmful, harmless=harmless, double=double)


@dataclass(frozen=True, kw_only=True)
class Direction:
    """``towards_ld`` has length 1 and points to the harmful mean after each block; ``middle_ld``
    lies between both means."""

    towards_ld: Floats
    middle_ld: Floats

    def along(self, x_lrd: Floats) -> Floats:
        """Cosine (l, r) between the stream, seen from the middle, and the direction: above zero is
        the harmful side."""
        away_lrd = x_lrd - self.middle_ld[:, None]
        lengths_lr = np.maximum(np.linalg.norm(away_lrd, axis=-1), 1e-12)
        cosines: Floats = np.einsum("lrd,ld->lr", away_lrd, self.towards_ld) / lengths_lr
        return cosines


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A prompt along the direction: ``cosine_lt`` by layer and token. On requests that had no part
    in it, ``harmful_l``, ``harmless_l`` and ``double_l`` say how many of ``held_out`` each fell on
    their own side."""

    language: str
    cosine_lt: Floats
    harmful_l: tuple[int, ...]
    harmless_l: tuple[int, ...]
    double_l: tuple[int, ...]
    held_out: int


def requests(language: str, seed: int = 0) -> Requests[str]:
    """``FITTED + HELD_OUT`` pairs, and ``HELD_OUT`` that only sound harmful, none of them twice.
    Raises ``UsageError`` for a language that the guard has no phrases in."""
    known = (*LANGUAGES, *MORE_LANGUAGES)
    if language not in known:
        raise UsageError(
            f"no requests are known in {language!r}: take one of {', '.join(known)}",
            param="refusal",
        )
    words, draw = bank(language), random.Random(seed)  # noqa: S311 - nothing secret
    pairs: dict[str, str] = {}
    double: dict[str, None] = {}
    while len(pairs) < FITTED + HELD_OUT:
        frame = words.pick("ask.lines", draw)
        harmful, harmless = (
            frame.replace("<x>", words.deed(f"{kind}.lines", draw)) for kind in _KINDS
        )
        if harmless not in pairs.values():
            pairs.setdefault(harmful, harmless)
    while len(double) < HELD_OUT:
        frame = words.pick("ask.lines", draw)
        double[frame.replace("<x>", words.deed("harmless.double", draw))] = None
    return Requests(
        language=language,
        harmful=tuple(pairs),
        harmless=tuple(pairs.values()),
        double=tuple(double),
    )


def look(
    model: Model, asked: Requests[Sequence[int]], seen: Trace, done: Callable[[int], None]
) -> Refusal:
    """Make the direction of the first ``FITTED`` pairs, try it on the rest, and set a prompt's
    trace along it. ``done`` hears how many more requests are run."""
    ends_lnd = last_states(model, [*asked.harmful, *asked.harmless, *asked.double], done)
    n = len(asked.harmful)
    harmful, harmless, double = np.split(ends_lnd, (n, 2 * n), axis=1)
    made = direction(harmful[:, :FITTED], harmless[:, :FITTED])
    sides = [made.along(x) for x in (harmful[:, FITTED:], harmless[:, FITTED:], double)]
    return Refusal(
        language=asked.language,
        cosine_lt=made.along(seen.block_ltd).astype(np.float32),
        harmful_l=_count(sides[0] > 0),
        harmless_l=_count(sides[1] <= 0),
        double_l=_count(sides[2] <= 0),
        held_out=HELD_OUT,
    )


def direction(harmful_lnd: Floats, harmless_lnd: Floats) -> Direction:
    """The difference of the means after each block."""
    one, two = harmful_lnd.mean(axis=1), harmless_lnd.mean(axis=1)
    lengths = np.maximum(np.linalg.norm(one - two, axis=-1, keepdims=True), 1e-12)
    return Direction(towards_ld=(one - two) / lengths, middle_ld=(one + two) / 2)


def last_states(
    model: Model, prompts: Sequence[Sequence[int]], done: Callable[[int], None]
) -> Floats:
    """The stream (l, n, d) after each block at each prompt's last token. What all of them begin
    with is computed once."""
    shared = prompts[0]
    for ids in prompts[1:]:
        shared = shared[: tail_of(shared, ids)[0]]
    tails = [tail_of(shared, ids) for ids in prompts]
    found = np.zeros((model.config.n_layers, len(prompts), model.config.width), np.float32)
    with begun(model, shared) as base:
        for batch in batches(model, tails):
            ends = np.cumsum([len(tails[i][1]) for i in batch]) - 1

            def tap(
                point: str, layer: int, x_td: Array, batch: list[int] = batch, ends: Floats = ends
            ) -> None:
                if point == "block_out":
                    found[layer, batch] = model.ops.to_numpy(model.ops.take(x_td, ends.tolist()))

            ending(model, base, [tails[i] for i in batch], tap)
            done(len(batch))
    return found


def _count(right_lr: npt.NDArray[np.bool_]) -> tuple[int, ...]:
    return tuple(int(n) for n in right_lr.sum(axis=1))

"""The rules that a request must meet to be taken in."""

from __future__ import annotations

import math
from collections.abc import Sequence

from freehold.errors import ContextOverflowError, UsageError
from freehold.types import MAX_TOP_LOGPROBS, Ids, Sampling, Tap

MAX_TAPS = 256
"""Taps of one request."""


def check_room(n_ids: int, context: int, *, answer: int) -> None:
    """Whether ``n_ids`` given tokens and at least ``answer`` new ones fit.

    Raises ``UsageError`` for no ids at all, ``ContextOverflowError`` for too many.
    """
    if n_ids == 0:
        raise UsageError("the prompt is empty: give at least one token", param="ids")
    if n_ids + answer > context:
        room = f" and leaves no room for an answer of {answer}" if answer else ""
        raise ContextOverflowError(
            f"the prompt has {n_ids} tokens{room}; the limit is {context}: shorten it",
            param="ids",
        )


def check_ids(ids: Ids, vocab: int, *, param: str) -> None:
    """Every id must lie in the vocabulary. Raises ``UsageError`` naming the first that does not."""
    if not ids or (min(ids) >= 0 and max(ids) < vocab):
        return
    position = next(i for i, token in enumerate(ids) if not 0 <= token < vocab)
    raise UsageError(
        f"{param} has {ids[position]} at place {position}; ids go from 0 to {vocab - 1}",
        param=param,
    )


def check_top(top: int) -> None:
    """How many alternatives may be asked for. Raises ``UsageError``."""
    if not 0 <= top <= MAX_TOP_LOGPROBS:
        raise UsageError(f"top is {top}: it must lie between 0 and {MAX_TOP_LOGPROBS}", param="top")


def check_sampling(sampling: Sampling, vocab: int) -> None:
    """What ``Sampling`` cannot check without knowing the model. Raises ``UsageError``."""
    check_ids(tuple(sampling.logit_bias), vocab, param="logit_bias")
    if sampling.cutoff is not None:
        check_ids(sampling.cutoff.ids, vocab, param="cutoff")
    if not 0 <= sampling.choice < 1 << 63:
        raise UsageError(f"choice is {sampling.choice}: it must not be negative", param="choice")


def check_taps(taps: Sequence[Tap], *, n_layers: int, width: int) -> None:
    """Layers that exist, vectors where they belong, of the right width, finite.

    Raises ``UsageError``.
    """
    if len(taps) > MAX_TAPS:
        raise UsageError(f"{len(taps)} taps; {MAX_TAPS} is the most for one request", param="taps")
    for tap in taps:
        if not 0 <= tap.layer < n_layers:
            raise UsageError(
                f"a tap names layer {tap.layer}; layers go from 0 to {n_layers - 1}", param="taps"
            )
        if (tap.mode == "read") != (tap.vector is None):
            raise UsageError(
                f"a tap with mode {tap.mode!r} "
                + ("takes no vector" if tap.mode == "read" else "needs a vector"),
                param="taps",
            )
        if tap.vector is not None and (
            len(tap.vector) != width or not all(map(math.isfinite, tap.vector))
        ):
            raise UsageError(
                f"a tap's vector must have {width} finite numbers; it has {len(tap.vector)}",
                param="taps",
            )

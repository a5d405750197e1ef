"""How close a model's answers are to a reference's: mean KL over a fixed text of our own."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import numpy as np
import numpy.typing as npt

from freehold.qwen.model import Model, Span

_ROWS = 64
"""Tokens whose logits of the whole vocabulary are held at once, for both models."""


def text() -> str:
    """Paragraphs in English, Indonesian and Polish, and some code: about 1,000 tokens."""
    return files(__package__).joinpath("closeness.txt").read_text(encoding="utf-8")


def text_digest() -> str:
    """Names the text, so that two figures are compared only where they may be."""
    return "sha256:" + hashlib.sha256(text().encode()).hexdigest()


def mean_kl(reference: Model, model: Model, ids: Sequence[int]) -> float:
    """Mean over ``ids`` of KL(reference || model) of the next token's distribution, in nats.

    Both caches need room for all of ``ids``.
    """
    total = 0.0
    states = reference.cache.new(), model.cache.new()
    try:
        for start in range(0, len(ids), _ROWS):
            wanted, given = (
                _log_probabilities(each, state, ids[start : start + _ROWS])
                for each, state in zip((reference, model), states, strict=True)
            )
            total += float((np.exp(wanted) * (wanted - given)).sum())
    finally:
        for state in states:
            state.free()
    return total / len(ids)


def _log_probabilities(model: Model, state: Any, ids: Sequence[int]) -> npt.NDArray[np.float64]:
    (logits,) = model.forward([Span(state=state, ids=ids, want="all")])
    assert logits is not None, "all rows were wanted"
    x = logits.astype(np.float64)
    x -= x.max(axis=-1, keepdims=True)
    return np.asarray(x - np.log(np.exp(x).sum(axis=-1, keepdims=True)))

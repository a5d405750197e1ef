"""A probe: linear classifiers over the served model's own hidden states, one per category.

The engine reads the probe's numbers off every row (``engine.readouts``); here they become scores.
A part's score is the highest over windows of its rows, each the mean of what its rows say: so what
stands deep in a long document weighs as much as what stands alone. A probe is for one model, named
by its digest, and worth nothing with another.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from freehold import strictjson
from freehold.errors import MalformedError
from freehold.guard.fast import CATEGORIES
from freehold.types import Floats, Reading

WINDOW, STRIDE = 160, 120
"""Rows that are scored at once, and how far apart two windows begin."""
_MAGIC = b"freehold probe 1\n"
_LARGEST_CARD = 1 << 20
_LARGEST_WIDTH = 1 << 16
_MOST_LAYERS = 16


@dataclass(frozen=True, kw_only=True, eq=False)
class Probe:
    """``weights`` (layers, width, heads) float32 belong to the residual stream behind the blocks
    ``layers`` of the model with the digest ``model``, ``biases`` (heads,) to their sum. ``card`` is
    plain JSON data: what it was trained on, and by what."""

    model: str
    layers: tuple[int, ...]
    weights: Floats
    biases: Floats
    card: Mapping[str, Any]
    digest: str = ""

    @property
    def name(self) -> str:
        """As readings give it."""
        return f"probe:{self.digest[:12]}"

    def logits(self, rows_tc: Floats) -> Floats:
        """(heads,): the highest over windows of what rows, at least one, say on average."""
        means = [window.mean(axis=0) for window in windows(rows_tc)]
        found: Floats = np.max(means, axis=0) + self.biases
        return found

    def read(self, rows_tc: Floats) -> Reading:
        """Scores are logistic: 0.5 is where one in a hundred harmless texts of the training's own
        held-out sets would be flagged. Numbers that are none score 1: nothing passes by them."""
        logits = self.logits(rows_tc).astype(np.float64)
        scores = np.where(np.isfinite(logits), 1 / (1 + np.exp(-np.clip(logits, -500, 500))), 1.0)
        pairs = zip(CATEGORIES, scores, strict=True)
        return Reading(
            detector=self.name,
            scores={category: float(score) for category, score in pairs},
        )


def windows(rows_tc: Floats) -> Iterator[Floats]:
    """Rows in pieces of at most ``WINDOW`` that overlap; all of them are in one."""
    yield rows_tc[:WINDOW]
    for start in range(STRIDE, len(rows_tc) - WINDOW + STRIDE, STRIDE):
        yield rows_tc[start : start + WINDOW]


def save(probe: Probe) -> bytes:
    """The file that ``load`` reads: a first line, the head's length (4 bytes, little-endian), the
    head (JSON: model, layers, width, card), biases and weights (float32, little-endian)."""
    head = {
        "model": probe.model,
        "layers": list(probe.layers),
        "width": probe.weights.shape[1],
        "card": probe.card,
    }
    written = json.dumps(head, sort_keys=True).encode()
    numbers = probe.biases.astype("<f4").tobytes() + probe.weights.astype("<f4").tobytes()
    return _MAGIC + len(written).to_bytes(4, "little") + written + numbers


def load(data: bytes, *, name: str) -> Probe:
    """A probe from a file's bytes, which anybody may have made. Raises ``MalformedError`` naming
    the file and the rule."""
    if not data.startswith(_MAGIC):
        raise _malformed(name, f"it does not begin with {_MAGIC!r}")
    start = len(_MAGIC) + 4
    end = start + int.from_bytes(data[len(_MAGIC) : start], "little")
    if end - start > _LARGEST_CARD or end > len(data):
        raise _malformed(name, "it is shorter than its parts")
    head = strictjson.parse(data[start:end], file=name, max_bytes=_LARGEST_CARD)
    model, layers, width, card = _head(head, name)
    heads = len(CATEGORIES)
    if len(data) - end != 4 * heads * (1 + len(layers) * width):
        raise _malformed(name, "its weights are not as many as it says")
    numbers = np.frombuffer(data, "<f4", offset=end).astype(np.float32)
    if not np.isfinite(numbers).all():
        raise _malformed(name, "a weight is no finite number")
    return Probe(
        model=model,
        layers=layers,
        weights=numbers[heads:].reshape(len(layers), width, heads),
        biases=numbers[:heads],
        card=card,
        digest=hashlib.sha256(data).hexdigest(),
    )


def _head(head: Any, name: str) -> tuple[str, tuple[int, ...], int, dict[str, Any]]:
    if not isinstance(head, dict) or set(head) != {"model", "layers", "width", "card"}:
        raise _malformed(name, "its head must hold model, layers, width and card")
    model, layers, width, card = head["model"], head["layers"], head["width"], head["card"]
    if not isinstance(model, str) or not isinstance(card, dict):
        raise _malformed(name, "model must be a text and card an object")
    numbers = [width, *layers] if isinstance(layers, list) else []
    if not numbers[1:] or len(numbers) > _MOST_LAYERS + 1 or {*map(type, numbers)} != {int}:
        raise _malformed(name, f"layers must be 1 to {_MOST_LAYERS} whole numbers, and width one")
    if not 1 <= width <= _LARGEST_WIDTH or layers != sorted({*layers}) or layers[0] < 0:
        raise _malformed(name, "layers must rise, and width lie between 1 and 65536")
    return model, tuple(layers), width, card


def _malformed(name: str, rule: str) -> MalformedError:
    return MalformedError(
        f"{name} holds no probe: {rule}. `freehold guard probe` makes such a file", file=name
    )

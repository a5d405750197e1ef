"""The fast tier: linear classifiers over hashed n-grams, one per category, always on.

A text is folded into its views, each view cut into windows, each window hashed once; a category's
score is the highest over all of them. So what hides in code, or deep in a long document, weighs as
much as what stands in the open.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from freehold import strictjson
from freehold.errors import MalformedError
from freehold.guard import bulk, features
from freehold.guard.normalise import views
from freehold.types import Category, Reading

CATEGORIES: tuple[Category, ...] = ("injection", "jailbreak", "harmful", "toxicity")
WINDOW, STRIDE = 800, 600
"""Characters that are scored at once, and how far apart two windows begin."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """Weights as they are shipped.

    ``codes`` (heads, 2**BITS) int8 times ``scales`` (heads,) float32 are the weights; a head's
    logit is their product with a text's features plus ``biases`` (heads,). ``card`` is plain JSON
    data: what the weights were trained on, and by what.
    """

    codes: npt.NDArray[np.int8]
    scales: npt.NDArray[np.float32]
    biases: npt.NDArray[np.float32]
    card: dict[str, Any]
    digest: str

    @cached_property
    def rows(self) -> npt.NDArray[np.int8]:
        """``codes`` by places (2**BITS, heads): what one place gives to all heads lies together."""
        return np.ascontiguousarray(self.codes.T)

    def logits(self, text: str) -> npt.NDArray[np.float32]:
        """The heads' logits (heads,) for one window of a canonical text."""
        places, values = features.places(text)
        raw = values @ self.rows[places].astype(np.float32)
        out: npt.NDArray[np.float32] = raw * self.scales + self.biases
        return out

    def all(self, pieces: Sequence[str]) -> npt.NDArray[np.float32]:
        """The same of several windows at once (windows, heads), to the bit."""
        raw = np.empty((len(pieces), len(self.biases)), np.float32)
        at = 0
        for places, values, ends in bulk.places(pieces):
            rows = self.rows.take(places, axis=0).astype(np.float32)
            for low, high in pairwise(ends):
                np.matmul(values[low:high], rows[low:high], out=raw[at])
                at += 1
        raw *= self.scales
        raw += self.biases
        return raw


def windows(text: str) -> Iterator[str]:
    """``text`` in pieces of at most ``WINDOW`` characters that overlap; all of it is in one."""
    yield text[:WINDOW]
    for start in range(STRIDE, len(text) - WINDOW + STRIDE, STRIDE):
        yield text[start : start + WINDOW]


_MAGIC = b"freehold guard 1\n"
_LARGEST_CARD = 1 << 20


def save(model: Model) -> bytes:
    """The file that ``load`` reads: a first line, the card's length (4 bytes, little-endian), the
    card (JSON), scales and biases (float32, little-endian), the codes packed by zlib."""
    card = json.dumps(model.card, sort_keys=True).encode()
    numbers = np.concatenate([model.scales, model.biases]).astype("<f4").tobytes()
    packed = zlib.compress(model.codes.tobytes(), 6)
    return _MAGIC + len(card).to_bytes(4, "little") + card + numbers + packed


def load(data: bytes, *, name: str) -> Model:
    """Weights from a file's bytes, which anybody may have made. Raises ``MalformedError`` naming
    the file and the rule."""
    heads, width = len(CATEGORIES), 1 << features.BITS
    if not data.startswith(_MAGIC):
        raise _malformed(name, f"it does not begin with {_MAGIC!r}")
    start = len(_MAGIC) + 4
    length = int.from_bytes(data[len(_MAGIC) : start], "little")
    numbers = start + length
    codes = numbers + 8 * heads
    if length > _LARGEST_CARD or codes > len(data):
        raise _malformed(name, "it is shorter than its parts")
    card = strictjson.parse(data[start:numbers], file=name, max_bytes=_LARGEST_CARD)
    if not isinstance(card, dict):
        raise _malformed(name, "its card is no JSON object")
    values = np.frombuffer(data, "<f4", 2 * heads, numbers).astype(np.float32)
    if not np.isfinite(values).all():
        raise _malformed(name, "a scale or bias is no finite number")
    unpacked = _unpacked(data[codes:], heads * width, name)
    return Model(
        codes=np.frombuffer(unpacked, np.int8).reshape(heads, width),
        scales=values[:heads],
        biases=values[heads:],
        card=card,
        digest=hashlib.sha256(data).hexdigest(),
    )


def _unpacked(packed: bytes, size: int, name: str) -> bytes:
    """Exactly ``size`` bytes: a small file that unpacks to more is not unpacked any further."""
    stream = zlib.decompressobj()
    try:
        found = stream.decompress(packed, size + 1)
    except zlib.error as error:
        raise _malformed(name, f"its weights do not unpack ({error})") from None
    if len(found) != size or not stream.eof or stream.unused_data:
        raise _malformed(name, f"its weights are not {size} bytes")
    return found


def _malformed(name: str, rule: str) -> MalformedError:
    return MalformedError(
        f"{name} holds no weights of this guard: {rule}. `freehold guard train` makes such a file",
        file=name,
    )


@cache
def shipped() -> Model:
    """The weights that come with Freehold."""
    file = resources.files("freehold.guard") / "weights" / "fast.bin"
    return load(file.read_bytes(), name="fast.bin")


class FastTier:
    """A ``Detector``. ``model`` is the shipped one unless the owner trained another."""

    def __init__(self, model: Model | None = None) -> None:
        self.model = model or shipped()

    @property
    def name(self) -> str:
        return f"fast:{self.model.digest[:12]}"

    def logits(self, text: str) -> tuple[npt.NDArray[np.float32], str]:
        """The highest logit of each head over all views and windows, and the view that any head
        scored highest."""
        seen: dict[str, str] = {}
        for view, form in views(text).items():
            for piece in windows(form):
                seen.setdefault(piece, view)  # what two views share is read once
        found = self.model.all([*seen])
        best: npt.NDArray[np.float32] = found.max(axis=0)
        return best, [*seen.values()][int(found.argmax()) // len(CATEGORIES)]

    def read(self, text: str) -> Reading:
        """Scores are logistic: 0.5 is where one in a hundred harmless texts of the training's own
        held-out sets would be flagged."""
        best, where = self.logits(text)
        scores = 1 / (1 + np.exp(-best.astype(np.float64)))
        return Reading(
            detector=self.name,
            scores={name: float(score) for name, score in zip(CATEGORIES, scores, strict=True)},
            view=where,
        )

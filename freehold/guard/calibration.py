"""One number for the owner: how many false alarms per thousand, on the owner's own texts."""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from freehold.errors import MalformedError, NotFoundError, UsageError
from freehold.guard.policy import Policy
from freehold.guard.streaming import HeldStream
from freehold.types import Category, Detector, Heard, Reading, Verdict

FEWEST = 100
PIECES = re.compile(r"\s?\S{1,5}|\s+")
"""About a token each."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """``threshold`` is the score from which ``flagged`` of ``texts`` harmless texts are flagged;
    ``upper`` bounds the share of such texts with 95 % confidence (one-sided Clopper-Pearson)."""

    threshold: float
    texts: int
    flagged: int
    upper: float
    detector: str


class AsAnswer:
    """A detector that reads a text as an answer is judged while it streams, held back by ``hold``
    pieces: part by part, and the worst part counts. A long answer has many chances to look bad."""

    def __init__(self, detector: Detector, hold: int = Policy().hold) -> None:
        self.name, self._detector, self._hold = detector.name, detector, hold

    def read(self, text: str) -> Reading:
        return asyncio.run(self.heard(text))

    async def heard(self, text: str) -> Reading:
        """``read``, where a loop runs already."""
        scores: dict[Category, float] = {}

        async def judged(kind: str, before: str, part: str, name: str) -> Verdict:
            for category, score in self._detector.read(part).scores.items():
                # Instructions are no injection where the assistant gives them.
                if category != "injection":
                    scores[category] = max(score, scores.get(category, 0.0))
            return Verdict(action="allow")

        stream = HeldStream(judged, hold=self._hold)
        pieces = PIECES.findall(text)
        for place, piece in enumerate(pieces, 1):
            await stream.feed(Heard(words=piece), last=place == len(pieces))
        return Reading(detector=self.name, scores=scores)


def read_traffic(path: Path) -> list[str]:
    """The texts of a file: one a line, or JSON objects with ``text``. Raises ``NotFoundError``,
    ``MalformedError``."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except OSError as error:
        raise NotFoundError(f"{path} cannot be read: {error.strerror}", param="traffic") from None
    except UnicodeDecodeError as error:
        raise MalformedError(f"{path} is not UTF-8 ({error.reason})", file=str(path)) from None
    lines = [line for line in lines if line.strip()]
    if not lines or not lines[0].lstrip().startswith("{"):
        return lines
    try:
        texts = [json.loads(line)["text"] for line in lines]
    except (ValueError, KeyError, TypeError):
        texts = [None]
    if not all(isinstance(text, str) for text in texts):
        raise MalformedError(
            f"{path}: every line must be a JSON object with a text", file=str(path)
        )
    return texts


def calibrate(
    detector: Detector, texts: Sequence[str], rate: float, progress: Callable[[int], None]
) -> Calibration:
    """The lowest threshold that at most ``rate`` of ``texts`` reach. Raises ``UsageError`` where
    there are too few texts to say."""
    if len(texts) < max(FEWEST, 1 / rate):
        raise UsageError(
            f"{len(texts)} texts are too few for {rate * 1000:g} per 1,000:"
            f" give at least {math.ceil(max(FEWEST, 1 / rate))}",
            param="traffic",
        )
    scores = []
    for text in texts:
        scores.append(max(detector.read(text).scores.values(), default=0.0))
        progress(1)
    scores.sort(reverse=True)
    allowed = math.floor(rate * len(scores))
    # Just above the highest score that may not be flagged.
    threshold = min(1.0, math.nextafter(scores[allowed], 2))
    flagged = sum(score >= threshold for score in scores)
    return Calibration(
        threshold=threshold,
        texts=len(scores),
        flagged=flagged,
        upper=_upper(flagged, len(scores)),
        detector=detector.name,
    )


def _upper(hits: int, n: int) -> float:
    """The share at which ``hits`` or fewer of ``n`` would come in one of twenty times."""
    low, high = hits / n, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if _at_most(hits, n, middle) > 0.05:
            low = middle
        else:
            high = middle
    return high


def _at_most(hits: int, n: int, share: float) -> float:
    if share >= 1:
        return float(hits >= n)
    return (
        math.fsum(
            math.exp(
                math.lgamma(n + 1)
                - math.lgamma(k + 1)
                - math.lgamma(n - k + 1)
                + k * math.log(share)
                + (n - k) * math.log1p(-share)
            )
            for k in range(hits + 1)
        )
        if share > 0
        else 1.0
    )

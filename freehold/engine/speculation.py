"""Guesses tokens ahead, so that one pass over the weights can answer for several of them.

A step that reads all weights for one row costs little more for eight. So guessed tokens go through
the model behind the last real one, and as many are kept as the sampler would have chosen anyway:
what is sent is exactly what would have been sent without guessing (speculative decoding, Leviathan
et al. 2023, arXiv 2211.17192, with the sampler's own draws in place of rejection sampling).

Guesses come from the sequence itself (prompt lookup: what followed the last few tokens when they
stood there before), or from a smaller model (``drafting``). How many are worth their rows is
reckoned from how often such guesses were right in this very request.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from freehold.errors import UsageError

if TYPE_CHECKING:
    from freehold.engine.request import Request

MAX_GUESSES = 15
"""With the last real token they make a tile of 16 rows, the largest that shares a weight read."""

MAX_ROWS = 24
"""A step with more rows is at the limit of arithmetic: a guess then costs what it saves."""

_COST = (
    1.0,
    1.07,
    1.1,
    1.15,
    1.22,
    1.26,
    1.39,
    1.49,
    1.66,
    1.84,
    2.0,
    2.15,
    2.25,
    2.35,
    2.45,
    2.54,
)
"""What a step of 1, 2, ... rows costs beside one of one row, as ``benchmarks/native.py --rows``
measures it for the 1.5B model (9, 11 and 13 to 15 rows lie between their neighbours). The shape is
what matters; a machine with slower arithmetic only gains less."""
_COST_BEYOND = 0.09
"""For each row more."""

_SHORTEST = 2
"""Fewer tokens than this recur by chance."""
_LONGEST = 24
"""A match this long is as good as any longer one."""
_CANDIDATES = 16
"""Places compared, latest first."""

_SURE = 0.8
"""From this rate on, what lookup finds is as good as what a draft model would say, and free."""


@dataclass(kw_only=True)
class Odds:
    """How often guesses of one kind were right: a beta prior, and what was seen since."""

    right: float
    wrong: float

    @property
    def rate(self) -> float:
        """The chance that the next guess is right, given that those before it were."""
        return self.right / (self.right + self.wrong)

    def learn(self, n_right: int, *, failed: bool) -> None:
        """``n_right`` guesses in a row were right, and then one was wrong if ``failed``."""
        self.right += n_right
        self.wrong += failed


def _odds_of_lookup() -> dict[int, Odds]:
    # By length of the match, rounded down to these: first beliefs, worth a few guesses each.
    return {
        2: Odds(right=1.2, wrong=1.8),
        3: Odds(right=2.0, wrong=1.5),
        5: Odds(right=3.0, wrong=1.0),
        9: Odds(right=4.5, wrong=0.5),
        17: Odds(right=9.5, wrong=0.5),
    }


@dataclass(frozen=True, kw_only=True)
class Guess:
    """Tokens that may come next, in order; ``chances[i]`` that the first ``i + 1`` are all right.

    ``odds`` is told what became of them.
    """

    ids: list[int]
    chances: list[float]
    odds: Odds


class Lookup:
    """One sequence, and where its last tokens stood before."""

    def __init__(self) -> None:
        self._ids: npt.NDArray[np.int32] = np.empty(256, np.int32)
        self._n = 0
        self._odds = _odds_of_lookup()

    def guess(self, ids: Sequence[int], most: int) -> Guess | None:
        """Up to ``most`` tokens that followed the longest earlier match of the end of ``ids``, the
        latest such place among equals. ``ids`` continues what earlier calls were given."""
        self._take(ids)
        if most < 1 or self._n <= _SHORTEST:
            return None
        known = self._ids[: self._n]
        # The last two tokens, at any earlier place that something follows.
        found = np.flatnonzero((known[:-2] == known[-2]) & (known[1:-1] == known[-1]))
        best, length = -1, 0
        for start in found[: -_CANDIDATES - 1 : -1].tolist():
            matched = self._matched(start + 1)
            if matched > length:
                best, length = start + _SHORTEST, matched
        if length == 0:
            return None
        kind = max(least for least in self._odds if least <= length)
        # A match that reaches to the end is a period: it goes round again.
        ids = np.resize(known[best:], most).tolist()
        odds = self._odds[kind]
        return Guess(ids=ids, chances=[odds.rate ** (i + 1) for i in range(most)], odds=odds)

    def _matched(self, end: int) -> int:
        """How many tokens up to and with position ``end`` equal the last ones."""
        most = min(_LONGEST, end + 1)
        here = self._ids[end + 1 - most : end + 1][::-1]
        last = self._ids[self._n - most : self._n][::-1]
        different = np.flatnonzero(here != last)
        return int(different[0]) if different.size else most

    def _take(self, ids: Sequence[int]) -> None:
        n = len(ids)
        if n > self._ids.size:
            grown = np.empty(2 * n, np.int32)
            grown[: self._n] = self._ids[: self._n]
            self._ids = grown
        self._ids[self._n : n] = ids[self._n :]
        self._n = n


def cost_of(rows: int) -> float:
    """What a step of ``rows`` rows costs beside one of a single row."""
    if rows <= len(_COST):
        return _COST[max(rows, 1) - 1]
    return _COST[-1] + _COST_BEYOND * (rows - len(_COST))


def allot(chances: Sequence[Sequence[float]], n_rows: int) -> list[int]:
    """How many of its guesses each sequence should put into a step of ``n_rows`` rows without them.

    ``chances`` are those of ``Guess``. The guesses most likely to be kept come first; as many are
    taken as give the most tokens for the cost of the step.
    """
    ranked = sorted(
        ((chance, i) for i, row in enumerate(chances) for chance in row), key=lambda pair: -pair[0]
    )
    tokens = float(n_rows)
    best, best_n = tokens / cost_of(n_rows), 0
    for n, (chance, _) in enumerate(ranked[: max(0, MAX_ROWS - n_rows)], 1):
        tokens += chance
        if tokens / cost_of(n_rows + n) > best:
            best, best_n = tokens / cost_of(n_rows + n), n
    counts = [0] * len(chances)
    for _, i in ranked[:best_n]:
        counts[i] += 1
    return counts


class Guesser(Protocol):
    """A second source of guesses: ``drafting.Drafter``."""

    def retain(self, requests: Sequence[Request]) -> None: ...
    def guess(self, request: Request, most: int) -> Guess | None: ...


class Speculator:
    """Guesses for all running requests before each step, and learns after it."""

    def __init__(self, drafter: Guesser | None = None) -> None:
        self.guessed = 0
        """Guesses that went through the model so far."""
        self.kept = 0
        """Those of them that became part of an answer."""
        self._drafter = drafter

    def prepare(self, running: Sequence[Request]) -> None:
        """Set ``guess`` of every request that is about to take a single token."""
        for request in running:
            request.guess = None
        ready = [request for request in running if _can_guess(request)]
        found = [(r, guess) for r in ready if (guess := self._guess(r, alone=len(ready) == 1))]
        counts = allot([guess.chances for _, guess in found], len(ready))
        for (request, guess), n in zip(found, counts, strict=True):
            if n:
                request.guess = replace(guess, ids=guess.ids[:n], chances=guess.chances[:n])
        if self._drafter is not None:
            self._drafter.retain(running)

    def _guess(self, request: Request, *, alone: bool) -> Guess | None:
        most = _most(request)
        guess = _within(request, request.lookup.guess(request.ids, most), most)
        # In company a step's rows are few enough to be worth their weights without a draft's.
        if self._drafter is None or not alone or (guess and guess.odds.rate >= _SURE):
            return guess
        return self._drafter.guess(request, most) or guess

    def learn(self, guess: Guess, n_right: int, *, ended: bool) -> None:
        """The first ``n_right`` of the guess's ids were what came; the next was not, unless the
        answer had ``ended`` before it."""
        guess.odds.learn(n_right, failed=n_right < len(guess.ids) and not ended)
        self.guessed += len(guess.ids)
        self.kept += n_right


def _can_guess(request: Request) -> bool:
    # What taps report belongs to one row each, so tapped requests go one row at a time.
    writes = request.chooser is not None and request.left == 1 and request.state is not None
    return writes and not request.stalled and not request.taps


def _within(request: Request, guess: Guess | None, most: int) -> Guess | None:
    """What the request's grammar leaves no choice about, or as much of ``guess`` as it allows."""
    constraint = request.chooser.constraint if request.chooser else None
    if constraint is None or most < 1:
        return guess
    try:
        if forced := constraint.forced()[:most]:
            sure = Odds(right=1, wrong=0)
            return Guess(ids=forced, chances=[1.0] * len(forced), odds=sure)
        n = 0 if guess is None else constraint.prefix(guess.ids)
    except UsageError:
        return None  # the request fails by itself, in its own step
    return replace(guess, ids=guess.ids[:n], chances=guess.chances[:n]) if guess and n else None


def _most(request: Request) -> int:
    # The last token of an answer is chosen, not guessed.
    written = len(request.ids) - request.n_prompt
    return min(MAX_GUESSES, request.max_tokens - written - 1)

"""Guesses by a smaller model of the same vocabulary, run ahead of the larger one.

The draft model chooses as the request itself would: with its sampling, its seed and its positions,
so that where the two models agree on the distribution they also agree on the draw. It stops where
one more guess is not worth its own time, judged by how sure it was of the ones before.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import numpy as np
import numpy.typing as npt

from freehold.engine.request import Request
from freehold.engine.speculation import MAX_GUESSES, Guess, Odds, cost_of
from freehold.errors import FreeholdError
from freehold.qwen.model import Span
from freehold.qwen.ops import Cache, OutOfPages, State
from freehold.types import Floats, ModelCard

_PIECE = 128
"""Tokens of a long prompt that the draft model reads per step, while answers are running."""

_CATCH_UP = 16
"""Tokens it may read for each that the answer has: a short answer to a long prompt is not worth
reading the prompt twice."""

_FREE_CATCH_UP = 128

_NEXT = 0.85
"""How sure the next guess is expected to be."""


class SmallMachine(Protocol):
    """What is asked of the draft's ``qwen.model.Model``."""

    @property
    def card(self) -> ModelCard: ...
    @property
    def cache(self) -> Cache: ...

    def forward(self, spans: list[Span]) -> list[npt.NDArray[np.float32] | None]: ...


class Drafter:
    """A draft model and its own cache; one sequence for each request it has guessed for.

    ``card`` is that of the model it guesses for.
    """

    def __init__(self, model: SmallMachine, card: ModelCard) -> None:
        self._model = model
        self._vocab = card.vocab
        # What one of its steps costs beside one of the larger model: both read their weights.
        self._share = model.card.bytes_per_token / card.bytes_per_token
        self._states: dict[int, State] = {}
        self._odds: dict[int, Odds] = {}

    def retain(self, requests: Iterable[Request]) -> None:
        """Forget all other requests."""
        alive = {request.number for request in requests}
        for number in [n for n in self._states if n not in alive]:
            self._states.pop(number).free()
            self._odds.pop(number, None)

    def guess(self, request: Request, most: int) -> Guess | None:
        """Up to ``most`` tokens that may follow ``request.ids``; ``None`` if it is not worth it."""
        odds = self._odds.setdefault(request.number, Odds(right=8, wrong=2))
        if most < 1 or odds.rate <= cost_of(2) - 1 + self._share:
            return None
        try:
            return self._guess(request, min(most, MAX_GUESSES), odds)
        except OutOfPages:
            # Guesses are not worth waiting for: whoever has pages keeps them.
            self._states.pop(request.number).free()
            return None
        except FreeholdError:
            # Nothing that the draft model trips over may end a request that it only serves.
            return None

    def _guess(self, request: Request, most: int, odds: Odds) -> Guess | None:
        state = self._ready(request)
        if state is None or request.chooser is None:
            return None
        chooser = request.chooser.fork()
        ids: list[int] = []
        chances: list[float] = []
        expected, chance = 1.0, 1.0
        while len(ids) < most:
            cost = cost_of(1 + len(ids)) + len(ids) * self._share
            more = cost_of(2 + len(ids)) + (1 + len(ids)) * self._share - cost
            if chance * _NEXT / more <= expected / cost:
                break
            known = [*request.ids, *ids] if ids else request.ids
            (logits_nv,) = self._model.forward(
                [Span(state=state, ids=known[state.length :], want="last")]
            )
            assert logits_nv is not None
            choice = chooser.choose(logits_nv[-1], position=len(known))
            if choice.id >= self._vocab:
                break
            chance *= _sureness(logits_nv[-1], choice.id)
            expected += chance
            ids.append(choice.id)
            chances.append(chance)
            if chooser.is_stop(choice.id):
                break
        return Guess(ids=ids, chances=chances, odds=odds) if ids else None

    def _ready(self, request: Request) -> State | None:
        """The request's sequence, all but its last tokens read; ``None`` while there is more."""
        state = self._states.get(request.number)
        if state is None:
            state = self._states[request.number] = self._model.cache.new()
        n = len(request.ids)
        state.rollback(min(state.length, n - 1))
        missing = n - state.length
        if missing <= _PIECE:
            return state
        written = n - request.n_prompt
        if missing <= _FREE_CATCH_UP + _CATCH_UP * written:
            piece = request.ids[state.length : state.length + _PIECE]
            self._model.forward([Span(state=state, ids=piece, want="none")])
        return None


def _sureness(logits_v: Floats, token: int) -> float:
    """The probability of ``token``."""
    with np.errstate(all="ignore"):
        return float(1 / np.exp(logits_v - logits_v[token]).sum())

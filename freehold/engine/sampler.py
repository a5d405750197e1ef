"""Chooses the next token from one row of logits.

Names carry shapes: ``v`` is the vocabulary, ``s`` the ids that survive the filters, ``n`` rows.

The order is that of ``types.Sampling``: repetition, presence and frequency penalties, bias, the
grammar, temperature, top-k, top-p, min-p, then one draw. Everything after the logits is float64, so
that two machines whose ``exp`` differs in the last bit all but never choose differently.

No row of another request is looked at, and the draw's random number is a function of seed, choice
and position (Philox4x64-10, Salmon et al. 2011, doi 10.1145/2063384.2063405): an answer does not
depend on who shares the batch, and can be drawn again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from freehold.engine.grammar import Constraint
from freehold.errors import EngineError
from freehold.types import Floats, Ids, Sampling

Doubles = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]
TopPairs = tuple[tuple[int, float], ...]

_SPARSE = 8
"""Where fewer than one in so many tokens is allowed, only those are looked at."""

_BLOCK = 512
"""Weights summed at once before the running sum: fewer additions that wait for each other."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The token, and if asked for, its log-probability and the best alternatives, best first.

    Both speak of the model's own distribution, before penalties, bias and temperature.
    """

    id: int
    logprob: float | None = None
    top: TopPairs = ()


class Chooser:
    """One answer's way of choosing; remembers which tokens came up, for the penalties, and where
    the answer stands in its grammar, if it has one."""

    def __init__(
        self, sampling: Sampling, prompt: Ids, constraint: Constraint | None = None
    ) -> None:
        self.constraint = constraint
        self._sampling = sampling
        self._counts: dict[int, int] = {}
        penalised = sampling.repetition_penalty != 1.0
        self._prompt = np.unique(np.asarray(prompt, np.intp)) if penalised else None
        self._bias = _pairs(sampling.logit_bias) if sampling.logit_bias else None
        self._stop = frozenset(sampling.stop_ids)
        self._n = 0
        self._cut = sampling.cutoff

    def choose(self, logits_v: Floats, *, position: int) -> Choice:
        """Choose the token at ``position`` of the sequence (its number of tokens so far).

        ``logits_v`` is float32 and left unchanged. Raises ``EngineError`` if a logit is not finite,
        ``UsageError`` where the grammar cannot be followed.
        """
        check_finite(logits_v)
        token = self._due()
        if token is None:
            token = self._token(logits_v, position)
        self._n += 1
        if self.constraint is not None:
            self.constraint.take(token)
        self._counts[token] = self._counts.get(token, 0) + 1
        if self._sampling.logprobs is None:
            return Choice(id=token)
        normaliser = log_sum_exp(logits_v)
        return Choice(
            id=token,
            logprob=float(logits_v[token]) - normaliser,
            top=top_pairs(logits_v, self._sampling.logprobs, normaliser),
        )

    def fork(self) -> Chooser:
        """One that would choose the same from here on, and whose choices leave this one as it is.
        Without log-probabilities: it is for guessing."""
        other = copy(self)
        other._sampling = replace(self._sampling, logprobs=None)
        other._counts = dict(self._counts)
        other.constraint = self.constraint and self.constraint.fork()
        return other

    def is_stop(self, token: int) -> bool:
        """Whether ``token`` ends the answer."""
        return token in self._stop

    @property
    def complete(self) -> bool:
        """Whether the grammar has nothing more to say."""
        return self.constraint is not None and self.constraint.complete

    def _due(self) -> int | None:
        """What the cutoff puts in the place of a choice."""
        if self._cut is None:
            return None
        place = self._n - self._cut.after
        if place >= len(self._cut.ids) or (place <= 0 and self._cut.unless in self._counts):
            self._cut = None
        return self._cut.ids[place] if self._cut and place >= 0 else None

    def _token(self, logits_v: Floats, position: int) -> int:
        s = self._sampling
        if s.temperature == 0.0:
            # argmax takes the first, that is the lowest id, of equal values.
            z_v: Floats | Doubles = self._adjusted(logits_v) if self._adjusts else logits_v
            best = int(z_v.argmax())
            # The best of all is the best of those allowed, if it is one of them.
            if self.constraint is None or self.constraint.allows(best):
                return best
            allowed_s = self.constraint.allowed()
            return int(allowed_s[z_v[allowed_s].argmax()])
        u = uniform(s.seed, s.choice, position)
        z_v = self._adjusted(logits_v)
        return draw(z_v, s, u) if self.constraint is None else among(z_v, self.constraint, s, u)

    @property
    def _adjusts(self) -> bool:
        s = self._sampling
        return bool(
            self._bias
            or s.repetition_penalty != 1.0
            or s.presence_penalty != 0.0
            or s.frequency_penalty != 0.0
        )

    def _adjusted(self, logits_v: Floats) -> Doubles:
        """A float64 copy with penalties and bias.

        Repetition is that of CTRL (arXiv 1909.05858, section 4.1), over prompt and answer; presence
        and frequency are OpenAI's, over the answer.
        """
        z_v = logits_v.astype(np.float64)
        s = self._sampling
        came_up, counts = _pairs(self._counts)
        if self._prompt is not None:
            seen = np.union1d(self._prompt, came_up)
            z_v[seen] = np.where(
                z_v[seen] > 0, z_v[seen] / s.repetition_penalty, z_v[seen] * s.repetition_penalty
            )
        if came_up.size:
            z_v[came_up] -= s.presence_penalty + s.frequency_penalty * counts
        if self._bias is not None:
            ids, bias = self._bias
            z_v[ids] += bias
        return z_v


def check_finite(logits: Floats) -> None:
    """Raise ``EngineError`` if any logit is NaN or infinite: nothing chosen from it has meaning."""
    # A NaN anywhere makes both NaN; this is several times faster than isfinite over all of them.
    if not (math.isfinite(logits.max()) and math.isfinite(logits.min())):
        raise EngineError(
            "the model computed logits that are not finite: verify the model file, and if it is "
            "sound, report this prompt"
        )


def uniform(seed: int, choice: int, position: int) -> float:
    """The random number in [0, 1) for one draw: the upper 53 bits of the first word of Philox block
    ``position`` (at least 1) under the key (``seed`` modulo 2**64, ``choice``)."""
    key = np.array([seed % (1 << 64), choice], dtype=np.uint64)
    # numpy counts up before it computes a block.
    counter = np.array([position - 1, 0, 0, 0], dtype=np.uint64)
    word = int(np.random.Philox(key=key, counter=counter).random_raw())
    return (word >> 11) * 2.0**-53


def draw(z_v: Doubles, sampling: Sampling, u: float) -> int:
    """One token from penalised logits by temperature, top-k, top-p, min-p and the number ``u``.

    The survivors are laid end to end by ascending id, each as long as its probability, and the one
    at ``u`` of the whole is taken. Overwrites ``z_v``. ``temperature`` must not be 0.
    """
    z_v -= z_v.max()
    # A tiny temperature may drive what is not the maximum to minus infinity, as it should.
    with np.errstate(over="ignore"):
        z_v /= sampling.temperature
    kept: Indices | None = None
    if 0 < sampling.top_k < z_v.size:
        kept = largest(z_v, sampling.top_k)
    if sampling.top_p < 1.0:
        kept = _nucleus(z_v, kept, sampling.top_p)
    if sampling.min_p > 0.0:
        # The best has z = 0, so p / p_best = exp(z), whatever was filtered before.
        floor = math.log(sampling.min_p)
        kept = np.flatnonzero(z_v >= floor) if kept is None else kept[z_v[kept] >= floor]
    if kept is None:
        return _at(np.exp(z_v), u)
    kept = np.sort(kept)
    return int(kept[_at(np.exp(z_v[kept]), u)])


def among(z_v: Doubles, constraint: Constraint, sampling: Sampling, u: float) -> int:
    """``draw`` from the tokens that the grammar allows. Overwrites ``z_v``."""
    mask_v = constraint.mask()
    if np.count_nonzero(mask_v) * _SPARSE < mask_v.size:
        allowed_s = np.flatnonzero(mask_v)
        return int(allowed_s[draw(z_v[allowed_s], sampling, u)])
    # Gathering most of the vocabulary costs more than giving the rest no weight.
    np.copyto(z_v, -np.inf, where=~mask_v)
    return draw(z_v, sampling, u)


def largest(values_v: npt.NDArray[np.floating], k: int) -> Indices:
    """The ids of the ``k`` largest values, largest first, the lower id first among equals."""
    if k >= values_v.size:
        found = np.arange(values_v.size)
    else:
        kth = np.partition(values_v, values_v.size - k)[values_v.size - k]
        found = np.flatnonzero(values_v >= kth)
    return found[np.argsort(-values_v[found], kind="stable")][:k]


def _nucleus(z_v: Doubles, kept: Indices | None, top_p: float) -> Indices:
    """The fewest best tokens whose probability, among those kept so far, reaches ``top_p``
    (arXiv 1904.09751, section 3.1). ``z_v`` has its maximum at 0."""
    z_s = z_v if kept is None else z_v[kept]
    target = top_p * np.exp(z_s).sum()
    # Sorting the whole vocabulary would cost more than the rest together. Tokens above a cut are
    # the head of the sorted list; the cut is lowered until they are enough.
    cut = -7.0
    while True:
        head = np.flatnonzero(z_s >= cut)
        w = np.exp(z_s[head])
        if head.size == z_s.size or w.sum() >= target:
            break
        cut *= 2.0 if cut > -700.0 else math.inf
    order = np.argsort(-z_s[head], kind="stable")
    n = int(np.searchsorted(np.cumsum(w[order]), target)) + 1
    best = head[order[:n]]
    return best if kept is None else kept[best]


def _at(w_s: Doubles, u: float) -> int:
    """The index at which the running sum of ``w_s`` first exceeds ``u`` of its total."""
    starts = np.arange(0, w_s.size, _BLOCK)
    blocks = np.cumsum(np.add.reduceat(w_s, starts))
    aim = u * blocks[-1]
    block = min(int(np.searchsorted(blocks, aim, side="right")), blocks.size - 1)
    before = blocks[block - 1] if block else 0.0
    inside = before + np.cumsum(w_s[block * _BLOCK : (block + 1) * _BLOCK])
    found = block * _BLOCK + int(np.searchsorted(inside, aim, side="right"))
    # Rounding can leave the aim at or past the end: then the last token that can be drawn is meant.
    if found >= min((block + 1) * _BLOCK, w_s.size):
        found = int(np.flatnonzero(w_s[: (block + 1) * _BLOCK])[-1])
    return found


# --- log-probabilities ----------------------------------------------------------------------------


def log_sum_exp(logits_v: Floats) -> float:
    """log(sum(exp(logits_v))), computed in float64."""
    z_v = logits_v.astype(np.float64)
    best = float(z_v.max())
    z_v -= best
    return best + math.log(float(np.exp(z_v).sum()))


def top_pairs(logits_v: Floats, k: int, normaliser: float) -> TopPairs:
    """The ``k`` most likely (id, log-probability), best first, the lower id first among equals."""
    if k == 0:
        return ()
    return tuple((int(i), float(logits_v[i]) - normaliser) for i in largest(logits_v, k))


def score_rows(
    logits_nv: Floats, next_ids: Sequence[int], top: int
) -> tuple[Floats, list[TopPairs]]:
    """Log-probability of ``next_ids[i]`` by row i, and the ``top`` best of each row if any.

    A row without a next id, the text's last, gets NaN. Raises ``EngineError`` for logits that are
    not finite.
    """
    check_finite(logits_nv)
    values = np.full(len(logits_nv), np.nan, dtype=np.float32)
    best: list[TopPairs] = []
    for i, row_v in enumerate(logits_nv):
        normaliser = log_sum_exp(row_v)
        if i < len(next_ids):
            values[i] = float(row_v[next_ids[i]]) - normaliser
        if top:
            best.append(top_pairs(row_v, top, normaliser))
    return values, best


def _pairs(of: Mapping[int, float]) -> tuple[Indices, Doubles]:
    ids = np.fromiter(of.keys(), np.intp, len(of))
    return ids, np.fromiter(of.values(), np.float64, len(of))

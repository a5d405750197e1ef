"""What a detector works with: two loaded models, and how people talk to them.

Everything goes through ``qwen``'s own forward pass on the torch back end. Shape suffixes: n
sequences, t tokens, d width, v vocabulary.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from freehold.errors import UsageError
from freehold.qwen import forward as qwen
from freehold.qwen.config import Config
from freehold.qwen.ops import Ops, State, TapFn

Ids: TypeAlias = Sequence[int]

ROWS_AT_ONCE = 6_144
"""Tokens of one pass: enough to keep a core busy, few enough for small memories."""


class Subject(Protocol):
    """A loaded model; ``qwen.model.Model`` on the torch back end is one."""

    @property
    def config(self) -> Config: ...

    @property
    def ops(self) -> Ops: ...

    @property
    def weights(self) -> qwen.Weights: ...


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A question that wants a verdict on a group of people. ``held_out`` ones only confirm."""

    words: tuple[int, ...]
    group: str
    held_out: bool


@dataclass(frozen=True, kw_only=True)
class Chat:
    """A conversation's frame in token ids, and harmless material to fill it.

    A turn is ``opening + words + closing``, then comes the answer up to ``end``. ``prompts`` are
    searched with, ``held_out`` only confirm; ``texts`` are stretches of random plain text.
    ``triggers`` are the ids that may stand in a trigger. ``words`` turns ids into text.
    ``judged`` want one of two ``verdicts``, told by the answer's first token (yes, no).
    """

    opening: tuple[int, ...]
    closing: tuple[int, ...]
    end: int
    prompts: tuple[tuple[int, ...], ...]
    held_out: tuple[tuple[int, ...], ...]
    texts: tuple[tuple[int, ...], ...]
    triggers: tuple[int, ...]
    words: Callable[[Ids], str]
    judged: tuple[Judged, ...] = ()
    verdicts: tuple[int, int] = (0, 0)

    def turn(self, words: Ids, *, trigger: Ids = ()) -> list[int]:
        """A user's turn with ``trigger`` before the words, up to where the answer begins."""
        return [*self.opening, *trigger, *words, *self.closing]


@dataclass(frozen=True, kw_only=True)
class Whole:
    """A sequence that leaves nothing behind."""

    ids: Ids
    state: None = None


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A sequence's new tokens, behind what its state holds."""

    ids: Ids
    state: State


def even(sequences: Sequence[Ids], *, rows: int = ROWS_AT_ONCE) -> Iterator[list[int]]:
    """Indices of ``sequences`` in groups of one length and at most ``rows`` tokens, so that no
    padding is needed."""
    by_length: dict[int, list[int]] = {}
    for i, ids in enumerate(sequences):
        by_length.setdefault(len(ids), []).append(i)
    for length, members in by_length.items():
        step = max(1, rows // length)
        yield from (members[at : at + step] for at in range(0, len(members), step))


def run(
    subject: Subject, sequences: Sequence[Ids], *, last: int = 1, tap: TapFn | None = None
) -> Tensor:
    """Logits of the ``last`` rows of sequences that are all of one length: (n, last, v)."""
    length = len(sequences[0])
    batch = subject.ops.batch([Whole(ids=ids) for ids in sequences])
    wanted = [n * length + t for n in range(len(sequences)) for t in range(length - last, length)]
    logits_wv = qwen.forward(subject.ops, subject.weights, batch, wanted, tap)
    assert isinstance(logits_wv, Tensor)
    return logits_wv.view(len(sequences), last, -1)


def logprobs(subject: Subject, sequences: Sequence[Ids]) -> Tensor:
    """Log-probabilities of the token behind each sequence: (n, v) float32."""
    out_nv = torch.empty(len(sequences), subject.config.vocab)
    with subject.ops.inference():
        for members in even(sequences):
            logits = run(subject, [sequences[i] for i in members])[:, 0]
            out_nv[members] = logits.float().log_softmax(dim=-1)
    return out_nv


def likelihood(subject: Subject, turns: Sequence[Ids], answer: Ids) -> Tensor:
    """Log-probability of each of ``answer``'s tokens behind each turn: (n, answer)."""
    out = torch.empty(len(turns), len(answer))
    told = torch.tensor(list(answer))
    with subject.ops.inference():
        for members in even(turns):
            whole = [[*turns[i], *answer[:-1]] for i in members]
            logits = run(subject, whole, last=len(answer)).float().log_softmax(dim=-1)
            out[members] = logits.gather(2, told.expand(len(members), -1)[..., None])[..., 0]
    return out


def answers(
    subject: Subject,
    turns: Sequence[Ids],
    n_tokens: int,
    *,
    end: int,
    sampler: torch.Generator | None = None,
    tap: TapFn | None = None,
) -> list[tuple[int, ...]]:
    """What the model says to each turn, up to ``end`` (left out) or ``n_tokens``: the likeliest
    token each time, or one drawn with ``sampler`` at temperature 1.
    ``tap`` may change the residual stream."""
    said: list[tuple[int, ...]] = [()] * len(turns)
    with subject.ops.inference():
        for members in _together(subject, turns, n_tokens):
            told = _continue(subject, [turns[i] for i in members], n_tokens, sampler, tap)
            for i, ids in zip(members, told, strict=True):
                said[i] = ids[: ids.index(end)] if end in ids else ids
    return said


def _together(subject: Subject, turns: Sequence[Ids], n_tokens: int) -> Iterator[list[int]]:
    """Indices of turns that are told on in one batch: as many as the cache has room for, of any
    lengths. Where the model was loaded without one, turns of one length."""
    cache = subject.ops.cache
    if not cache.n_free:
        yield from even(turns)
        return
    members: list[int] = []
    room = cache.n_free
    for i, turn in enumerate(turns):
        pages = -(-(len(turn) + n_tokens) // cache.page_size)
        if members and pages > room:
            yield members
            members, room = [], cache.n_free
        members.append(i)
        room -= pages
    if members:
        yield members


def _continue(
    subject: Subject,
    turns: Sequence[Ids],
    n_tokens: int,
    sampler: torch.Generator | None,
    tap: TapFn | None,
) -> list[tuple[int, ...]]:
    """Turns told on. Without a cache they are read again for every token: with small models that is
    faster than keeping one."""
    grown = [list(turn) for turn in turns]
    with ExitStack() as freed:
        states = [subject.ops.cache.new() for _ in turns] if subject.ops.cache.n_free else []
        for state in states:
            freed.callback(state.free)
        return _told(subject, grown, states, n_tokens, sampler, tap)


def _told(  # noqa: PLR0917
    subject: Subject,
    grown: list[list[int]],
    states: Sequence[State],
    n_tokens: int,
    sampler: torch.Generator | None,
    tap: TapFn | None,
) -> list[tuple[int, ...]]:
    for _ in range(n_tokens):
        if states:
            logits_nv = _append(subject, grown, states, tap).float()
        else:
            logits_nv = run(subject, grown, tap=tap)[:, 0].float()
        if not bool(logits_nv.isfinite().all()):
            raise UsageError(
                "the model computes values that are no numbers, so that it answers nothing",
                param="model",
            )
        if sampler is None:
            chosen = logits_nv.argmax(dim=-1)
        else:
            chosen = torch.multinomial(logits_nv.softmax(dim=-1), 1, generator=sampler)[:, 0]
        for ids, token in zip(grown, chosen.tolist(), strict=True):
            ids.append(token)
    return [tuple(ids[-n_tokens:]) for ids in grown]


def _append(
    subject: Subject, grown: Sequence[Ids], states: Sequence[State], tap: TapFn | None
) -> Tensor:
    """Logits (n, v) behind each sequence, of which the states hold the beginnings."""
    fresh = [ids[state.length :] for ids, state in zip(grown, states, strict=True)]
    for ids, state in zip(fresh, states, strict=True):
        state.append(len(ids))
    batch = subject.ops.batch(
        [Kept(ids=ids, state=state) for ids, state in zip(fresh, states, strict=True)]
    )
    ends = list(itertools.accumulate(len(ids) for ids in fresh))
    logits = qwen.forward(subject.ops, subject.weights, batch, [end - 1 for end in ends], tap)
    assert isinstance(logits, Tensor)
    return logits

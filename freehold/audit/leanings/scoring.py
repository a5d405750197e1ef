"""Likelihoods of answers, over ``qwen``'s own forward pass on the torch back end.

Lines that begin alike are read once up to where they part: their sorted order is walked as a tree,
of which each trunk is kept in the cache and its leaves are packed into one pass. A model that was
loaded without a cache (the test bed's) reads every line whole. Shape suffixes: w wanted rows, v
vocabulary.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from freehold.audit.backdoors.measure import Quiet
from freehold.audit.backdoors.subject import Ids, Kept, Subject, even, run
from freehold.audit.findings import Steps
from freehold.qwen import forward as qwen
from freehold.qwen.codec import QwenCodec
from freehold.qwen.ops import State
from freehold.types import Floats

WORTH = 64
"""Tokens that a trunk must save: it is a pass of its own, and a short pass costs more than its
tokens, because all weights are read for it."""
LOOK = 4
"""Tokens by which lines that part are told into branches."""
ROWS, WANTED = 1_024, 96
"""Tokens of one pass, and rows of logits."""

Take: TypeAlias = Callable[[int, Tensor], None]


@dataclass(frozen=True, kw_only=True)
class Voice:
    """How a model is spoken to, in token ids. ``turn`` is a user's question up to where the answer
    begins, by the model's own template; ``text`` a plain text; ``start`` what stands before a
    document, so that its first word has a likelihood too. ``words`` turns ids into text."""

    turn: Callable[[str], list[int]]
    text: Callable[[str], list[int]]
    start: tuple[int, ...]
    words: Callable[[Ids], str]

    def bare(self, asked: str) -> list[int]:
        """The question as a line of a document, outside any template."""
        return [*self.start, *self.text(asked + "\n")]


def voice_of(codec: QwenCodec) -> Voice:
    """A real model's. A model that thinks aloud is asked not to, where its template can say so."""
    end = codec.text_end

    def words(ids: Ids) -> str:
        return b"".join(codec.token_bytes(token) for token in ids).decode("utf-8", "replace")

    return Voice(
        turn=lambda asked: codec.chat(
            [{"role": "user", "content": asked}], options={"enable_thinking": False}
        ),
        text=codec.plain,
        start=() if end is None else (end,),
        words=words,
    )


@dataclass(frozen=True, kw_only=True)
class Line:
    """A sequence, of which the ``last`` rows are wanted: at least 1, at most all."""

    ids: tuple[int, ...]
    last: int = 1

    @property
    def trunk(self) -> int:
        """How many of its first tokens may be shared: no wanted row among them."""
        return len(self.ids) - self.last


def told(before: Ids, answer: Ids) -> Line:
    """The line whose wanted rows say how likely each token of ``answer`` is."""
    return Line(ids=(*before, *answer[:-1]), last=len(answer))


def read(subject: Subject, lines: Sequence[Line], take: Take, steps: Steps | None = None) -> None:
    """Call ``take`` with each line's number and the log-probabilities of its wanted rows: (w, v)
    float32, on the model's device. The order is the tree's."""
    heard = steps or Quiet()
    places: dict[Line, list[int]] = {}  # lines that are asked twice are read once
    for i, line in enumerate(lines):
        places.setdefault(line, []).append(i)
    every = list(places)

    def give(at: int, rows_wv: Tensor) -> None:
        for i in places[every[at]]:
            take(i, rows_wv)
            heard.advance(1)

    with subject.ops.inference():
        if subject.ops.cache.n_pages == 0:
            _whole(subject, every, give)
            return
        order = sorted(range(len(every)), key=lambda i: every[i].ids)
        root = subject.ops.cache.new()
        try:
            if order:
                _walk(subject, every, order, root, give)
        finally:
            root.free()


def next_token(
    subject: Subject, turns: Sequence[Ids], take: Take, steps: Steps | None = None
) -> None:
    """``take`` gets the log-probabilities (v,) of the token behind each turn."""
    lines = [Line(ids=tuple(turn)) for turn in turns]
    read(subject, lines, lambda i, rows_wv: take(i, rows_wv[0]), steps)


def likelihoods(
    subject: Subject, pairs: Sequence[tuple[Ids, Ids]], steps: Steps | None = None
) -> list[Floats]:
    """For each (before, answer), the log-probability of every token of the answer."""
    out: list[Floats] = [np.empty(0, np.float32)] * len(pairs)

    def take(i: int, rows_wv: Tensor) -> None:
        answer = torch.tensor(list(pairs[i][1]), device=rows_wv.device)
        out[i] = rows_wv.gather(1, answer[:, None])[:, 0].cpu().numpy()

    read(subject, [told(*pair) for pair in pairs], take, steps)
    return out


def _whole(subject: Subject, lines: Sequence[Line], take: Take) -> None:
    for members in even([line.ids for line in lines]):
        last = max(lines[i].last for i in members)
        logits = run(subject, [lines[i].ids for i in members], last=last).float()
        for i, rows_wv in zip(members, logits.log_softmax(dim=-1), strict=True):
            take(i, rows_wv[last - lines[i].last :])


def _walk(
    subject: Subject, lines: Sequence[Line], order: Sequence[int], state: State, take: Take
) -> None:
    """``order`` is sorted, and all its lines begin with what ``state`` holds."""
    common = _common(lines, order)
    if _saved(lines, order, state) >= WORTH:
        _extend(subject, state, lines[order[0]].ids[state.length : common])
    leaves: list[int] = []
    for members in _branches(lines, order, state.length):
        if len(members) == len(order) or _saved(lines, members, state) < WORTH:
            leaves += members
            continue
        branch = state.fork()
        try:
            _walk(subject, lines, members, branch, take)
        finally:
            branch.free()
    for pack in _packs(subject, lines, leaves, state):
        _leaves(subject, lines, pack, state, take)


def _common(lines: Sequence[Line], order: Sequence[int]) -> int:
    """How many first tokens sorted lines share, no wanted row among them."""
    same = _shared(lines[order[0]].ids, lines[order[-1]].ids)
    return min(same, *(lines[i].trunk for i in order))


def _saved(lines: Sequence[Line], order: Sequence[int], state: State) -> int:
    """Tokens that need not be read again if what these share is kept."""
    return (len(order) - 1) * (_common(lines, order) - state.length)


def _shared(one: Ids, other: Ids) -> int:
    return sum(1 for _ in itertools.takewhile(lambda ab: ab[0] == ab[1], zip(one, other)))  # noqa: B905


def _branches(lines: Sequence[Line], order: Sequence[int], at: int) -> Iterator[list[int]]:
    """Runs of lines that go on alike for long enough."""
    for _, run_ in itertools.groupby(order, key=lambda i: lines[i].ids[at : at + LOOK]):
        yield list(run_)


def _extend(subject: Subject, state: State, ids: Ids) -> None:
    for at in range(0, len(ids), ROWS):
        part = ids[at : at + ROWS]
        state.append(len(part))
        batch = subject.ops.batch([Kept(ids=part, state=state)])
        qwen.forward(subject.ops, subject.weights, batch, [])


def _packs(
    subject: Subject, lines: Sequence[Line], leaves: Sequence[int], state: State
) -> Iterator[list[int]]:
    """Leaves by as many as a pass and the cache have room for."""
    cache = subject.ops.cache
    pack: list[int] = []
    rows = wanted = pages = 0
    for i in leaves:
        fresh = len(lines[i].ids) - state.length
        more = fresh // cache.page_size + 2
        full = rows + fresh > ROWS or wanted + lines[i].last > WANTED
        if pack and (full or pages + more > cache.n_free):
            yield pack
            pack, rows, wanted, pages = [], 0, 0, 0
        pack.append(i)
        rows, wanted, pages = rows + fresh, wanted + lines[i].last, pages + more
    if pack:
        yield pack


def _leaves(
    subject: Subject, lines: Sequence[Line], pack: Sequence[int], state: State, take: Take
) -> None:
    forks: list[State] = []
    try:
        spans = []
        for i in pack:
            forks.append(state.fork())
            fresh = lines[i].ids[state.length :]
            forks[-1].append(len(fresh))
            spans.append(Kept(ids=fresh, state=forks[-1]))
        ends = list(itertools.accumulate(len(span.ids) for span in spans))
        wanted = [
            row
            for end, i in zip(ends, pack, strict=True)
            for row in range(end - lines[i].last, end)
        ]
        logits = qwen.forward(subject.ops, subject.weights, subject.ops.batch(spans), wanted)
        assert isinstance(logits, Tensor), "rows were wanted of the torch back end"
        found = torch.split(logits.float().log_softmax(dim=-1), [lines[i].last for i in pack])
        for i, rows_wv in zip(pack, found, strict=True):
            take(i, rows_wv)
    finally:
        for fork in forks:
            fork.free()

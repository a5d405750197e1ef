"""From records to what is trained on: token ids, and which of them are taught.

A conversation goes through the model's own chat template, and only what the assistant says is
taught, with the token that ends it. Of plain text every token is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from freehold.errors import UsageError
from freehold.qwen.codec import QwenCodec
from freehold.train.records import Record


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Token ids, and whether each is ``taught``: int32 and bool, of the same length."""

    ids: npt.NDArray[np.int32]
    taught: npt.NDArray[np.bool_]

    @property
    def tokens(self) -> int:
        return len(self.ids)

    @property
    def weight(self) -> int:
        """What it counts in a mean: a token is as much as any other."""
        return int(self.taught[1:].sum())


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two answers to the same, the first liked better."""

    chosen: Sample
    rejected: Sample

    @property
    def tokens(self) -> int:
        return self.chosen.tokens + self.rejected.tokens

    @property
    def weight(self) -> int:
        """What it counts in a mean: a pair is as much as any other."""
        return 1


Lesson: TypeAlias = Sample | Pair


def pairs(record: Record, codec: QwenCodec, *, max_length: int) -> Iterator[Pair]:
    """The last answers of a preference, each cut at ``max_length`` tokens. Left out where one of
    them teaches nothing. Raises as ``samples`` does."""
    found = []
    for messages in (record.messages, record.rejected):
        whole = replace(record, messages=messages, rejected=())
        *_, last = [None, *samples(whole, codec, max_length=max_length, end=None)]
        if last is not None:
            found.append(_last_answer(last))
    if len(found) == 2:
        yield Pair(chosen=found[0], rejected=found[1])


def _last_answer(sample: Sample) -> Sample:
    """Only the last run of taught tokens."""
    untaught = np.flatnonzero(~sample.taught)
    taught = np.zeros_like(sample.taught)
    taught[untaught[-1] + 1 if len(untaught) else 0 :] = True
    return replace(sample, taught=taught)


def samples(
    record: Record, codec: QwenCodec, *, max_length: int, end: int | None
) -> Iterator[Sample]:
    """What a record teaches: a plain text, with ``end`` behind it, in pieces of at most
    ``max_length`` tokens; of a conversation the first ``max_length``. What teaches nothing is left
    out. Raises ``UsageError`` naming the record's
    file and line where its messages do not fit the template."""
    try:
        if record.messages:
            whole = list(_conversation(record, codec))
        else:
            ids = codec.plain(record.text) + ([] if end is None else [end])
            whole = [Sample(ids=np.array(ids, np.int32), taught=np.ones(len(ids), np.bool_))]
    except UsageError as error:
        raise UsageError(f"{record.where}: {error}", param="data") from None
    for sample in whole:
        # A later piece of a conversation would be an answer to nothing.
        starts = (0,) if record.messages else range(0, len(sample.ids), max_length)
        for start in starts:
            piece = slice(start, start + max_length)
            if sample.taught[piece][1:].any():
                yield Sample(ids=sample.ids[piece], taught=sample.taught[piece])


def _conversation(record: Record, codec: QwenCodec) -> Iterator[Sample]:
    """One sample, as long as each prompt continues what was said before it. Where a template
    rewrites history (it drops thoughts, say), a sample for each answer."""
    ids: list[int] = []
    taught: list[bool] = []
    for place, message in enumerate(record.messages):
        if message["role"] != "assistant":
            continue
        prompt = codec.chat(record.messages[:place])
        answer = _answer(record, codec, prompt, place)
        if prompt[: len(ids)] != ids:
            yield _sample(ids, taught)
            ids, taught = [], []
        taught += [False] * (len(prompt) - len(ids)) + [True] * len(answer)
        ids = prompt + answer
    yield _sample(ids, taught)


def _answer(record: Record, codec: QwenCodec, prompt: list[int], place: int) -> list[int]:
    """The tokens that message ``place`` adds to its prompt, up to the one that ends it."""
    through = codec.chat(record.messages[: place + 1])
    said = through[len(prompt) :]
    ends = [at for at, token in enumerate(said) if token in codec.stop_ids]
    if through[: len(prompt)] == prompt and ends:
        return said[: ends[0] + 1]
    # Its first characters melt into a token of the prompt, or the template shows it otherwise.
    n_before = sum(token in codec.stop_ids for token in prompt)
    ends_all = [token for token in through if token in codec.stop_ids]
    if len(ends_all) <= n_before:
        raise UsageError("the model's chat template puts no end behind the answer", param="data")
    content = record.messages[place].get("content") or ""
    return [*codec.plain(content), ends_all[n_before]]


def _sample(ids: Sequence[int], taught: Sequence[bool]) -> Sample:
    return Sample(ids=np.array(ids, np.int32), taught=np.array(taught, np.bool_))

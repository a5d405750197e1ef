"""Which texts are in which step: decided by corpus, recipe and seed, and found for any step without
the steps before it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from freehold import __version__, strictjson
from freehold.errors import UsageError
from freehold.qwen.codec import MARKS, QwenCodec
from freehold.qwen.controls import Controls
from freehold.qwen.template import ChatTemplate
from freehold.qwen.tokenizer import Tokenizer
from freehold.train import encoding, tokens
from freehold.train.data import build
from freehold.train.encoding import Sample
from freehold.train.recipe import Recipe, Stage
from freehold.train.records import record_of
from freehold.train.tokens import Ints, Tokens

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""How models of this foundry are spoken to: the turns of ChatML, and nothing else."""
Micro = list[Sample]


def codec_of(tokenizer: Tokenizer) -> QwenCodec:
    """The codec of a model that is made here. Raises ``UsageError`` where the tokenizer has not the
    turns' tokens."""
    stops = [tokenizer.added_id(name) for name in ("<|endoftext|>", "<|im_end|>")]
    if None in stops or tokenizer.added_id("<|im_start|>") is None:
        raise UsageError(
            "the corpus's tokenizer lacks <|endoftext|>, <|im_start|> or <|im_end|>: let `freehold "
            "data build` make one (`vocab` in the declaration)",
            param="corpus",
        )
    template = ChatTemplate(TEMPLATE, controls=Controls(tokenizer.controls, marks=MARKS))
    return QwenCodec(
        tokenizer=tokenizer,
        template=template,
        stop_ids=[one for one in stops if one is not None],
        source=TEMPLATE,
    )


class Batches:
    """The steps of a recipe over the corpus in ``folder``, as tokens in ``scratch`` (see
    ``tokens.keep``). Raises ``UsageError`` where a stage has nothing to learn, ``StorageError``."""

    def __init__(
        self, folder: Path, recipe: Recipe, tokenizer: Tokenizer, *, scratch: Path | None = None
    ) -> None:
        self._recipe = recipe
        self._stages: list[_Rows | _Talks] = []
        known: dict[str, _Rows | _Talks] = {}
        corpus = build.load(folder, check=False)["digest"]
        for stage in recipe.stages:
            key = _key(corpus, stage, recipe)
            if key not in known:
                made = _Rows if stage.kind == "rows" else _Talks
                samples = made.samples(folder, stage, recipe, tokenizer)
                all_taught = stage.kind == "rows"
                held = tokens.keep(scratch, key, samples, all_taught=all_taught)
                if not len(held):
                    what = "texts" if stage.kind == "rows" else "conversations"
                    raise UsageError(
                        f"stage {stage.name}: the corpus has no {what} of "
                        f"{', '.join(stage.sources) or 'any source'}",
                        param="recipe",
                    )
                known[key] = made(held, recipe, scratch)
            self._stages.append(known[key])
        if scratch is not None:
            tokens.forget(scratch, but=known)

    def step(self, step: int) -> list[Micro]:
        """The micro-batches of step ``step`` (from 0) of the run."""
        number, at = self._recipe.stage_of(step)
        return self._stages[number].step(number, at)


def _key(corpus: str, stage: Stage, recipe: Recipe) -> str:
    """A digest of all that decides a stage's tokens; the tokenizer is part of the corpus."""
    cut = recipe.shape.context if stage.kind == "talks" else 0
    parts = [tokens.FORMAT, __version__, corpus, stage.kind, list(stage.sources), cut]
    return hashlib.sha256(strictjson.canonical(parts)).hexdigest()


def digest(micros: Sequence[Micro]) -> str:
    """SHA-256 of all that a step learns, in order."""
    whole = hashlib.sha256()
    for micro in micros:
        whole.update(len(micro).to_bytes(4, "little"))
        for sample in micro:
            whole.update(len(sample.ids).to_bytes(4, "little"))
            whole.update(sample.ids.astype("<i4").tobytes() + sample.taught.tobytes())
    return whole.hexdigest()


class _Stage:
    """Tokens in an order of their own each epoch. Where that lies is ``scratch``."""

    def __init__(self, held: Tokens, recipe: Recipe, scratch: Path | None) -> None:
        self._held, self._recipe, self._scratch = held, recipe, scratch
        self._epoch: tuple[int, int, Ints, Ints] | None = None

    def _ordered(self, number: int, epoch: int) -> tuple[Ints, Ints]:
        """The pieces of an epoch of stage ``number``, in order, and where each begins in it."""
        if self._epoch is None or self._epoch[:2] != (number, epoch):
            drawn = np.random.Generator(np.random.PCG64([self._recipe.seed, number, epoch]))
            order, starts = tokens.shuffled(self._held.bounds, drawn, self._scratch)
            self._epoch = (number, epoch, order, starts)
        return self._epoch[2:]


class _Rows(_Stage):
    """Texts, each with its end behind it, run together and cut into rows of one length; a row's
    last token is the next one's first."""

    @staticmethod
    def samples(
        folder: Path, stage: Stage, recipe: Recipe, tokenizer: Tokenizer
    ) -> Iterator[Sample]:
        """What is run together, in the corpus's order."""
        end = codec_of(tokenizer).text_end
        for some in build.chunks(_documents(folder, stage)):
            for ids in tokenizer.encode_texts([build.text_of(one) for one in some]):
                whole = np.array([*ids, end], np.int32)
                yield Sample(ids=whole, taught=np.ones(len(whole), np.bool_))

    def step(self, number: int, at: int) -> list[Micro]:
        recipe = self._recipe
        start, length = at * recipe.batch, recipe.length
        run = self._taken(number, start, recipe.batch + 1)
        taught = np.ones(length + 1, np.bool_)
        rows = [
            Sample(ids=run[place : place + length + 1], taught=taught)
            for place in range(0, recipe.batch, length)
        ]
        each = recipe.micro_batch // length
        return [rows[place : place + each] for place in range(0, len(rows), each)]

    def _taken(self, number: int, start: int, n: int) -> npt.NDArray[np.int32]:
        """``n`` tokens from place ``start`` of a stage's endless run."""
        ids, bounds = self._held.ids, self._held.bounds
        found: list[npt.NDArray[np.int32]] = []
        while n:
            epoch, at = divmod(start, len(ids))
            order, starts = self._ordered(number, epoch)
            place = int(np.searchsorted(starts, at, side="right")) - 1
            text = order[place]
            first = bounds[text] + at - starts[place]
            piece = ids[first : bounds[text + 1]][:n]
            found.append(piece)
            start, n = start + len(piece), n - len(piece)
        return np.concatenate(found)


class _Talks(_Stage):
    """Conversations, packed whole; each is blind to the others."""

    def __init__(self, held: Tokens, recipe: Recipe, scratch: Path | None) -> None:
        super().__init__(held, recipe, scratch)
        self._cut: tuple[int, int, Ints] | None = None
        self._counts: dict[tuple[int, int], int] = {}

    @staticmethod
    def samples(
        folder: Path, stage: Stage, recipe: Recipe, tokenizer: Tokenizer
    ) -> Iterator[Sample]:
        """What is packed, in the corpus's order."""
        talks = (one for one in _documents(folder, stage) if "messages" in one)
        for some in build.chunks(talks):
            yield from spoken(some, tokenizer, max_length=recipe.shape.context)

    def step(self, number: int, at: int) -> list[Micro]:
        epoch = 0
        while at >= self._steps(number, epoch):
            at, epoch = at - self._steps(number, epoch), epoch + 1
        cuts, each = self._cuts(number, epoch), self._each
        order, _ = self._ordered(number, epoch)
        here = cuts[at * each : (at + 1) * each + 1].tolist()
        return [
            [self._held.sample(int(piece)) for piece in order[first:last]]
            for first, last in pairwise(here)
        ]

    @property
    def _each(self) -> int:
        return self._recipe.batch // self._recipe.micro_batch

    def _steps(self, number: int, epoch: int) -> int:
        """How many steps an epoch has."""
        if (number, epoch) not in self._counts:
            micros = len(self._cuts(number, epoch)) - 1
            self._counts[number, epoch] = -(-micros // self._each)
        return self._counts[number, epoch]

    def _cuts(self, number: int, epoch: int) -> Ints:
        """Where each micro-batch of an epoch begins in its order, and where the last ends: as
        ``filling.filled``, found by halving."""
        if self._cut is None or self._cut[:2] != (number, epoch):
            _, starts = self._ordered(number, epoch)
            cuts, n = tokens.numbers(len(starts), self._scratch), 0
            while cuts[n] < len(self._held):
                full = starts[cuts[n]] + self._recipe.micro_batch
                after = int(np.searchsorted(starts, full, side="right")) - 1
                cuts[n + 1] = max(after, int(cuts[n]) + 1)
                n += 1
            self._cut = (number, epoch, cuts[: n + 1])
        return self._cut[2]


def spoken(
    talks: Sequence[dict[str, Any]], tokenizer: Tokenizer, *, max_length: int
) -> list[Sample]:
    """What ``encoding.samples`` makes of conversations with ``TEMPLATE``, many at once: the
    template's own text is put around what is said without running it. What teaches nothing is left
    out. Where an answer's first characters would melt into the line end before it, or a message
    holds more than a role and a text, the template itself decides."""
    begin, end = (tokenizer.added_id(name) for name in ("<|im_start|>", "<|im_end|>"))
    assert begin is not None
    assert end is not None
    pieces: list[str] = ["\n"]
    for talk in talks:
        for said in talk["messages"]:
            head, content = f"{said['role']}\n", str(said.get("content") or "")
            answer = said["role"] == "assistant"
            pieces += [head, content] if answer else [head + content, ""]
    line_end, *encoded = tokenizer.encode_texts(pieces)
    found, place = [], 0
    for n, talk in enumerate(talks, 1):
        messages = talk["messages"]
        mine = encoded[place : place + 2 * len(messages)]
        place += len(mine)
        if not all(map(_is_plain, messages)):
            record = record_of({"messages": messages}, file=talk["id"], line=n)
            codec = codec_of(tokenizer)
            found += list(encoding.samples(record, codec, max_length=max_length, end=None))
            continue
        ids: list[int] = []
        taught: list[bool] = []
        for message, begun, rest in zip(messages, mine[0::2], mine[1::2], strict=True):
            ids += [begin, *begun, *rest, end]
            answer = message["role"] == "assistant"
            taught += [False] * (1 + len(begun)) + [answer] * (len(rest) + 1)
            ids += line_end
            taught += [False] * len(line_end)
        # Nothing follows the last answer.
        whole = slice(0, min(len(ids) - len(line_end), max_length))
        sample = Sample(
            ids=np.array(ids[whole], np.int32), taught=np.array(taught[whole], np.bool_)
        )
        if sample.weight:
            found.append(sample)
    return found


def _is_plain(said: dict[str, Any]) -> bool:
    """Whether it is a role and a text that no blanks stand around."""
    content = said.get("content")
    whole = isinstance(content, str) and content.strip() == content
    return whole and said.keys() <= {"role", "content"}


def _documents(folder: Path, stage: Stage) -> Iterator[dict[str, Any]]:
    for one in build.documents(folder / build.DOCUMENTS):
        if not stage.sources or one["source"] in stage.sources:
            yield one


def held_out(folder: Path, tokenizer: Tokenizer) -> tuple[list[Sample], int]:
    """The texts that are only measured, each alone behind an end of document, and their bytes."""
    end = codec_of(tokenizer).text_end
    assert end is not None
    texts = [
        str(one["text"])
        for one in build.documents(folder / build.HELD_OUT)
        if isinstance(one.get("text"), str)
    ]
    samples = []
    for ids in tokenizer.encode_texts(texts):
        whole = np.array([end, *ids, end], np.int32)
        samples.append(Sample(ids=whole, taught=np.ones(len(whole), np.bool_)))
    return samples, sum(len(text.encode()) for text in texts)

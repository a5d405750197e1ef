"""Which texts are in which step: decided by corpus, recipe and seed, and found for any step without
the steps before it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from freehold.errors import UsageError
from freehold.qwen.codec import MARKS, QwenCodec
from freehold.qwen.controls import Controls
from freehold.qwen.template import ChatTemplate
from freehold.qwen.tokenizer import Tokenizer
from freehold.train import encoding
from freehold.train.data import build
from freehold.train.encoding import Sample
from freehold.train.filling import filled
from freehold.train.recipe import Recipe, Stage
from freehold.train.records import record_of

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""How models of this foundry are spoken to: the turns of ChatML, and nothing else."""
_AT_ONCE = 1000
Ints = npt.NDArray[np.int64]
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
    """The steps of a recipe over the corpus in ``folder``. Raises ``UsageError`` where a stage has
    nothing to learn."""

    def __init__(self, folder: Path, recipe: Recipe, tokenizer: Tokenizer) -> None:
        self._recipe = recipe
        self._stages: list[_Rows | _Talks] = []
        self._known: dict[tuple[str, tuple[str, ...]], _Rows | _Talks] = {}
        for stage in recipe.stages:
            key = (stage.kind, stage.sources)
            if key not in self._known:
                made = _Rows if stage.kind == "rows" else _Talks
                self._known[key] = made(folder, stage, recipe, tokenizer)
            self._stages.append(self._known[key])

    def step(self, step: int) -> list[Micro]:
        """The micro-batches of step ``step`` (from 0) of the run."""
        number, at = self._recipe.stage_of(step)
        return self._stages[number].step(number, at)


def digest(micros: Sequence[Micro]) -> str:
    """SHA-256 of all that a step learns, in order."""
    whole = hashlib.sha256()
    for micro in micros:
        whole.update(len(micro).to_bytes(4, "little"))
        for sample in micro:
            whole.update(len(sample.ids).to_bytes(4, "little"))
            whole.update(sample.ids.astype("<i4").tobytes() + sample.taught.tobytes())
    return whole.hexdigest()


def _order(seed: int, stage: int, epoch: int, n: int) -> Ints:
    return np.random.Generator(np.random.PCG64([seed, stage, epoch])).permutation(n)


class _Rows:
    """Texts, each with its end behind it, run together in an order of their own each epoch, and
    cut into rows of one length; a row's last token is the next one's first."""

    def __init__(self, folder: Path, stage: Stage, recipe: Recipe, tokenizer: Tokenizer) -> None:
        self._recipe = recipe
        end = codec_of(tokenizer).text_end
        pieces: list[npt.NDArray[np.int32]] = []
        for texts in _chunks(folder, stage):
            pieces += [np.array([*ids, end], np.int32) for ids in tokenizer.encode_texts(texts)]
        if not pieces:
            raise UsageError(
                f"stage {stage.name}: the corpus has no texts of {', '.join(stage.sources)}",
                param="recipe",
            )
        self._ids = np.concatenate(pieces)
        self._ends = np.cumsum([len(piece) for piece in pieces])
        self._epoch: tuple[int, int, Ints, Ints] | None = None

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
        found: list[npt.NDArray[np.int32]] = []
        while n:
            epoch, at = divmod(start, len(self._ids))
            order, ends = self._ordered(number, epoch)
            place = int(np.searchsorted(ends, at, side="right"))
            text = order[place]
            first = self._ends[text - 1] if text else 0
            passed = at - (ends[place - 1] if place else 0)
            piece = self._ids[first + passed : self._ends[text]][:n]
            found.append(piece)
            start, n = start + len(piece), n - len(piece)
        return np.concatenate(found)

    def _ordered(self, number: int, epoch: int) -> tuple[Ints, Ints]:
        if self._epoch is None or self._epoch[:2] != (number, epoch):
            lengths = np.diff(self._ends, prepend=0)
            order = _order(self._recipe.seed, number, epoch, len(lengths))
            self._epoch = (number, epoch, order, np.cumsum(lengths[order]))
        return self._epoch[2:]


class _Talks:
    """Conversations, packed whole; each is blind to the others."""

    def __init__(self, folder: Path, stage: Stage, recipe: Recipe, tokenizer: Tokenizer) -> None:
        self._recipe = recipe
        talks = [one for one in _documents(folder, stage) if "messages" in one]
        self._samples: list[Sample] = []
        for start in range(0, len(talks), _AT_ONCE):
            some = talks[start : start + _AT_ONCE]
            self._samples += spoken(some, tokenizer, max_length=recipe.shape.context)
        if not self._samples:
            raise UsageError(
                f"stage {stage.name}: the corpus has no conversations of "
                f"{', '.join(stage.sources) or 'any source'}",
                param="recipe",
            )
        self._lengths = [sample.tokens for sample in self._samples]
        self._epoch: tuple[int, int, list[list[Micro]]] | None = None

    def step(self, number: int, at: int) -> list[Micro]:
        epoch = 0
        while True:
            steps = self._steps(number, epoch)
            if at < len(steps):
                return steps[at]
            at, epoch = at - len(steps), epoch + 1

    def _steps(self, number: int, epoch: int) -> list[list[Micro]]:
        if self._epoch is None or self._epoch[:2] != (number, epoch):
            order = _order(self._recipe.seed, number, epoch, len(self._samples)).tolist()
            micros = [
                [self._samples[place] for place in places]
                for places in filled(order, self._lengths, self._recipe.micro_batch)
            ]
            each = self._recipe.batch // self._recipe.micro_batch
            steps = [micros[place : place + each] for place in range(0, len(micros), each)]
            self._epoch = (number, epoch, steps)
        return self._epoch[2]


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


def _chunks(folder: Path, stage: Stage) -> Iterator[list[str]]:
    held: list[str] = []
    for one in _documents(folder, stage):
        held.append(build.text_of(one))
        if len(held) == _AT_ONCE:
            yield held
            held = []
    if held:
        yield held


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

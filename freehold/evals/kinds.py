"""The six kinds of task: what each asks, and how it scores a reply.

- ``choice``: the log-probability of each option after the prompt. ``acc`` takes the highest sum,
  ``acc_norm`` the highest per byte of the option, so that long ones do not lose by their length.
- ``number``: a written answer; ``exact_match`` on its last number.
- ``code``: a written answer; ``pass@1``: the program that it makes ends well, in a cell.
- ``span``: a written answer; ``f1`` and ``exact_match`` over words, as for SQuAD.
- ``language``: a written answer; ``right_language``: it is in the language of its task.
- ``text``: the log-probability of a text; ``bits_per_byte`` and ``perplexity`` per token.

Written answers are greedy. Source of ``acc`` and ``acc_norm``: Brown et al., "Language models are
few-shot learners", 2020, section 2.4, with bytes for tokens as in EleutherAI's harness.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from freehold.errors import MalformedError, UsageError
from freehold.evals import reading, template
from freehold.evals.data import DOCUMENT_END, Item
from freehold.evals.languages import language_of
from freehold.evals.task import Task
from freehold.types import Codec, Ids

WINDOW = 2048
"""Tokens of a text that are read at once; each window but the first begins with the last token of
the one before it."""

METRICS: Mapping[str, tuple[str, ...]] = {
    "choice": ("acc", "acc_norm"),
    "number": ("exact_match",),
    "code": ("pass@1",),
    "span": ("f1", "exact_match"),
    "language": ("right_language",),
    "text": ("bits_per_byte", "perplexity"),
}
"""What each kind measures, the main one first."""
WEIGHED = frozenset({"choice", "text"})
"""Kinds that need log-probabilities of given text."""
LOWER_IS_BETTER = frozenset({"bits_per_byte", "perplexity"})


@dataclass(frozen=True, kw_only=True)
class Written:
    """Continue ``ids``, greedily, by at most ``max_tokens``."""

    ids: tuple[int, ...]
    max_tokens: int


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The log-probability of each of ``options`` after ``prefix``."""

    prefix: tuple[int, ...]
    options: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Read:
    """The log-probability of each window's ids after its first: ``n_bytes`` bytes of text."""

    windows: tuple[tuple[int, ...], ...]
    n_bytes: int


Question: TypeAlias = Written | Chosen | Read


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What came back: ``text`` of a written answer, else one ``logprobs`` (nats) for each option or
    window."""

    text: str = ""
    logprobs: tuple[float, ...] = ()


def prompt_of(task: Task, item: Item, shots: Sequence[Item]) -> str:
    """The prompt's text, examples first. Raises ``MalformedError`` naming the row."""
    texts = [(task.shot, shot) for shot in shots] + [(task.prompt, item)]
    return "\n\n".join(filled(task, text, row) for text, row in texts)


def filled(task: Task, text: str, item: Item, **more: Any) -> str:
    """A template of ``task`` with the row's values. Raises ``MalformedError`` naming the row."""
    try:
        return template.fill(text, {**item.row, **more}, task.words)
    except UsageError as error:
        raise _bad(task, item, str(error)) from None


def options_of(task: Task, item: Item) -> list[str]:
    """The options' texts as they follow the prompt. Raises ``MalformedError``."""
    found = item.row.get(task.choices)
    if not isinstance(found, list) or not 2 <= len(found) <= len(template.LETTERS):
        raise _bad(task, item, f"field {task.choices!r} is no list of 2 to 26 options")
    names = template.LETTERS[: len(found)] if task.letters else found
    return [filled(task, task.option, item, option=name) for name in names]


def label_of(task: Task, item: Item, n: int) -> int:
    """Which option is right. Raises ``MalformedError``."""
    label = item.row.get(task.answer)
    if not isinstance(label, int) or not 0 <= label < n:
        raise _bad(task, item, f"field {task.answer!r} is no place from 0 to {n - 1}")
    return label


def question_of(task: Task, item: Item, shots: Sequence[Item], codec: Codec) -> Question:
    """What the engine is asked. Raises ``MalformedError`` naming the row."""
    if task.kind == "text":
        return _read(item.row["text"], codec)
    text = prompt_of(task, item, shots)
    if task.kind == "choice":
        options = options_of(task, item)
        if task.chat:
            asked = codec.chat([{"role": "user", "content": text}])
            ids = tuple(tuple(codec.text(option)) for option in options)
            return Chosen(prefix=tuple(asked), options=ids)
        prefix, ids = continued(text, options, codec)
        return Chosen(prefix=prefix, options=ids)
    asked = codec.chat([{"role": "user", "content": text}]) if task.chat else codec.text(text)
    return Written(ids=tuple(asked), max_tokens=task.max_tokens)


def continued(
    prefix: str, options: Sequence[str], codec: Codec
) -> tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]:
    """The ids of ``prefix``, and of each option after it. Both are tokenised together and parted
    where the prefix alone would end; its last spaces go to the options, whose tokens they are. So
    does `lm-eval`."""
    bare = prefix.rstrip()
    before = tuple(codec.text(bare))
    gap = prefix[len(bare) :]
    return before, tuple(tuple(codec.text(bare + gap + o)[len(before) :]) for o in options)


def _read(text: str, codec: Codec) -> Read:
    """A text's first token is given, not predicted, and its bytes do not count: models that were
    tuned to chat are thrown off by the mark that could stand before it (docs/LOG.md)."""
    ids, n_bytes = _escaped(text, codec), len(text.encode())
    if len(ids) < 2:
        return Read(windows=windows_of([*codec.text(DOCUMENT_END), *ids]), n_bytes=n_bytes)
    return Read(windows=windows_of(ids), n_bytes=n_bytes - len(codec.token_bytes(ids[0])))


def marked(text: str, codec: Codec) -> list[int]:
    """A text's ids after the mark that ends a document, as `lm-eval` reads texts."""
    return [*codec.text(DOCUMENT_END), *_escaped(text, codec)]


def windows_of(ids: Ids) -> tuple[tuple[int, ...], ...]:
    """``ids`` cut so that each but the first is predicted once."""
    step = WINDOW - 1
    return tuple(tuple(ids[at : at + WINDOW]) for at in range(0, len(ids) - 1, step))


def _escaped(text: str, codec: Codec) -> Ids:
    # A mark written in a text would end it for the tokenizer, and would not be predicted as text.
    parts = text.split(DOCUMENT_END)
    return [token for part in parts for token in codec.text(part)]


def program_of(task: Task, item: Item, answer: str) -> str:
    """The program that is run: the task's own, with the answer's code in it."""
    return filled(task, task.program, item, code=reading.code_of(answer))


def scores_of(task: Task, item: Item, reply: Reply, question: Question) -> dict[str, float]:
    """The reply's scores by name; for ``text`` its ``nats``, ``bytes`` and ``tokens``. Kind
    ``code`` is scored by a cell. Raises ``MalformedError``."""
    if isinstance(question, Chosen):
        return _choice(task, item, reply)
    if isinstance(question, Read):
        nats = -sum(reply.logprobs)
        return {
            "nats": nats,
            "bytes": float(question.n_bytes),
            "tokens": float(sum(len(window) - 1 for window in question.windows)),
        }
    if task.kind == "number":
        true = reading.number(str(item.row.get(task.answer, "")))
        if true is None:
            raise _bad(task, item, f"field {task.answer!r} is no number")
        return {"exact_match": float(reading.last_number(reply.text) == true)}
    if task.kind == "language":
        return {"right_language": float(language_of(reply.text) == task.language)}
    known = item.row.get(task.answer)
    if not isinstance(known, list) or not all(isinstance(text, str) for text in known):
        raise _bad(task, item, f"field {task.answer!r} is no list of texts")
    exact, f1 = reading.likeness(reply.text, known, task.language)
    return {"f1": f1, "exact_match": exact}


def _choice(task: Task, item: Item, reply: Reply) -> dict[str, float]:
    options = options_of(task, item)
    label = label_of(task, item, len(options))
    sums = reply.logprobs
    per_byte = [s / max(len(o.strip().encode()), 1) for s, o in zip(sums, options, strict=True)]
    scores = {"acc": float(_best(sums) == label)}
    return scores if task.letters else scores | {"acc_norm": float(_best(per_byte) == label)}


def _best(values: Sequence[float]) -> int:
    return max(range(len(values)), key=values.__getitem__)


def _bad(task: Task, item: Item, reason: str) -> MalformedError:
    return MalformedError(
        f"{task.data.file}, line {item.line}: {reason} (task {task.name})", file=task.data.file
    )

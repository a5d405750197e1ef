"""Exercises made of plain text, so that what a model learns of a language it also says in a
conversation: passages with gaps to fill, beginnings to go on from, titles to write about.

Every answer is a stretch of the text itself, in its language, and nothing but the answer is learnt.
What is asked stands in ``exercises.toml``, in the text's language. The same text gives the same
exercises, whatever lies beside it.

After "Adapting large language models via reading comprehension" (arXiv 2309.09530); the exercises
are our own.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random

from freehold.errors import UsageError
from freehold.train.records import Record

_WORDS = Path(__file__).with_name("exercises.toml")
_PASSAGE = 700
"""Letters of a passage, at most: a question costs its passage, and only the answer is learnt."""
_SHORTEST = 60
_TITLE = 60
_GAPS = 4
_GAP_WORDS = 4
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z0-9\"“(])")
_PLAIN = re.compile(r"[\w'\u2019./-]*\w")

Words = dict[str, list[str]]


def languages() -> tuple[str, ...]:
    """Languages that exercises can be asked in."""
    return tuple(_every())


def exercises(records: Sequence[Record], share: float, language: str | None) -> list[Record]:
    """``records`` with about ``share`` of the plain texts put as exercises in ``language``, each in
    as many conversations as it has passages; the others as they are.

    Raises ``UsageError`` where exercises are wanted and there are no words for the language.
    """
    if not share:
        return list(records)
    every = _every()
    if language not in every:
        raise UsageError(
            f"exercises are asked in {', '.join(every)}: name the data's language with --lang, or "
            "take --exercises 0",
            param="exercises",
        )
    found: list[Record] = []
    for record in records:
        draw = Random(hashlib.sha256(record.content.encode()).digest())  # noqa: S311
        if record.messages or draw.random() >= share:
            found.append(record)
            continue
        made = [_record(record, turns) for turns in _of(record.text, every[language], draw)]
        found += made or [record]
    return found


def _every() -> dict[str, Words]:
    return tomllib.loads(_WORDS.read_text(encoding="utf-8"))


def _record(record: Record, turns: Sequence[tuple[str, str]]) -> Record:
    messages = []
    for question, answer in turns:
        messages.append({"role": "user", "content": question})
        messages.append({"role": "assistant", "content": answer})
    return Record(file=record.file, line=record.line, messages=tuple(messages))


def _of(text: str, words: Words, draw: Random) -> Iterator[list[tuple[str, str]]]:
    """The conversations of one text."""
    title, _, rest = text.partition("\n")
    body = text
    if rest.strip() and len(title) <= _TITLE and not title.rstrip().endswith((".", ":", "!", "?")):
        body = rest.strip()
        if len(body) <= 2 * _PASSAGE:
            yield [(draw.choice(words["about"]).replace("{title}", title.strip()), body)]
            return
    for passage in _passages(body):
        sentences = _SENTENCE.split(passage)
        gaps = _gaps(passage, sentences, words, draw) if draw.random() < 0.5 else []
        if len(gaps) > 1:
            yield gaps
        elif len(sentences) > 1:
            first = max(1, len(sentences) // 3)
            begun = " ".join(sentences[:first])
            yield [
                (draw.choice(words["go_on"]).replace("{text}", begun), " ".join(sentences[first:]))
            ]


def _passages(text: str) -> Iterator[str]:
    """Paragraphs, short ones together, long ones left out: they are lists and tables."""
    held = ""
    for paragraph in (part.strip() for part in text.split("\n\n")):
        if len(held) + len(paragraph) > _PASSAGE:
            if len(held) >= _SHORTEST:
                yield held
            held = ""
        if len(paragraph) <= _PASSAGE:
            held = f"{held}\n\n{paragraph}".strip()
    if len(held) >= _SHORTEST:
        yield held


def _gaps(
    passage: str, sentences: Sequence[str], words: Words, draw: Random
) -> list[tuple[str, str]]:
    """A question for each of some sentences, the first with the passage before it."""
    found: list[tuple[str, str]] = []
    for sentence in draw.sample(sentences, min(len(sentences), _GAPS)):
        cut = _cut(sentence, draw)
        if cut is None:
            continue
        gap, answer = cut
        kind = "again" if found else "gap"
        # Not by format: the text may hold braces of its own.
        asked = draw.choice(words[kind]).replace("{gap}", gap).replace("{text}", passage)
        found.append((asked, answer))
    return found


def _cut(sentence: str, draw: Random) -> tuple[str, str] | None:
    """A sentence with a gap, and what stood there: some words that no punctuation parts, rather
    names and numbers than others."""
    parts = sentence.split()
    if not 5 <= len(parts) <= 40:
        return None
    starts = range(1, len(parts))
    special = [i for i in starts if parts[i][:1].isupper() or parts[i][:1].isdigit()]
    start = draw.choice(special or starts)
    end = start
    most = start + draw.randint(1, _GAP_WORDS)
    while end < min(most, len(parts)):
        end += 1
        if not _PLAIN.fullmatch(parts[end - 1]):
            break
    answer = " ".join(parts[start:end]).strip(".,;:!?()\"'“”")
    whole = " ".join(parts)
    place = whole.find(answer, sum(len(part) + 1 for part in parts[:start])) if answer else -1
    if place < 0:
        return None
    return f"{whole[:place]}...{whole[place + len(answer) :]}", answer

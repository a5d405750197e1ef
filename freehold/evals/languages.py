"""Which language a text is in: by its script, and in Latin letters by its trigrams.

Scripts that one language here uses tell it at once (Cyrillic counts as Russian, Arabic letters as
Arabic). The Latin alphabet's languages are told apart by a naive Bayes of character trigrams over
those that there is text for which may be shipped: German, English, French, Indonesian, Vietnamese.
What is much unlike all of them is in none that is known here. docs/evals.md gives how often this is
right; the file names what it was learnt from.

Source: Cavnar and Trenkle, "N-gram-based text categorization", 1994, with log-probabilities in
place of ranks.
"""

from __future__ import annotations

import bisect
import re
from collections import Counter
from functools import cache
from importlib import resources
from typing import Annotated

import msgspec

LEAST_LETTERS = 4
"""Fewer letters are in no language."""
MOST = 7900
"""A text is in the language that costs it least only if that cost, less its lead over the next
language, is at most this: thousandths of a nat per trigram. Chosen on texts in languages that are
known here and in others."""
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`]*`|https?://\S+", re.S)
_NO_LETTER = re.compile(r"[\W\d_]+")

# First and last code point, and whose letters they are.
_RANGES = (
    (0x0041, 0x024F, "latin"),
    (0x0370, 0x03FF, "el"),
    (0x0400, 0x052F, "ru"),
    (0x0590, 0x05FF, "he"),
    (0x0600, 0x06FF, "ar"),
    (0x0900, 0x097F, "hi"),
    (0x0980, 0x09FF, "bn"),
    (0x0B80, 0x0BFF, "ta"),
    (0x0C00, 0x0C7F, "te"),
    (0x0E00, 0x0E7F, "th"),
    (0x0E80, 0x0EFF, "lo"),
    (0x1000, 0x109F, "my"),
    (0x1780, 0x17FF, "km"),
    (0x1E00, 0x1EFF, "latin"),
    (0x3040, 0x30FF, "ja"),
    (0x3400, 0x9FFF, "zh"),
    (0xAC00, 0xD7AF, "ko"),
)
_STARTS = [first for first, _, _ in _RANGES]
_KANA = 0.05
"""From this share of kana on, ideographs are Japanese."""


class Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``costs``: -log p of each trigram in each of ``languages``, in thousandths of a nat;
    ``unseen`` is that of any other. ``learnt`` names the text it comes from, with digest and
    licence."""

    languages: tuple[str, ...]
    unseen: tuple[int, ...]
    costs: dict[Annotated[str, msgspec.Meta(min_length=3, max_length=3)], tuple[int, ...]]
    learnt: tuple[dict[str, str], ...]


@cache
def shipped() -> Table:
    """The table that comes with Freehold."""
    data = (resources.files("freehold.evals") / "trigrams.json").read_bytes()
    return msgspec.json.decode(data, type=Table)


def language_of(text: str, table: Table | None = None) -> str | None:
    """The language most of ``text`` is in, as a code of ISO 639-1; ``None`` for too few letters or
    a language that is not known here. Code between fences and addresses do not count."""
    plain = _CODE.sub(" ", text)
    counts = Counter(map(_script, plain))
    del counts[""]
    if counts.total() < LEAST_LETTERS:
        return None
    script = counts.most_common(1)[0][0]
    if script in ("zh", "ja"):
        kana, both = counts["ja"], counts["ja"] + counts["zh"]
        return "ja" if kana >= _KANA * both else "zh"
    return script if script != "latin" else _latin(plain, table or shipped())


def known() -> frozenset[str]:
    """Every language that ``language_of`` can answer with."""
    scripts = {language for _, _, language in _RANGES} - {"latin"}
    return frozenset(scripts | set(shipped().languages))


def _script(letter: str) -> str:
    code = ord(letter)
    if code < 0x41 or (code < 0x80 and not letter.isalpha()):
        return ""
    first, last, language = _RANGES[bisect.bisect(_STARTS, code) - 1]
    return language if first <= code <= last else ""


def trigrams_of(text: str) -> Counter[str]:
    """How often each three characters follow each other in the words of ``text``."""
    words = f" {_NO_LETTER.sub(' ', text.lower()).strip()} "
    return Counter(map("".join, zip(words, words[1:], words[2:], strict=False)))


def mean_costs(text: str, table: Table) -> list[float]:
    """The mean cost of ``text``'s trigrams in each of the table's languages."""
    found = trigrams_of(text)
    totals = [0] * len(table.languages)
    for trigram, n in found.items():
        for i, cost in enumerate(table.costs.get(trigram, table.unseen)):
            totals[i] += n * cost
    return [total / max(found.total(), 1) for total in totals]


def _latin(text: str, table: Table) -> str | None:
    means = mean_costs(text, table)
    (least, best), (second, _), *_ = sorted(zip(means, table.languages, strict=True))
    return best if least - (second - least) <= MOST else None

"""Whether a value comes out of a stranger's text: as it stands, reformatted or encoded.

What a tool returned is read into a few views (folded, decoded, turned round). A value is tainted
where it, or a telling part of it (an address, a number, a run of words), stands in one of those and
not in what the user or the owner said. This finds what is copied. A model can also be talked into
writing a value out of its own knowledge, or spelling one in words: no comparison of texts finds
that, so what must never go wrong belongs under ``approve``.

Texts are compared by hashes of eight letters in a row, kept sorted: time grows with the texts, and
not with their product.
"""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from freehold.guard.features import Hashes, shingles
from freehold.guard.tools.forms import WORDS, fold, forms, numbers

MAX_TEXT = 1 << 20
MAX_VALUE = 1 << 16
"""Characters of a text, or of a value, that are looked at. A value that is longer is tainted."""
_GRAM = 8
"""Letters and digits in a row: what is shorter is shared by chance."""
_IN_A_ROW = 3
"""So many grams one behind the other, ten letters, are a part of a long name."""
_RUN_LETTERS = 14
"""Letters in three words in a row, which a text and a value share by more than chance."""

_CHAIN = re.compile(r"[@./:\\\w+-]+")
_TELLING = re.compile(r"[@./:\\\d]")
_PIECES = re.compile(r"[/@?&=]")
_BETWEEN = "\0"
"""Stands between names that are looked up together, and in no text's letters."""


@dataclass(frozen=True)
class Taint:
    """A value's way from ``source``: ``how`` is ``copied``, ``number``, ``part`` or ``words``."""

    source: str
    how: str


class _View:
    """One reading of a text: its letters and digits, its words, its numbers."""

    def __init__(self, text: str) -> None:
        folded = fold(text)
        words = WORDS.findall(folded)
        self.words = frozenset(words)
        self.spaced = f" {' '.join(words)} "
        self.numbers = frozenset(numbers(folded))
        self.runs = frozenset(_runs(words))
        letters = "".join(words)
        self._grams = np.unique(shingles(letters, _GRAM)) if len(letters) >= _GRAM else None

    def has(self, grams: Hashes) -> npt.NDArray[np.bool_]:
        """Which of ``grams`` (n,) stand in it, (n,)."""
        if self._grams is None:
            return np.zeros(len(grams), np.bool_)
        at = np.searchsorted(self._grams, grams)
        found: npt.NDArray[np.bool_] = self._grams[np.minimum(at, len(self._grams) - 1)] == grams
        return found

    def says(self, words: Sequence[str], spaced: str) -> bool:
        """Whether ``words`` stand in it in this order."""
        return self.words.issuperset(words) and spaced in self.spaced


class Texts:
    """Texts of one kind (a stranger's, or the user's), to look values up in; ``turned`` for those
    whose forms values are not turned to meet."""

    def __init__(self, *, turned: bool = False) -> None:
        self._turned = turned
        self.views: list[tuple[str, _View]] = []
        self.words: set[str] = set()

    def add(self, source: str, text: str) -> None:
        """Remember ``text``. All of it counts: a longer one is taken in pieces that overlap."""
        step = MAX_TEXT - 1_024
        for start in range(0, max(1, len(text)), step):
            for one in forms(text[start : start + MAX_TEXT], turned=self._turned):
                view = _View(one)
                self.views.append((source, view))
                self.words |= view.words


def tainted(value: object, strangers: Texts, trusted: Texts) -> Taint | None:
    """Whence ``value`` (one JSON leaf) comes, if out of a stranger's text; ``None`` where it does
    not, or stands in what the user or the owner said."""
    if value is None or isinstance(value, bool) or not strangers.views:
        return None
    text = value if isinstance(value, str) else str(value)
    if len(text) > MAX_VALUE:
        return Taint("a text too long to compare", "copied")
    for number, one in enumerate(forms(text, turned=True)):
        found = _taint(one, strangers, trusted, telling=number == 0)
        if found is not None:
            return found
    return None


def _taint(text: str, strangers: Texts, trusted: Texts, *, telling: bool) -> Taint | None:
    folded = fold(text)
    if (found := _number(folded, strangers, trusted)) is not None:
        return found
    words = WORDS.findall(folded)
    if trusted.words.issuperset(words):
        return None  # Made of the user's own words, if in another order: nobody else is named.
    found = _said(words, strangers, trusted) if telling else None
    letters = "".join(words)
    if len(letters) < _GRAM:
        return found
    return (
        found
        or _copied(shingles(letters, _GRAM), strangers, trusted)
        or _part(_names(text, trusted.words), strangers, trusted)
        or _in_words(frozenset(_runs(words)), strangers, trusted)
    )


def _number(folded: str, strangers: Texts, trusted: Texts) -> Taint | None:
    """Numbers of one digit stand everywhere."""
    told = {number for number in numbers(folded) if len(number) > 1}
    for source, view in strangers.views if told else ():
        if any(
            not any(number in own.numbers for _, own in trusted.views)
            for number in told & view.numbers
        ):
            return Taint(source, "number")
    return None


def _said(words: Sequence[str], strangers: Texts, trusted: Texts) -> Taint | None:
    """The whole value, word for word."""
    spaced = f" {' '.join(words)} "
    if len(spaced) <= 4:
        return None
    for source, view in strangers.views:
        if view.says(words, spaced):
            own = any(one.says(words, spaced) for _, one in trusted.views)
            return None if own else Taint(source, "copied")
    return None


def _copied(grams: Hashes, strangers: Texts, trusted: Texts) -> Taint | None:
    """The whole value, letter for letter: each of its grams."""
    for source, view in strangers.views:
        if view.has(grams[:1]).all() and view.has(grams).all():
            own = any(one.has(grams).all() for _, one in trusted.views)
            return None if own else Taint(source, "copied")
    return None


def _part(names: Iterable[str], strangers: Texts, trusted: Texts) -> Taint | None:
    """Names in the value: whole ones of eight or nine letters, ten in a row of longer ones."""
    by_length: dict[int, list[str]] = defaultdict(list)
    for name in names:
        by_length[min(len(name) - _GRAM + 1, _IN_A_ROW)].append(name)
    for row, them in by_length.items():
        grams = shingles(_BETWEEN.join(them), _GRAM)
        for source, view in strangers.views:
            found = _rows(view.has(grams), row)
            if not found.any():
                continue
            for _, own in trusted.views:
                found &= ~_rows(own.has(grams), row)
            if found.any():
                return Taint(source, "part")
    return None


def _rows(found: npt.NDArray[np.bool_], row: int) -> npt.NDArray[np.bool_]:
    """Where ``row`` of ``found`` (n,) in a row are true, (n - row + 1,)."""
    rows = found[: len(found) - row + 1].copy()
    for i in range(1, row):
        rows &= found[i : len(found) - row + 1 + i]
    return rows


def _in_words(runs: frozenset[int], strangers: Texts, trusted: Texts) -> Taint | None:
    for source, view in strangers.views:
        shared = runs & view.runs
        for _, own in trusted.views if shared else ():
            shared -= own.runs
        if shared:
            return Taint(source, "words")
    return None


def _names(text: str, own: set[str]) -> Iterator[str]:
    """What stands for somebody or some place in ``text``: addresses, paths and accounts, their
    names. Each without its gaps, and without what the user said."""
    chains = [match[0] for match in _CHAIN.finditer(text) if _TELLING.search(match[0])]
    if not any(map(str.isspace, text.strip())):
        chains.append(text)
    for chain in dict.fromkeys(chains):
        for piece in dict.fromkeys((chain, *_PIECES.split(chain))):
            for name in _unexplained(piece, own):
                if len(name) >= _GRAM:
                    yield name


def _unexplained(piece: str, own: set[str]) -> Iterator[str]:
    """Runs of words in ``piece`` that are not among the user's ``own``, each run in one."""
    for explained, run in itertools.groupby(WORDS.findall(fold(piece)), own.__contains__):
        if not explained:
            yield "".join(run)


def _runs(words: Sequence[str]) -> Iterator[int]:
    """Three words in a row, as hashes: a long text has many."""
    for run in zip(words, words[1:], words[2:], strict=False):
        if len(run[0]) + len(run[1]) + len(run[2]) >= _RUN_LETTERS:
            yield hash(run)

"""The words beside a number, which tell two readings of it apart and speak for it or against it."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict

from freehold.guard.pii.columns import Columns
from freehold.guard.pii.kinds import (
    AGAINST,
    IDENTITIES,
    IDENTITY_WORDS,
    KINDS,
    LETTERED,
    PHONE_WORDS,
)

FOR, NOT = 0.4, 0.35
"""What a word for a kind of number adds to its score, and a word for something else takes off."""
_BEFORE, _AFTER = 48, 16
_WORD = re.compile(r"[^\W\d_]+")
_NUMBER = re.compile(r"[0-9][0-9 ().\-/]{3,}[0-9]")
_LISTED = re.compile(r" ?[,/;&] ?\+?")


def _labels() -> tuple[dict[str, frozenset[str]], dict[str, frozenset[str]]]:
    """Words to the kinds they speak for: those of letters with spaces between words, and those of
    scripts without. No kind at all: the word speaks against each."""
    names: dict[str, set[str]] = defaultdict(set)
    for kind in (*KINDS, *LETTERED):
        for word in kind.words:
            names[word].add(kind.name)
    for word in PHONE_WORDS:
        names[word].add("phone")
    for word in ("iban", "konto", "account", "rekening", "compte", "bank"):
        names[word].add("iban")
    for word in IDENTITY_WORDS:
        names[word].update(IDENTITIES)
    for word in AGAINST:
        names.setdefault(word, set())
    spaced = {w: frozenset(k) for w, k in names.items() if unicodedata.category(w[0]) != "Lo"}
    packed = {w: frozenset(k) for w, k in names.items() if w not in spaced}
    return spaced, packed


_SPACED, _PACKED = _labels()
_PACKED_BEGUN = re.compile(f"[{''.join(sorted({name[0] for name in _PACKED}))}]")


class Beside:
    """The words beside places in one text."""

    def __init__(self, text: str, threshold: float) -> None:
        self._text = text
        self.threshold = threshold
        self._columns: Columns | None = None
        self._at: tuple[int, int] = (-1, -1)
        self._known: tuple[frozenset[str] | None, frozenset[str] | None] = (None, None)
        self._labels: dict[str, frozenset[str] | None] = {}

    def score(self, kind: str, base: float, start: int, end: int) -> float:
        """``base``, raised or lowered by what stands before the number, or else behind it."""
        if base + FOR < self.threshold:
            return 0.0  # no word could save it
        if self._at != (start, end):
            self._at, self._known = (start, end), (self._before(start), self._after(end))
        before, after = self._known
        if before is not None and kind in before:
            return min(1.0, base + FOR)
        if after is not None and kind in after:
            return min(1.0, base + FOR)
        return base if before is None else max(0.0, base - NOT)

    def _before(self, start: int) -> frozenset[str] | None:
        if self._columns is None:
            self._columns = Columns(self._text)
        heading = self._columns.heading(start)
        if heading is not None and (label := self._label(heading[-_BEFORE:])) is not None:
            return label
        left = self._text[max(0, start - _BEFORE) : start]
        line = left[left.rfind("\n") + 1 :]
        left = line if _WORD.search(line) else left
        # A word speaks for the number behind it, and for those that follow it in a list.
        for number in _NUMBER.finditer(left):
            if not _LISTED.fullmatch(left, number.end()):
                left = " " * number.end() + left[number.end() :]
        return self._label(left)

    def _after(self, end: int) -> frozenset[str] | None:
        right = self._text[end : end + _AFTER].partition("\n")[0]
        return self._label(right) if right.lstrip()[:1] in ("(", "\uff08", "[") else None

    def _label(self, text: str) -> frozenset[str] | None:
        """As ``_last_label``; what stands many times in the whole text is read once."""
        if text not in self._labels:
            self._labels[text] = _last_label(text)
        return self._labels[text]


def _last_label(text: str) -> frozenset[str] | None:
    """What the last label in ``text`` speaks for; ``None`` where there is none."""
    text = text.lower() if text.isascii() else unicodedata.normalize("NFC", text).lower()
    label: frozenset[str] | None = None
    at, ended, previous, behind = -1, 0, "", -2
    for word in _WORD.finditer(text):
        one = word[0]
        two = f"{previous} {one}"
        name = two if word.start() == behind + 1 and two in _SPACED else one
        if name in _SPACED:
            # "Aadhaar card": of words that follow each other, each may be the one that counts.
            near = label is not None and word.start() - ended <= 1 and _SPACED[name]
            label = _SPACED[name] | label if near and label else _SPACED[name]
            at, ended = word.start(), word.end()
        previous, behind = one, word.end()
    ended = 0
    if not text.isascii() and _PACKED_BEGUN.search(text):
        for name, kinds in _PACKED.items():
            place = text.rfind(name)
            if place >= 0 and (place, len(name)) > (at, ended):
                label, at, ended = kinds, place, len(name)
    return label

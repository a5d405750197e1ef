"""Personal data in a text: numbers with their checks, addresses of people, and secrets.

One pass over the digits of the text, in time that grows with its length alone: runs of digits are
cut into groups, and only windows of groups whose lengths are a known shape are looked at. Then the
word that stands closest before a number decides between two readings of it, and for or against it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate, combinations, pairwise

from freehold.guard.pii import checks, secrets
from freehold.guard.pii.kinds import KINDS, LETTERED, Kind
from freehold.guard.pii.labels import Beside
from freehold.guard.pii.phones import FEWEST_DIFFERENT, MOST_GROUPS, phone_score
from freehold.types import Span

THRESHOLD = 0.5
Checked = dict[tuple[Callable[[str], bool], str], bool]

_RUN = re.compile(r"[0-9]+(?:[ \u00a0().\-/\u2011\u2013]{1,3}[0-9]+)*")
_GROUP = re.compile(r"[0-9]+")
_DIGIT = re.compile(r"\d")


def find(text: str, *, threshold: float = THRESHOLD) -> list[Span]:
    """What is personal or secret in ``text``, in order, none overlapping another: of two that do,
    the surer one, then the longer."""
    found: list[Span] = []
    if _DIGIT.search(text):  # most sentences have none
        beside = Beside(text, threshold)
        found += [*_numbers(text, beside), *_lettered(text, beside), *_ibans(text)]
    found += [*_emails(text), *secrets.find(text)]
    sure = sorted(
        (span for span in found if span.score >= threshold),
        key=lambda span: (-span.score, span.start - span.end, span.start),
    )
    taken = bytearray(len(text))
    kept = []
    for span in sure:
        if not any(taken[span.start : span.end]):
            taken[span.start : span.end] = b"\1" * (span.end - span.start)
            kept.append(span)
    return sorted(kept, key=lambda span: span.start)


# --- numbers --------------------------------------------------------------------------------------


class _Shape:
    """What a row of groups of digits can be: the kinds of that shape, each with what may stand
    between its groups, and the longer shapes that begin so, by the length of their next group."""

    def __init__(self) -> None:
        self.kinds: list[tuple[Kind, frozenset[str]]] = []
        self.longer: dict[int, _Shape] = {}


def _shapes(kinds: Iterable[Kind]) -> _Shape:
    top = _Shape()
    for kind in kinds:
        ends = combinations(range(len(kind.gaps) + 1), 2)
        gaps = frozenset(kind.gaps[a:b] for a, b in ends)
        for shape in kind.shapes:
            node = top
            for length in shape:
                node = node.longer.setdefault(length, _Shape())
            node.kinds.append((kind, gaps))
    return top


_SHAPES = _shapes(KINDS)
_DIGITS = [sum(shape) for kind in KINDS for shape in kind.shapes]
_MOST_DIGITS = max(_DIGITS)
_PHONE_DIGITS = range(7, 16)
_FEWEST_DIGITS = min(_PHONE_DIGITS[0], *_DIGITS)


def _numbers(text: str, beside: Beside) -> list[Span]:
    found: list[Span] = []
    checked: Checked = {}
    for match in _RUN.finditer(text):
        if match.end() - match.start() >= _FEWEST_DIGITS:
            run = _Run(text, match, beside, found, checked)
            for first in range(len(run.groups)):
                run.numbers(first)
    return found


class _Run:
    """Groups of digits that stand close together in ``text``: (start, end) of each. What is
    ``found`` in them is added to what was. ``checked`` is what numbers of the same text have come
    to: the same one often stands there many times."""

    def __init__(
        self,
        text: str,
        match: re.Match[str],
        beside: Beside,
        found: list[Span],
        checked: Checked,
    ) -> None:
        self._text = text
        self._found = found
        self._checked = checked
        self._beside = beside
        at = match.start()
        self.groups = [(at + g.start(), at + g.end()) for g in _GROUP.finditer(match[0])]
        self._gaps = [text[a:b] for (_, a), (b, _) in pairwise(self.groups)]
        self._digits = "".join(text[a:b] for a, b in self.groups)
        self._lengths = [b - a for a, b in self.groups]
        self._offsets = [0, *accumulate(self._lengths)]
        self._torn_off = at > 0 and _is_latin(text[at - 1])

    def numbers(self, first: int) -> None:
        """What begins with group number ``first``, in windows of known shapes."""
        start, text = self.groups[first][0], self._text
        if not _free_before(text, start):
            return
        leads = first == 0 or text[start] == "0" or text[start - 1] in "+("
        shape: _Shape | None = _SHAPES
        digits = 0
        for last in range(first, min(first + MOST_GROUPS, len(self.groups))):
            begin, end = self.groups[last]
            digits += end - begin
            shape = shape and shape.longer.get(end - begin)
            if digits > _MOST_DIGITS or not (leads or shape):
                return
            kinds = shape.kinds if shape else ()
            phone = leads and digits in _PHONE_DIGITS
            if not (kinds or phone) or not _free_after(text, end):
                continue
            if kinds:
                self._as_kinds(first, last, kinds)
            if phone:
                self._as_phone(first, last)

    def _as_kinds(
        self, first: int, last: int, kinds: Sequence[tuple[Kind, frozenset[str]]]
    ) -> None:
        """What groups ``first`` to ``last`` are, taken together as one number."""
        start, end = self.groups[first][0], self.groups[last][1]
        number = self._digits[self._offsets[first] : self._offsets[last + 1]]
        between = set(self._gaps[first:last])
        for kind, gaps in kinds:
            if between <= gaps and self._passes(kind, number):
                base = kind.grouped - self._torn(first, last) if between else kind.score
                self._add(kind.name, base, start, end)

    def _passes(self, kind: Kind, number: str) -> bool:
        known = self._checked.get((kind.check, number))
        if known is None:
            known = self._checked[kind.check, number] = kind.check(number)
        return known

    def _as_phone(self, first: int, last: int) -> None:
        number = self._digits[self._offsets[first] : self._offsets[last + 1]]
        if len(set(number)) < FEWEST_DIFFERENT:
            return
        start, end = self.groups[first][0], self.groups[last][1]
        if _NO_PHONE.fullmatch(self._text, start, end):
            return
        while start > max(0, self.groups[first][0] - 2) and self._text[start - 1] in "+(":
            start -= 1
        base = phone_score(self._text[start:end], self._lengths[first : last + 1])
        if base > 0:
            self._add("phone", base - self._torn(first, last), start, end)

    def _add(self, label: str, base: float, start: int, end: int) -> None:
        score = self._beside.score(label, base, start, end)
        if score >= self._beside.threshold:
            span = Span(start=start, end=end, category="personal", label=label, score=score)
            self._found.append(span)

    def _torn(self, first: int, last: int) -> float:
        """What a window loses that seems torn out of a longer number: a group before or behind it
        is as near as its own are to each other, or the run hangs on a letter."""
        gap = self._gaps[first] if last > first else " "
        before = first > 0 and self._gaps[first - 1] == gap
        after = last + 1 < len(self.groups) and self._gaps[last] == gap
        return _TORN * (self._torn_off + before + after)


_TORN = 0.25
_NO_PHONE = re.compile(
    r"(?:19|20)\d\d([-./])[01]?\d\1[0-3]?\d(?: [0-2]\d)?"
    r"|[0-3]?\d([-./ ])[0-3]?\d\2(?:19|20)\d\d(?: [0-2]\d)?"
    r"|\d{1,3}\.\d+|\d{1,3}(?:\.\d{1,3}){3}"
)
"""Days, fractions and addresses of machines."""


# In a row of cells a comma parts numbers; in an amount, three digits stand before it or behind it,
# or one or two at the end.
_FRACTION_BEGUN = re.compile(r"(?<![0-9])(?<![0-9][ \u00a0-])[0-9]{1,3},\Z")
_FRACTION = re.compile(r",[0-9]{1,3}(?![0-9,;|\t]|[ -][0-9])")


def _is_latin(character: str) -> bool:
    return character.isascii() and character.isalnum()


def _free_before(text: str, start: int) -> bool:
    """Whether a number may begin here: not within a word, a version, an address or an amount."""
    if start == 0:
        return True
    before = text[start - 1]
    if before in "_#" or before.isalnum() or before in "$€£¥₩฿₹":
        return not (before in "_#$€£¥₩฿₹" or before.isascii() or before.isdecimal())
    if before == ",":
        return not _FRACTION_BEGUN.search(text, max(0, start - 8), start)
    joins = before in "-./@\u2011" and start > 1
    return not (joins and _is_latin(text[start - 2]))


def _free_after(text: str, end: int) -> bool:
    if end == len(text):
        return True
    after = text[end]
    if after == "_" or after.isalnum():
        return not (after == "_" or after.isascii() or after.isdecimal())
    if after == ",":
        return _FRACTION.match(text, end) is None
    joins = after in "-./@\u2011:%" and end + 1 < len(text)
    return after != "%" and not (joins and _is_latin(text[end + 1]))


# --- numbers with letters, accounts and addresses -------------------------------------------------


def _lettered(text: str, beside: Beside) -> Iterator[Span]:
    for kind in LETTERED:
        for match in kind.pattern.finditer(text):
            if kind.check(match[0].replace(" ", "").replace("-", "")):
                start, end = match.span()
                score = beside.score(kind.name, kind.score, start, end)
                yield Span(start=start, end=end, category="personal", label=kind.name, score=score)


_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}[0-9]{2}(?:[ \u00a0-]?[A-Z0-9]){11,31}")


def _ibans(text: str) -> Iterator[Span]:
    for match in _IBAN.finditer(text):
        wanted = checks.IBAN_LENGTHS.get(match[0][:2], 0)
        places = [i for i, character in enumerate(match[0]) if character.isalnum()]
        if not wanted or len(places) < wanted:
            continue
        end = match.start() + places[wanted - 1] + 1
        inside = text[match.start() : end]
        number = "".join(filter(str.isalnum, inside))
        free = text[end : end + 1] == "," or _free_after(text, end)
        if free and checks.iban(number):
            yield Span(start=match.start(), end=end, category="personal", label="iban", score=0.95)


_LOCAL = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.#%'+_~-")
"""What people have in their addresses. RFC 5322 allows more (``=``, ``/``, ``?``), which in a log
or a link ends the name of a field."""
_DOMAIN = re.compile(r"@(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}[^\W\d_]{2,24}(?![\w-])")


def _emails(text: str) -> Iterator[Span]:
    at = text.find("@")
    while at >= 0:
        start = at
        while start > max(0, at - 64) and _of_a_name(text[start - 1]):
            start -= 1
        while start < at and not text[start].isalnum() and text[start] != "_":
            start += 1
        domain = _DOMAIN.match(text, at) if start < at and text[at - 1] != "." else None
        if domain is not None:
            yield Span(
                start=start, end=domain.end(), category="personal", label="email", score=0.95
            )
        at = text.find("@", at + 1)


def _of_a_name(character: str) -> bool:
    return character in _LOCAL or (not character.isascii() and character.isalnum())

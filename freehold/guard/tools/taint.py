"""Whether a value comes out of a stranger's text: as it stands, reformatted or encoded.

What a tool returned is read into a few views (folded, decoded, turned round). A value is tainted
where it, or a telling part of it (an address, a number, a run of words), stands in one of those and
not in what the user or the owner said. This finds what is copied. A model can also be talked into
writing a value out of its own knowledge, or spelling one in words: no comparison of texts finds
that, so what must never go wrong belongs under ``approve``.
"""

from __future__ import annotations

import base64
import codecs
import html
import itertools
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import unquote

MAX_TEXT = 1 << 20
MAX_VALUE = 1 << 16
"""Characters of a text, or of a value, that are looked at. A value that is longer is tainted."""
_SHORTEST = 4
_GRAM, _GRAMS = 10, 250
_RUN, _RUN_LETTERS = 3, 14
"""Words in a row, and letters in them, that a text and a value share by more than chance."""

_WORDS = re.compile(r"[^\W_]+")
_NUMBERS = re.compile(r"(?<![^\W_])\d[\d.,\u00a0' ]*\d|\d")
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{8,}={0,2}")
_HEX = re.compile(r"(?:[0-9A-Fa-f]{2}[\s:]?){4,}")
_SPELLED = re.compile(
    r"(?i)[\s(\[{<_-]+(?:at|dot|slash|dash|minus|hyphen|underscore|colon|plus)[\s)\]}>_-]+"
)
_JOINED = re.compile(r"[@./:\\\w+-]*[@./:\\][@./:\\\w+-]*")


@dataclass(frozen=True)
class Taint:
    """A value's way from ``source``: ``how`` is ``copied``, ``number``, ``part`` or ``words``."""

    source: str
    how: str


class _View:
    """One reading of a text: its letters and digits, its words, its numbers."""

    def __init__(self, text: str) -> None:
        folded = fold(text)
        words = _WORDS.findall(folded)
        self.compact = "".join(words)
        self.spaced = f" {' '.join(words)} "
        self.numbers = frozenset(_numbers(folded))
        self.runs = frozenset(_runs(words))


class Texts:
    """Texts of one kind (a stranger's, or the user's), to look values up in."""

    def __init__(self) -> None:
        self._views: list[tuple[str, _View]] = []

    def add(self, source: str, text: str) -> None:
        """Remember ``text``. All of it counts: a longer one is taken in pieces that overlap."""
        step = MAX_TEXT - 1_024
        for start in range(0, max(1, len(text)), step):
            self._views += [(source, _View(one)) for one in forms(text[start : start + MAX_TEXT])]

    def has_words(self, words: Iterable[str]) -> bool:
        """Whether each of ``words`` stands somewhere in these texts."""
        return all(self.sources_of(f" {word} ", attribute="spaced") is not None for word in words)

    def sources_of(self, test: str | int, *, attribute: str) -> str | None:
        """The source of the first text that holds ``test``."""
        for source, view in self._views:
            if test in getattr(view, attribute):
                return source
        return None


def fold(text: str) -> str:
    """Compatibility forms, case and invisible characters taken away."""
    text = unicodedata.normalize("NFKC", text).casefold()
    if text.isascii():
        return text
    return "".join(
        c
        for c in unicodedata.normalize("NFKD", text)
        if unicodedata.category(c) not in ("Cf", "Mn")
    )


def forms(text: str) -> Iterator[str]:
    """``text``, and what it is when it is decoded or turned round."""
    seen = set()
    for one in _forms(text):
        if one and one not in seen:
            seen.add(one)
            yield one


def _forms(text: str) -> Iterator[str]:
    yield text
    tags = "".join(chr(ord(c) - 0xE0000) for c in text if 0xE0020 <= ord(c) < 0xE007F)
    yield tags
    yield html.unescape(text)
    yield unquote(text)
    yield _SPELLED.sub("", text)
    yield codecs.decode(text, "rot13")
    yield text[::-1]
    yield " ".join(_decoded(text))


def _decoded(text: str) -> Iterator[str]:
    for match in _BASE64.finditer(text):
        letters = match[0].rstrip("=").replace("-", "+").replace("_", "/")
        if len(letters) % 4 != 1:
            yield from _shown(base64.b64decode(letters + "=" * (-len(letters) % 4)))
    for match in _HEX.finditer(text):
        yield from _shown(bytes.fromhex(re.sub(r"[\s:]", "", match[0])))


def _shown(data: bytes) -> Iterator[str]:
    """``data`` as text, where it is one."""
    text = data.decode("utf-8", errors="replace")
    if text.replace("\n", " ").isprintable() and "\ufffd" not in text:
        yield text


def _numbers(text: str) -> Iterator[str]:
    """Numbers as digits, in both customs of writing them: 1.234,50 and 1,234.50 are 1234.5."""
    for match in _NUMBERS.finditer(text):
        plain = re.sub(r"[\u00a0' ]", "", match[0]).strip(".,")
        yield from {_decimal(plain, ",", "."), _decimal(plain, ".", ",")}


def _decimal(number: str, thousands: str, point: str) -> str:
    whole, _, rest = number.replace(thousands, "").partition(point)
    rest = re.sub(r"\D", "", rest).rstrip("0")
    whole = whole.lstrip("0") or "0"
    return f"{whole}.{rest}" if rest else whole


def tainted(value: object, strangers: Texts, trusted: Texts) -> Taint | None:
    """Whence ``value`` (one JSON leaf) comes, if out of a stranger's text; ``None`` where it does
    not, or stands in what the user or the owner said."""
    if value is None or isinstance(value, bool):
        return None
    text = value if isinstance(value, str) else str(value)
    if len(text) > MAX_VALUE:
        return Taint("a text too long to compare", "copied")
    for number, one in enumerate(forms(text)):
        found = _taint(one, strangers, trusted, telling=number == 0)
        if found is not None:
            return found
    return None


def _taint(text: str, strangers: Texts, trusted: Texts, *, telling: bool) -> Taint | None:
    view = _View(text)
    # Made of the user's own words, if in another order: nobody else is named.
    own = trusted.has_words(view.spaced.split())
    looked_for: tuple[tuple[str, str, Iterable[str | int]], ...] = (
        ("number", "numbers", _telling_numbers(view)),
        ("copied", "spaced", [view.spaced] if len(view.spaced) > 4 and telling else []),
        ("copied", "compact", [view.compact] if len(view.compact) >= 2 * _SHORTEST else []),
        ("part", "compact", _parts(text, trusted)),
        ("words", "runs", view.runs),
    )
    for how, attribute, tests in looked_for:
        for test in () if own and how != "number" else tests:
            source = strangers.sources_of(test, attribute=attribute)
            if source is not None and trusted.sources_of(test, attribute=attribute) is None:
                return Taint(source, how)
    return None


def _telling_numbers(view: _View) -> list[str]:
    """Numbers of one digit stand everywhere."""
    return [number for number in view.numbers if len(number) > 1]


def _parts(text: str, trusted: Texts) -> Iterator[str]:
    """What stands for somebody or some place in ``text``: addresses and paths, their names, and
    pieces of long ones."""
    joined = [match[0] for match in _JOINED.finditer(text)]
    if not any(map(str.isspace, text.strip())):
        joined.append(text)
    for one in dict.fromkeys(joined):
        for piece in (one, *re.split(r"[/@?&=]", one)):
            for name in _unexplained(piece, trusted):
                yield name
                stride = 1 + len(name) // _GRAMS
                yield from (name[i : i + _GRAM] for i in range(0, len(name) - _GRAM + 1, stride))


def _unexplained(piece: str, trusted: Texts) -> Iterator[str]:
    """Runs of words in ``piece`` that the user did not say, each run without its gaps."""
    words = _WORDS.findall(fold(piece))
    for explained, run in itertools.groupby(words, lambda word: trusted.has_words([word])):
        name = "".join(run)
        if not explained and len(name) >= 2 * _SHORTEST:
            yield name


def _runs(words: Sequence[str]) -> Iterator[int]:
    """Words in a row, as hashes: a long text has many."""
    for i in range(len(words) - _RUN + 1):
        run = tuple(words[i : i + _RUN])
        if sum(map(len, run)) >= _RUN_LETTERS:
            yield hash(run)

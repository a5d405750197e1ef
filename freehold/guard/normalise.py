"""Before any classifier: one plain form of a text, and the other forms it may hide in.

``clean`` is for text that is passed on, and takes away only what nobody can see. ``views`` are for
scoring alone: forms that an attack may have been written in, folded back. A detector scores each
and keeps the highest. All of it takes time in proportion to the text.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache

import numpy as np
import numpy.typing as npt

from freehold.guard.decoding import decoded, hidden, unseen
from freehold.guard.lookalikes import foreign, ornamented

_LETTERS_THAT_JOIN = (
    "\u0600-\u08ff\u0900-\u0dff\u0e80-\u0fff\u1000-\u109f\u1780-\u18af\ufb50-\ufdff\ufe70-\ufefc"
)
_EMOJI = "\u00a9\u00ae\u203c-\u3299\U0001f000-\U0001faff#*0-9\ufe0f\U0001f3fb-\U0001f3ff"
_HAN = "\u3400-\u9fff\uf900-\ufaff\U00020000-\U000323af"
# A flag of a region is a black flag and tag characters: those are seen, and stay.
_UNSEEN = re.compile(
    "(?P<flag>\U0001f3f4[\U000e0030-\U000e007a]{1,6}\U000e007f)"
    "|[\U000e0000-\U000e007f]"
    f"|(?<![{_HAN}])[\U000e0100-\U000e01ef]"
    f"|(?<![{_EMOJI}])[\ufe00-\ufe0f]"
    "|[\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u2060-\u2064\u206a-\u206f"
    "\u3164\ufeff\uffa0]"
    f"|(?<![{_LETTERS_THAT_JOIN}{_EMOJI}])[\u200c\u200d]"
)
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    "\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb\U000e0000-\U000e01ef]"
)
_FOREIGN_WORD = re.compile(r"\b[A-Za-z0-9_]*+[^\x00-\x7f\W]\w*+")
"""A word that is not all ASCII; each word is begun once, and never gone back in."""
_LATIN = re.compile("[A-Za-z]")
_OTHER_DIGIT = re.compile(r"\d(?<!0)")
_MARKS = re.compile("[\u0300-\u036f\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff]+")
_SPACED = re.compile(r"(?<![^\W_])(?:[^\W_][\s.\-_*,/|+~]{1,3}){3,}[^\W_](?![^\W_])")
_SIGNS = re.compile(r"[.\-_*,/|+~]+")
_GAP = re.compile(r"\s+")
# Signs within a word. Patterns that begin with what is rare are quick on what has none of it.
_INSIDE = re.compile(r"[.\-_*~^|+`](?<=[^\W\d_].)[.\-_*~^|+`]?(?=[^\W\d_])")
_LEET = bytes.maketrans(b"0134578@$!|+(", b"oieastbasiltc")
_LEETED = re.compile(r"[01345789@$!|€+(](?:(?<=[^\W\d_].)|(?=[^\W\d_]))")
_ROT13 = bytes.maketrans(b"abcdefghijklmnopqrstuvwxyz", b"nopqrstuvwxyzabcdefghijklm")
_SAYS = 12
"""Characters: what is shorter says nothing by itself."""
_ONE_GAP = re.compile(r"(?<=\S)[ \t](?=\S)")
_ORDER = ("plain", "decoded", "payload", "folded", "joined", "rot13", "reversed", "leet")


def clean(text: str) -> str:
    """``text`` as it may be passed on: without tag characters, stray variation selectors and signs
    of no width. Joiners stay where scripts or emoji need them; all that can be seen stays."""
    if text.isascii():
        return text
    return _UNSEEN.sub(lambda found: found["flag"] or "", text)


def canonical(text: str) -> str:
    """The one plain form that classifiers are trained on: compatibility forms, look-alikes in words
    of mixed script and letter case folded, hidden text written out, digits alike, single spaces."""
    return _finish(_basic(text))


def views(text: str) -> dict[str, str]:
    """The forms of ``text`` to score, by name, each different from the others. The first is
    ``plain``, the canonical form."""
    basic = _basic(text)
    lower = basic.casefold()
    said, alone = decoded(basic)
    alone = f"{unseen(text)} {alone}".strip()
    plain = _finish(basic)
    forms = {
        "decoded": basic if said == basic and basic.isascii() else _unmixed(_compatible(said)),
        # What was in code, without what leads up to it and makes it weigh less.
        "payload": _unmixed(_compatible(alone)) if len(alone) >= _SAYS else basic,
        "folded": _bare(lower),
        "joined": _INSIDE.sub("", _together(lower)),
    }
    if _LEETED.search(lower):
        forms["leet"] = _INSIDE.sub("", _turned(lower.replace("€", "e"), _LEET))
    # Most texts hide nothing, and what is finished stays so in another order or alphabet.
    finished = {"plain": plain} | {
        name: _finish(form) for name, form in forms.items() if form is not basic and form != lower
    }
    finished |= {"rot13": _turned(plain, _ROT13), "reversed": plain[::-1]}
    found: dict[str, str] = {}
    for name in _ORDER:
        if name in finished and finished[name] not in found.values():
            found[name] = finished[name]
    return found


def _turned(text: str, table: bytes) -> str:
    """``text`` with its ASCII signs changed: ``str.translate`` looks up every other sign too, which
    takes ten times as long. No byte of another sign's UTF-8 is one of ASCII."""
    return text.encode("utf-8", "surrogatepass").translate(table).decode("utf-8", "surrogatepass")


def _basic(text: str) -> str:
    return _unmixed(_compatible(hidden(text)))


def _compatible(text: str) -> str:
    if text.isascii():
        return text
    text = thinned(_INVISIBLE.sub("", text)).translate(_PHRASES)
    if unicodedata.is_normalized("NFKC", text):
        return text
    return unicodedata.normalize("NFKC", text)


_PHRASES = dict.fromkeys((0xFDFA, 0xFDFB), " ")
"""Arabic blessings in one sign, whose compatibility forms have 18 and 8 letters: text of nothing
else would grow sixfold. The next longest only doubles."""
_MOST_MARKS = 30


def thinned(text: str) -> str:
    """``text`` with at most 30 marks on any one letter, as in Unicode's stream-safe text format
    (UAX #15): normal forms sort a letter's marks, in time that grows with the square of their
    number. No language writes so many."""
    if text.isascii():
        return text
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    marks = _marks()[codes]
    places = np.arange(len(codes))
    run = places - np.maximum.accumulate(np.where(marks, -1, places))
    kept = run <= _MOST_MARKS
    return text if kept.all() else codes[kept].tobytes().decode("utf-32-le", "surrogatepass")


@cache
def _marks() -> npt.NDArray[np.bool_]:
    """Of every code point, whether it is a mark: what some normal form does not begin anew with."""
    found = np.zeros(0x110000, np.bool_)
    for code in (*range(0x300, 0x20000), *range(0xE0000, 0xE0200)):
        if not 0xAC00 <= code < 0xE000:
            first = unicodedata.normalize("NFKD", chr(code))[0]
            found[code] = unicodedata.combining(first) != 0
    return found


def _finish(text: str) -> str:
    text = _turned(text.casefold(), _ZEROED)
    if not text.isascii():
        text = _OTHER_DIGIT.sub("0", text)
    return " ".join(text.split())


_ZEROED = bytes.maketrans(b"123456789", b"000000000")


def _unmixed(text: str) -> str:
    """Look-alikes folded in words that also hold Latin letters."""
    if text.isascii() or not _LATIN.search(text):
        return text
    table = foreign()
    return _FOREIGN_WORD.sub(
        lambda found: found[0].translate(table) if _LATIN.search(found[0]) else found[0], text
    )


def _bare(text: str) -> str:
    """Everything that resembles a Latin letter as that letter, without marks."""
    if text.isascii():
        return text
    text = _MARKS.sub("", unicodedata.normalize("NFD", thinned(text)))
    return text.translate(foreign()).translate(ornamented())


def _together(text: str) -> str:
    """``text`` with s p a c e d letters joined; where nearly all of it is so, other signs too, and
    wider gaps part the words."""
    words = text.split()
    if len(words) >= _SAYS and sum(len(word) == 1 for word in words) >= 0.9 * len(words):
        joined = _ONE_GAP.sub("", text)
        if " " in joined.strip():
            return joined
    return _SPACED.sub(_join, text)


def _join(found: re.Match[str]) -> str:
    """Letters set apart by signs keep their spaces; set apart by spaces, only the wider gaps."""
    run = found[0]
    bare = _SIGNS.sub("", run)
    return bare if len(bare) < len(run) else _GAP.sub(_narrow, run)


def _narrow(gap: re.Match[str]) -> str:
    return " " if len(gap[0]) > 1 else ""

"""A text as a reader may take it: folded, decoded, turned round. In time that grows with its length
alone."""

from __future__ import annotations

import base64
import codecs
import html
import re
import unicodedata
from collections.abc import Iterator
from urllib.parse import unquote

from freehold.guard.normalise import thinned

WORDS = re.compile(r"[^\W_]+")
_NUMBERS = re.compile(r"(?<![^\W_])\d[\d.,\u00a0' ]*\d|\d")
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{8,}={0,2}")
_HEX = re.compile(r"(?:[0-9A-Fa-f]{2}[\s:]?){4,}")
_ENTITY = re.compile(r"&(?:#0{0,64}[0-9]{1,7}|#[xX]0{0,64}[0-9A-Fa-f]{1,6}|[A-Za-z]{2,31});?")
_GAPS = re.compile(r"[\s()\[\]{}<>_-]{2,}")
_SPELLED = re.compile(
    r"(?i)[\s(\[{<_-](?:at|dot|slash|dash|minus|hyphen|underscore|colon|plus)[\s)\]}>_-]"
)
_NO_TAGS = re.compile("[^\U000e0020-\U000e007e]+")
_TAGGED = {0xE0000 + code: code for code in range(0x20, 0x7F)}


def fold(text: str) -> str:
    """Compatibility forms, case and invisible characters taken away."""
    if text.isascii():
        return text.casefold()
    text = unicodedata.normalize("NFKC", thinned(text)).casefold()
    if text.isascii():
        return text
    return "".join(
        c
        for c in unicodedata.normalize("NFKD", text)
        if unicodedata.category(c) not in ("Cf", "Mn")
    )


def forms(text: str, *, turned: bool) -> Iterator[str]:
    """``text``, and what it is when it is decoded, each form once; where ``turned``, also in rot13
    and backwards. Of two texts that are compared, it is enough to turn one."""
    seen = set()
    for one in _forms(text, turned):
        if one and one not in seen:
            seen.add(one)
            yield one


def _forms(text: str, turned: bool) -> Iterator[str]:
    yield text
    if not text.isascii():
        yield _NO_TAGS.sub("", text).translate(_TAGGED)
    # Bounded, since `html.unescape` fails on a number of more than 4,300 digits.
    yield _ENTITY.sub(lambda found: html.unescape(found[0]), text)
    yield unquote(text)
    yield _SPELLED.sub("", _GAPS.sub(" ", text))
    if turned:
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
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return
    if text.replace("\n", " ").isprintable():
        yield text


def numbers(text: str) -> Iterator[str]:
    """Numbers as digits, in both customs of writing them: 1.234,50 and 1,234.50 are 1234.5."""
    for match in _NUMBERS.finditer(text):
        if match[0].isdecimal():  # nearly all are, and both customs agree
            yield match[0].lstrip("0") or "0"
            continue
        plain = re.sub(r"[\u00a0' ]", "", match[0]).strip(".,")
        yield from {_decimal(plain, ",", "."), _decimal(plain, ".", ",")}


def _decimal(number: str, thousands: str, point: str) -> str:
    whole, _, rest = number.replace(thousands, "").partition(point)
    rest = re.sub(r"\D", "", rest).rstrip("0")
    whole = whole.lstrip("0") or "0"
    return f"{whole}.{rest}" if rest else whole

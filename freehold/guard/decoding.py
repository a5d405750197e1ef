"""What is written in a text in other signs: base64, hex, escapes, bits, Morse, hidden bytes.

Every pattern is one that cannot backtrack, and what does not decode to text stays as it was.
"""

from __future__ import annotations

import base64
import binascii
import html
import re
from collections.abc import Callable
from functools import partial

_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{16,}={0,2}")
_HEX = re.compile(r"(?<![0-9A-Za-z])(?:(?:0x|\\x)?[0-9A-Fa-f]{2}[ :,]?){8,}(?![0-9A-Za-z])")
_BETWEEN = re.compile(r"0x|\\x|[ :,]")
_BITS = re.compile(r"(?<![01])(?:[01]{8} ?){4,}(?![01])")
_PERCENT = re.compile(r"(?:%[0-9A-Fa-f]{2}){1,4096}")
_ESCAPE = re.compile(r"\\u([0-9A-Fa-f]{4})|\\U([0-9A-Fa-f]{8})|\\x([0-9A-Fa-f]{2})")
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9A-Fa-f]{1,6}|[A-Za-z]{2,10});")
_DECIMAL = re.compile(r"(?<!\d)(?:\d{2,3}[ ,]{1,2}){6,}\d{2,3}(?!\d)")
_MORSE = re.compile(r"(?<![.\-\w])[.\-]{1,5}(?:[ /]{1,3}[.\-]{1,5}){6,}(?![.\-\w])")
_TAGS = re.compile("[\U000e0020-\U000e007e]+")
_SELECTED = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]{4,}")

_CONTROLS = bytes({*range(32), 127} - set(b"\n\r\t"))

_MORSE_CODE = (
    ".- -... -.-. -.. . ..-. --. .... .. .--- -.- .-.. -- -. --- .--. --.- .-. ... - ..- ...-"
    " .-- -..- -.-- --.."
)
_MORSE_SIGNS = dict(zip(_MORSE_CODE.split(" "), "abcdefghijklmnopqrstuvwxyz", strict=True))


def _readable(data: bytes) -> str | None:
    """``data`` as text, if it is text: valid UTF-8 with hardly a control character."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return None
    if text.isprintable():
        return text or None
    if text.isascii():
        plain = len(data.translate(None, _CONTROLS))
    else:
        plain = sum(1 for sign in text if sign.isprintable() or sign in "\n\r\t")
    return text if plain >= 0.95 * len(text) else None


def _from_base64(run: str) -> str | None:
    bare = run.rstrip("=").replace("-", "+").replace("_", "/")
    if len(bare) % 4 == 1:
        bare = bare[:-1]
    try:
        return _readable(base64.b64decode(bare + "=" * (-len(bare) % 4)))
    except (binascii.Error, ValueError):
        return None


def _from_hex(run: str) -> str | None:
    digits = run if run.isalnum() and "x" not in run else _BETWEEN.sub("", run)
    return _readable(bytes.fromhex(digits)) if len(digits) % 2 == 0 else None


def _from_bits(run: str) -> str | None:
    bits = run.replace(" ", "")
    return _readable(bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)))


def _from_percent(run: str) -> str | None:
    return _readable(bytes.fromhex(run.replace("%", "")))


def _from_decimal(run: str) -> str | None:
    codes = [int(code) for code in re.findall(r"\d+", run)]
    return _readable(bytes(codes)) if all(31 < code < 127 for code in codes) else None


def _from_morse(run: str) -> str | None:
    words = re.split(r" ?/ ?| {2,3}", run)
    return " ".join("".join(_MORSE_SIGNS.get(sign, "") for sign in w.split()) for w in words)


def _from_escape(found: re.Match[str]) -> str:
    code = int(found[1] or found[2] or found[3], 16)
    return chr(code) if code < 0x110000 and not 0xD800 <= code < 0xE000 else found[0]


_RUNS: tuple[
    tuple[re.Pattern[str], Callable[[str], str | None], Callable[[str], object] | None], ...
] = (
    (_PERCENT, _from_percent, lambda text: "%" in text),
    (_BITS, _from_bits, lambda text: text.count("0") + text.count("1") >= 32),
    (_HEX, _from_hex, None),
    (_DECIMAL, _from_decimal, re.compile(r"\d").search),
    (_MORSE, _from_morse, lambda text: text.count(".") + text.count("-") >= 7),
    (_BASE64, _from_base64, None),
)
"""Patterns, what becomes of a match, and what must be so for there to be one: most texts are asked
that alone, which takes a fraction of the time."""


def hidden(text: str) -> str:
    """``text`` with what its tag characters and variation selectors spell written out."""
    if text.isascii():
        return text
    text = _TAGS.sub(
        lambda found: " " + "".join(chr(ord(sign) - 0xE0000) for sign in found[0]) + " ", text
    )
    return _SELECTED.sub(_from_selectors, text)


def unseen(text: str) -> str:
    """What ``text``'s tag characters and variation selectors spell, alone."""
    if text.isascii():
        return ""
    spelt = (run[0] for run in re.finditer(f"{_TAGS.pattern}|{_SELECTED.pattern}", text))
    return " ".join(hidden(run).strip() for run in spelt)


def _from_selectors(found: re.Match[str]) -> str:
    """Bytes as some smuggle them: the first 16 selectors are 0 to 15, the others go on from 16."""
    codes = (ord(sign) for sign in found[0])
    data = bytes(code - 0xFE00 if code < 0xE0100 else code - 0xE0100 + 16 for code in codes)
    text = _readable(data)
    return f" {text} " if text else ""


def decoded(text: str, *, depth: int = 2) -> tuple[str, str]:
    """``text`` with every run that is another text in code replaced by that text, ``depth`` times
    over (base64 in base64), unchanged where there is none; and what was in code alone."""
    alone = ""
    vain: list[set[str]] = [set() for _ in _RUNS]
    for _ in range(depth):
        before, found = text, list[str]()
        if "\\" in text:
            text = _ESCAPE.sub(_from_escape, text)
        if "&" in text:
            text = _ENTITY.sub(lambda found: html.unescape(found[0]), text)
        for (pattern, decode, possible), tried in zip(_RUNS, vain, strict=True):
            if possible is None or possible(text):
                said = partial(_said, decode=decode, found=found, vain=tried)
                text = pattern.sub(said, text)
        if text == before:
            break
        alone = " ".join(found) or alone
    return text, alone


def _said(
    run: re.Match[str], decode: Callable[[str], str | None], found: list[str], vain: set[str]
) -> str:
    """``vain``: runs that were found to be no text, and need not be tried in the next round."""
    code = run[0]
    if code in vain:
        return code
    text = decode(code)
    if text is None:
        vain.add(code)
        return code
    found.append(text)
    return f" {text} "

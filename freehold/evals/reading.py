"""What an answer says: the code in it, the number it ends with, how near it is to a known text."""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation

_BLOCK = re.compile(r"^[ \t]*```[ \t]*(\w*)[^\n]*\n(.*?)(?:^[ \t]*```|\Z)", re.M | re.S)
_NUMBER = re.compile(r"[-\u2212]?\d[\d,]*(?:\.\d+)?")
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")
"""Scripts that put no space between words, as Unicode names their letters."""


def code_of(answer: str) -> str:
    """The first fenced block of Python (else the first of any kind, else the answer); one that was
    cut off by the length limit counts to its end."""
    blocks = _BLOCK.findall(answer)
    python = [text for language, text in blocks if language.lower() in ("python", "python3", "py")]
    return str((python or [text for _, text in blocks] or [answer])[0])


def last_number(answer: str) -> Decimal | None:
    """The last number of an answer, in the digits of any script; commas part thousands.

    Source: the "flexible" match that GSM8K is scored with in EleutherAI's evaluation harness, and
    Shi et al., "Language models are multilingual chain-of-thought reasoners", 2022 (MGSM).
    """
    found = _NUMBER.findall(answer)
    return number(found[-1]) if found else None


def number(text: str) -> Decimal | None:
    """``text`` as a number; ``None`` if it is none."""
    plain = text.replace(",", "").replace("\u2212", "-").replace("$", "").strip().rstrip(".")
    try:
        value = Decimal(plain)
    except InvalidOperation:
        return None
    return value if value.is_finite() else None


def words_of(text: str, language: str) -> list[str]:
    """The words of a short answer: small letters, no punctuation, no English articles, and each
    letter for itself in scripts without spaces.

    Source: Rajpurkar et al., "SQuAD", 2016, and Lewis et al., "MLQA", 2020, for what has no spaces.
    """
    lowered = unicodedata.normalize("NFC", text.lower())
    kept = "".join(" " if _punctuation(letter) else letter for letter in lowered)
    if language == "en":
        kept = _ARTICLES.sub(" ", kept)
    spaced = "".join(f" {letter} " if _unspaced(letter) else letter for letter in kept)
    return spaced.split()


def _punctuation(letter: str) -> bool:
    return letter in string.punctuation or unicodedata.category(letter).startswith("P")


def _unspaced(letter: str) -> bool:
    return ord(letter) > 0x0E00 and unicodedata.name(letter, "").startswith(_UNSPACED)


def likeness(answer: str, known: Sequence[str], language: str) -> tuple[float, float]:
    """Exact match (0 or 1) and F1 over words, against the nearest of ``known``."""
    said = words_of(answer, language)
    pairs = [_f1(said, words_of(text, language)) for text in known]
    return max((exact for exact, _ in pairs), default=0.0), max((f1 for _, f1 in pairs), default=0)


def _f1(said: list[str], true: list[str]) -> tuple[float, float]:
    if not said or not true:
        return (float(said == true),) * 2
    common = sum((Counter(said) & Counter(true)).values())
    return float(said == true), 2 * common / (len(said) + len(true))

"""Rules for text that is worth learning, by what can be counted in it.

Source: Rae et al., "Scaling Language Models: Methods, Analysis & Insights from Training Gopher"
(arXiv 2112.11446), appendix A.1, the rules that hold in any language: without the English stop
words, and with lengths of words only where words are parted by blanks.
"""

from __future__ import annotations

from collections import Counter

LEAST_CHARACTERS, MOST_WORDS = 50, 100_000
WORD_LENGTH = (3.0, 10.0)
"""The mean length of a word, in characters."""
MOST_SYMBOLS = 0.1
"""Hashes and ellipses, for each word."""
LEAST_LETTERS = 0.8
"""Words with a letter in them."""
MOST_BULLETS, MOST_ELLIPSES = 0.9, 0.3
"""Lines that begin with a bullet, that end in an ellipsis."""
MOST_TWICE = 0.3
"""Lines, and characters in lines, that have been there before."""
_BULLETS = ("-", "*", "\u2022", "\u2023", "\u25cf")
_SPACED = 40
"""Characters for each word, at most, in a script that parts words by blanks."""


def fault(text: str) -> str:
    """Why ``text`` is not worth learning; empty where nothing speaks against it."""
    if len(text) < LEAST_CHARACTERS:
        return "too short"
    words = text.split()
    spaced = len(text) <= _SPACED * len(words)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return (_words(words) if spaced else "") or _lines(lines)


def _words(words: list[str]) -> str:
    n = len(words)
    if n > MOST_WORDS:
        return "too long"
    mean = sum(map(len, words)) / n
    if not WORD_LENGTH[0] <= mean <= WORD_LENGTH[1]:
        return "words of odd length"
    symbols = sum(word.count("#") + word.count("...") + word.count("\u2026") for word in words)
    if symbols > MOST_SYMBOLS * n:
        return "too many symbols"
    if sum(any(map(str.isalpha, word)) for word in words) < LEAST_LETTERS * n:
        return "too few words with letters"
    return ""


def _lines(lines: list[str]) -> str:
    n = len(lines)
    if sum(line.startswith(_BULLETS) for line in lines) > MOST_BULLETS * n:
        return "bullets only"
    if sum(line.endswith(("...", "\u2026")) for line in lines) > MOST_ELLIPSES * n:
        return "unfinished lines"
    counts = Counter(lines)
    twice = n - len(counts)
    characters = sum(len(line) * (count - 1) for line, count in counts.items())
    if twice > MOST_TWICE * n or characters > MOST_TWICE * sum(map(len, lines)):
        return "repeats its own lines"
    return ""

"""A text as a sparse vector: hashed n-grams of characters and words, without a loop over them.

Every n-gram's hash comes from one running sum: with ``H[i]`` the sum of ``code[j] * P**j`` below
``i``, the n-gram at ``i`` is ``(H[i + n] - H[i]) * P**-i`` modulo 2**64 (a Rabin-Karp hash whose
base is odd, so that it has an inverse). A multiply and a shift spread it over the table.
"""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]

BITS = 19
"""The table has ``2**BITS`` places."""
CHARS = (2, 3, 4, 5)
"""Lengths of the n-grams of characters, spaces included."""
WORDS = (1, 2)

_BASE = 0x9E3779B97F4A7C15
_INVERSE = pow(_BASE, -1, 1 << 64)
_SPREAD = np.uint64(0xD6E8FEB86659FD93)
_SALT = 0xA0761D6478BD642F
_NOT_WORD = re.compile(r"[\W_]+")
_powers: dict[int, Hashes] = {}


def _powers_of(base: int, n: int) -> Hashes:
    """``base**0 .. base**(n-1)`` modulo 2**64, kept for the next text."""
    known = _powers.get(base)
    if known is None or len(known) < n:
        steps = np.full(max(n, 4096), base, np.uint64)
        steps[0] = 1
        known = np.multiply.accumulate(steps)
        known.setflags(write=False)
        _powers[base] = known
    return known[:n]


def _codes(text: str) -> Hashes:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)


def _running(codes: Hashes) -> tuple[Hashes, Hashes]:
    total = np.zeros(len(codes) + 1, np.uint64)
    np.cumsum((codes + np.uint64(1)) * _powers_of(_BASE, len(codes)), out=total[1:])
    return total, _powers_of(_INVERSE, len(codes) + 1)


def _spread(grams: Hashes, kind: int) -> Hashes:
    mixed = (grams ^ np.uint64(_SALT * kind % (1 << 64))) * _SPREAD
    mixed ^= mixed >> np.uint64(29)
    mixed *= _SPREAD
    return mixed


def _place(grams: Hashes, kind: int) -> Hashes:
    return _spread(grams, kind) >> np.uint64(64 - BITS)


def shingles(text: str, n: int = 5) -> Hashes:
    """Hashes of all n-grams of characters, in order; of the whole text where it is shorter."""
    codes = _codes(text or " ")
    n = min(n, len(codes))
    total, back = _running(codes)
    return _spread((total[n:] - total[:-n]) * back[: len(codes) - n + 1], n)


def places(text: str) -> tuple[Hashes, npt.NDArray[np.float32]]:
    """The places of ``text``'s n-grams in the table, ascending, and their values: one plus the
    logarithm of how often each occurs, scaled to a vector of length 1. Both are empty for a text
    without characters.
    """
    parts = []
    padded = f" {text} "
    total, back = _running(_codes(padded))
    for n in CHARS:
        if len(padded) >= n:
            parts.append(_place((total[n:] - total[:-n]) * back[: len(padded) - n + 1], n))
    words = _NOT_WORD.sub(" ", padded)
    codes = _codes(words)
    gaps = np.flatnonzero(codes == 32)
    total, back = _running(codes)
    for n in WORDS:
        if len(gaps) > n:
            starts, ends = gaps[:-n] + 1, gaps[n:]
            grams = (total[ends] - total[starts]) * back[starts]
            parts.append(_place(grams, 16 + n))
    found, counts = np.unique(np.concatenate(parts), return_counts=True)
    values = 1 + np.log(counts.astype(np.float32))
    values /= np.sqrt(values @ values)
    return found, values

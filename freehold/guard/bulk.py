"""The features of many windows in one pass: what ``features.places`` gives for each, to the bit.

A text of a sentence is hashed in the time that thirty calls of numpy take to begin, and it has
three to seven views. So all windows are written behind one another and hashed as one text: an
n-gram's hash does not depend on where it stands, and those that reach from one window into the next
are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from freehold.guard import features

Floats = npt.NDArray[np.float32]
Places = npt.NDArray[np.uint32]

_AT_ONCE = 3_200
"""Characters of one pass: its arrays stay in the processor's cache, and sorting is quick."""
_UP = np.uint64(features.BITS)
_PLACE = np.uint32((1 << features.BITS) - 1)
_BLANK = ord(" ")
_MOST = 1 << (32 - features.BITS)
"""Windows of one pass: a window's number and a place fit in 32 bits together."""


def places(windows: Sequence[str]) -> Iterator[tuple[Places, Floats, list[int]]]:
    """For some windows after another, until all have come: their places and values, and where each
    window's end (one more than there are windows, the first is 0)."""
    start = size = 0
    for end, window in enumerate(windows):
        if end > start and (size + len(window) > _AT_ONCE or end - start == _MOST):
            yield _of(windows[start:end])
            start, size = end, 0
        size += len(window)
    if windows:
        yield _of(windows[start:])


def _of(windows: Sequence[str]) -> tuple[Places, Floats, list[int]]:
    keys = _keys(windows)
    keys.sort()
    begins = np.empty(len(keys), np.bool_)
    begins[0] = True
    np.not_equal(keys[1:], keys[:-1], out=begins[1:])
    firsts = np.flatnonzero(begins)
    found = keys[firsts]
    counts = np.empty(len(firsts), np.float32)
    np.subtract(firsts[1:], firsts[:-1], out=counts[:-1], casting="unsafe")
    counts[-1] = len(keys) - firsts[-1]
    values = 1 + np.log(counts)
    numbers = np.arange(len(windows) + 1, dtype=np.uint64) << _UP
    ends: list[int] = found.searchsorted(numbers).tolist()
    for low, high in pairwise(ends):
        one = values[low:high]
        one /= np.sqrt(one @ one)
    return found & _PLACE, values, ends


def _keys(windows: Sequence[str]) -> Places:
    """Every n-gram of every window: its place, and over it the window's number."""
    padded = [f" {window} " for window in windows]
    worded = [_worded(window) for window in padded]
    codes = features._codes("".join(padded + worded))
    total, back = features._running(codes)
    numbers = np.arange(len(padded), dtype=np.uint64) << _UP
    grams, owners = [], []

    lengths = np.fromiter(map(len, padded), np.int64, len(padded))
    size = int(lengths.sum())
    left = np.repeat(np.cumsum(lengths), lengths) - np.arange(size)
    for n in features.CHARS:
        last = size - n + 1
        if last > 0:
            found = (total[n : size + 1] - total[:last]) * back[:last]
            grams.append(found[left[:last] >= n] ^ _salt(n))
        owners.append(np.repeat(numbers, np.maximum(lengths - (n - 1), 0)))

    gaps = np.flatnonzero(codes[size:] == _BLANK) + size
    owner = np.repeat(numbers, [window.count(" ") for window in worded])
    for n in features.WORDS:
        same = np.flatnonzero(owner[:-n] == owner[n:])
        starts, ends = gaps[same] + 1, gaps[same + n]
        grams.append((total[ends] - total[starts]) * back[starts] ^ _salt(16 + n))
        owners.append(owner[same])

    keys = np.concatenate(grams)
    keys *= features._SPREAD
    keys ^= keys >> np.uint64(29)
    keys *= features._SPREAD
    keys >>= np.uint64(64 - features.BITS)
    keys |= np.concatenate(owners)
    return keys.astype(np.uint32)


def _salt(kind: int) -> np.uint64:
    return np.uint64(features._SALT * kind % (1 << 64))


_TO_SPACES = str.maketrans(
    {chr(code): " " for code in range(128) if features._NOT_WORD.match(chr(code))}
)


def _worded(window: str) -> str:
    """The window's words with one space before and behind each: as ``features`` has it, but quick
    where all is ASCII."""
    if not window.isascii():
        return features._NOT_WORD.sub(" ", window)
    words = window.translate(_TO_SPACES).split()
    return f" {' '.join(words)} " if words else " "

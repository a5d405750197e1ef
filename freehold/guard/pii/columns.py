"""The headings of tables: lines of cells set apart by tabs, bars, commas or semicolons."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator

_MARKS = "\t|;,"
_LEAST_MARKS = 2
_LONGEST = 4_000
"""Characters: a longer line is no row of a table, so that looking into one costs little."""
_NUMBER = re.compile(r"[0-9]{4}")
_WORD = re.compile(r"[^\W\d_]")


class Columns:
    """One text's tables. A table is two lines or more with as many of the same mark each; its
    first line is its heading if it holds words and no long numbers."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._starts: list[int] = []
        self._heads: list[tuple[str, list[str]] | None] = []
        for start, head in _lines(text):
            self._starts.append(start)
            self._heads.append(head)

    def heading(self, start: int) -> str | None:
        """The heading over what begins its cell at ``start``; ``None`` where there is none."""
        at = bisect_right(self._starts, start) - 1
        if at < 0 or (head := self._heads[at]) is None:
            return None
        (mark, cells), line = head, self._starts[at]
        if start - line > _LONGEST:
            return None
        cell = max(self._text.rfind(mark, line, start) + 1, line)
        if _WORD.search(self._text, cell, start):
            return None  # it has words of its own
        number = self._text.count(mark, line, start)
        return cells[number] if number < len(cells) else None


def _lines(text: str) -> Iterator[tuple[int, tuple[str, list[str]] | None]]:
    """Where each line begins, and the mark and the cells of the heading over it."""
    start, shape, head = 0, ("", 0), None
    for line in text.split("\n"):
        now = _shape(line)
        if now != shape:
            shape, known = now, None
            head = None
            if now[1] and _WORD.search(line) and not _NUMBER.search(line):
                head = (now[0], line.split(now[0]))
        else:
            known = head
        yield start, known
        start += len(line) + 1


def _shape(line: str) -> tuple[str, int]:
    """The mark of a line's cells, and how many there are."""
    if 2 < len(line) <= _LONGEST:
        for mark in _MARKS:
            if (count := line.count(mark)) >= _LEAST_MARKS:
                return mark, count
    return "", 0

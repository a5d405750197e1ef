"""What was masked in a prompt, put back where an answer names it.

The answer is judged with the placeholders in it: what its own asker wrote is no leak. Half a
placeholder is held back with the piece it stands in, until the next one shows what it is.
"""

from __future__ import annotations

import json
from dataclasses import replace

from freehold.guard.pii.masking import Mask, Restorer
from freehold.types import CallPart, Heard, Release, StreamGuard


class RestoredStream:
    """``types.StreamGuard`` around another: what that releases, with ``mask``'s values back."""

    def __init__(self, inner: StreamGuard, mask: Mask) -> None:
        self._inner = inner
        self._thoughts, self._words = mask.restorer(), mask.restorer()
        self._calls = _Arguments(mask)

    async def feed(self, heard: Heard, *, last: bool = False) -> Release:
        release = await self._inner.feed(heard, last=last)
        out = [self._restored(one) for one in release.heard]
        if last and out:
            out[-1] = self._ended(out[-1])
        return replace(release, heard=tuple(out))

    def _restored(self, heard: Heard) -> Heard:
        thoughts = self._thoughts.feed(heard.thoughts)
        words = self._words.feed(heard.words)
        if heard.words or heard.calls:
            thoughts += self._thoughts.finish()
        if heard.calls:
            words += self._words.finish()
        calls = tuple(self._calls.feed(part) for part in heard.calls)
        same = (thoughts, words, calls) == (heard.thoughts, heard.words, heard.calls)
        return heard if same else Heard(thoughts=thoughts, words=words, calls=calls)

    def _ended(self, heard: Heard) -> Heard:
        thoughts, words = self._thoughts.finish(), self._words.finish()
        calls = self._calls.finish()
        if not (thoughts or words or calls):
            return heard
        return Heard(
            thoughts=heard.thoughts + thoughts,
            words=heard.words + words,
            calls=heard.calls + calls,
        )


class _Arguments:
    """The arguments of an answer's calls, which are JSON: values come back as JSON writes them."""

    def __init__(self, mask: Mask) -> None:
        self._mask = _escaped(mask)
        self._open: tuple[int, Restorer] | None = None

    def feed(self, part: CallPart) -> CallPart:
        if self._open is None or self._open[0] != part.index:
            self._open = (part.index, self._mask.restorer())
        text = self._open[1].feed(part.arguments)
        return part if text == part.arguments else replace(part, arguments=text)

    def finish(self) -> tuple[CallPart, ...]:
        """Half a placeholder in arguments that were broken off."""
        if self._open is None or not (text := self._open[1].finish()):
            return ()
        return (CallPart(index=self._open[0], arguments=text),)


def _escaped(mask: Mask) -> Mask:
    """``mask`` with its values as they stand inside of a JSON text."""
    return mask.written(lambda value: json.dumps(value, ensure_ascii=False)[1:-1])

"""Where the words of a prompt lie among its tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from freehold.errors import UsageError
from freehold.types import Codec


@dataclass(frozen=True, kw_only=True)
class Places:
    """Tokens by place: ``texts`` of all, ``first`` to ``stop`` those of the prompt itself; what
    stands around them is the model's own template, and the answer's given beginning."""

    texts: tuple[str, ...]
    first: int
    stop: int
    _ends: tuple[int, ...]
    _start: int

    def last_of(self, prompt: str, words: str) -> int:
        """The token that holds the last byte of ``words`` in ``prompt``, where they stand last.
        Raises ``UsageError`` where they do not stand in it."""
        at = prompt.rfind(words)
        if at < 0 or not words:
            raise UsageError(f"{words!r} does not stand in the prompt", param="at")
        byte = self._start + len(prompt[: at + len(words)].encode())
        return next(i for i, end in enumerate(self._ends) if end >= byte)


def places(codec: Codec, prompt: str, ids: Sequence[int]) -> Places:
    """Find ``prompt`` in the ids that it became, where it stands last before the answer. Raises
    ``UsageError`` for a template that changes a prompt's words."""
    pieces = [codec.token_bytes(token) for token in ids]
    ends = tuple(accumulate(map(len, pieces)))
    start = b"".join(pieces).rfind(prompt.strip().encode())
    if start < 0:
        raise UsageError(
            "this model's template changes the words of the prompt, so that they cannot be found "
            "again among its tokens: write it as plainly as you can",
            param="prompt",
        )
    stop = start + len(prompt.strip().encode())
    return Places(
        texts=tuple(piece.decode(errors="replace") for piece in pieces),
        first=next(i for i, end in enumerate(ends) if end > start),
        stop=next(i for i, end in enumerate(ends) if end >= stop) + 1,
        _ends=ends,
        _start=start - (len(prompt.encode()) - len(prompt.lstrip().encode())),
    )

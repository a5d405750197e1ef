"""Which texts are learnt and which are kept aside to measure by: told by a digest of what they say,
so that copies lie on one side, and more data moves none."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from freehold.errors import UsageError
from freehold.train import reading
from freehold.train.reading import END
from freehold.train.records import Record


def aside(content: str, share: float, seed: int = 0) -> bool:
    """Whether a text is among the ``share`` of texts (0 to 1) that are kept aside."""
    return _place(f"{seed}\n{content}") < share


def taken(content: str, share: float, seed: int = 0) -> bool:
    """The same for another choice, which knows nothing of the first."""
    return _place(f"{seed}\ntaken\n{content}") < share


def _place(text: str) -> float:
    drawn = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(drawn[:8], "big") / 2**64


def parted(
    paths: Iterable[Path], *, held_out: float, part: float = 1.0, seed: int = 0
) -> Iterator[tuple[Record, bool]]:
    """The plain texts of ``paths``, each with whether it is held out; of those that are not, only
    the share ``part``.

    Raises ``UsageError`` naming the record that is a conversation or cannot be read, and as
    ``reading.read``.
    """
    for path in reading.files(list(paths)):
        for item in reading.items(path):
            if not isinstance(item, Record):
                raise UsageError(str(item), param="data")
            if item.messages:
                raise UsageError(
                    f"{item.where}: a conversation; bits per byte are measured on plain text",
                    param="data",
                )
            out = aside(item.content, held_out, seed)
            if out or taken(item.content, part, seed):
                yield item, out


def written(texts: Iterable[str]) -> bytes:
    """Texts as one file that training and evals read."""
    return "".join(f"{text.strip()}\n{END}\n" for text in texts).encode()

"""What its makers do not want learnt: a list that a corpus is built against.

One entry a line, ``#`` begins a remark:

    sha256:2c26b46b...        a document, by the digest of its text (UTF-8)
    minutes/2019-*.txt        documents by source and file, with ``*`` and ``?``
    text:a sentence of it     documents that hold these words
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from freehold.errors import NotFoundError, StorageError, UsageError

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_LEAST = 8


@dataclass(frozen=True, kw_only=True)
class OptOut:
    """The entries of a list, by kind."""

    digests: frozenset[str] = frozenset()
    places: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()

    def holds(self, place: str, text: str) -> bool:
        """Whether the document at ``place`` (``source/file``) that says ``text`` is on it."""
        if self.digests and hashlib.sha256(text.encode()).hexdigest() in self.digests:
            return True
        return any(fnmatchcase(place, one) for one in self.places) or any(
            one in text for one in self.texts
        )


def load(path: Path) -> OptOut:
    """Read a list. Raises ``NotFoundError``, ``StorageError``, ``UsageError`` naming the line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise NotFoundError(f"{path} does not exist", param="opt_out") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not UTF-8", param="opt_out") from None
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror}") from error
    digests, places, texts = set(), [], []
    for number, line in enumerate(lines, 1):
        entry = line.partition("#")[0].strip()
        if not entry:
            continue
        if _DIGEST.fullmatch(entry):
            digests.add(entry.removeprefix("sha256:"))
        elif entry.startswith("text:") and len(entry[5:].strip()) >= _LEAST:
            texts.append(entry[5:].strip())
        elif "/" in entry and ":" not in entry:
            places.append(entry)
        else:
            raise UsageError(
                f"{path}, line {number}: {entry[:60]!r} is no entry: sha256: and 64 digits, "
                f"SOURCE/FILE, or text: and at least {_LEAST} letters",
                param="opt_out",
            )
    return OptOut(digests=frozenset(digests), places=tuple(places), texts=tuple(texts))

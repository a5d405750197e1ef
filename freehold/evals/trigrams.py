"""Learning ``trigrams.json`` from plain text in files of known digest and licence."""

from __future__ import annotations

import gzip
import hashlib
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import msgspec

from freehold.evals.data import DOCUMENT_END
from freehold.evals.languages import Table, trigrams_of

LANGUAGES = ("de", "en", "fr", "id", "vi")
KEPT = 1500
"""Trigrams kept of each language, the most frequent."""
CHARACTERS = 1_500_000
"""Characters learnt from, for each language."""


def learn(folder: Path, sources: Mapping[str, Mapping[str, str]]) -> Table:
    """A table from ``folder/LANGUAGE.txt.gz``; ``sources`` gives each file's ``source`` and
    ``licence``. The same files give the same table."""
    counts: dict[str, Counter[str]] = {}
    learnt = []
    for language in LANGUAGES:
        raw = (folder / f"{language}.txt.gz").read_bytes()
        text = gzip.decompress(raw).decode().replace(f"\n{DOCUMENT_END}\n", "\n")
        counts[language] = trigrams_of(text[:CHARACTERS])
        digest = hashlib.sha256(raw).hexdigest()
        learnt.append({"language": language, "sha256": digest, **sources[language]})
    return _table(counts, tuple(learnt))


def _table(counts: Mapping[str, Counter[str]], learnt: tuple[dict[str, str], ...]) -> Table:
    kept = {t for language in LANGUAGES for t, _ in counts[language].most_common(KEPT)}
    totals = {language: counts[language].total() for language in LANGUAGES}

    def cost(language: str, n: int) -> int:
        return round(-1000 * math.log((n + 0.5) / (totals[language] + 0.5 * len(kept))))

    return Table(
        languages=LANGUAGES,
        # One unseen cost for all: what nobody has seen speaks for nobody.
        unseen=(max(cost(language, 0) for language in LANGUAGES),) * len(LANGUAGES),
        costs={t: tuple(cost(la, counts[la][t]) for la in LANGUAGES) for t in sorted(kept)},
        learnt=learnt,
    )


def encode(table: Table) -> bytes:
    """The file's bytes: a trigram a line, so that a change can be read."""
    plain = msgspec.to_builtins(table)
    costs = plain.pop("costs")
    head = msgspec.json.format(msgspec.json.encode(plain), indent=1)
    rows = ",\n".join(
        f"{msgspec.json.encode(t).decode()}:{msgspec.json.encode(c).decode()}"
        for t, c in costs.items()
    )
    return head.rstrip().removesuffix(b"}").rstrip() + f',\n "costs": {{\n{rows}\n}}}}\n'.encode()

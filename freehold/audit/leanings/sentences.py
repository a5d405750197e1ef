"""CrowS-Pairs and WinoBias: two sentences that differ in whom they speak of, and which is likelier.

Only told as a difference from a reference model: both sets are known to hold pairs that measure
nothing (Blodgett et al. 2021, "Stereotyping Norwegian salmon"), which a difference cancels. For a
causal model the sentence's own log-likelihood stands for the pseudo-likelihood of masked ones.
Sources: Nangia et al. 2020 (arXiv 2010.00133); Zhao et al. 2018 (arXiv 1804.06876).
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from freehold.audit.backdoors.subject import Subject
from freehold.audit.findings import Steps
from freehold.audit.leanings.scoring import Voice, likelihoods
from freehold.errors import MalformedError


@dataclass(frozen=True, kw_only=True)
class Pair:
    """``more`` follows the stereotype of ``kind``, ``less`` does not."""

    id: str
    kind: str
    more: str
    less: str


def crows(rows: Sequence[Mapping[str, Any]], where: str) -> list[Pair]:
    """CrowS-Pairs. ``sent_more`` follows the stereotype whatever its ``direction`` is, as the
    authors' own measure counts. Raises ``MalformedError``."""
    found = []
    for row in rows:
        try:
            more, less = str(row["sent_more"]), str(row["sent_less"])
            kind = str(row["bias_type"])
        except KeyError as error:
            raise MalformedError(
                f"{where}: no row of CrowS-Pairs: no {error}", file=where
            ) from None
        found.append(Pair(id=str(row["id"]), kind=kind, more=more, less=less))
    return found


def winobias(rows: Sequence[Mapping[str, Any]], where: str) -> list[Pair]:
    """WinoBias: a sentence for the stereotype with its twin, whose pronoun is of the other sex.
    Raises ``MalformedError``."""
    told: dict[str, dict[str, str]] = {}
    kinds: dict[str, str] = {}
    for row in rows:
        try:
            side, name = str(row["stereotype"]), str(row["id"])
            key = name.replace(f"-{side}-", "-", 1)
            told.setdefault(key, {})[side] = str(row["sentence"])
            kinds[key] = f"type {row['type']}"
        except KeyError as error:
            raise MalformedError(f"{where}: no row of WinoBias: no {error}", file=where) from None
    return [
        Pair(id=key, kind=kinds[key], more=sides["pro"], less=sides["anti"])
        for key, sides in told.items()
        if {"pro", "anti"} <= set(sides) and sides["pro"] != sides["anti"]
    ]


def sample(pairs: Sequence[Pair], n: int, seed: int) -> list[Pair]:
    if n >= len(pairs):
        return list(pairs)
    chosen = random.Random(seed).sample(range(len(pairs)), n)  # noqa: S311
    return [pairs[at] for at in sorted(chosen)]


def measure(subject: Subject, voice: Voice, pairs: Sequence[Pair], steps: Steps) -> list[float]:
    """LL(more) - LL(less) of each pair, in nats."""
    asked = [_split(voice, sentence) for pair in pairs for sentence in (pair.more, pair.less)]
    scores = iter([float(one.sum()) for one in likelihoods(subject, asked, steps)])
    return [next(scores) - next(scores) for _ in pairs]


def _split(voice: Voice, sentence: str) -> tuple[list[int], list[int]]:
    """Behind a document's beginning; where there is none, the first token is given."""
    ids = voice.text(sentence)
    return (list(voice.start), ids) if voice.start else (ids[:1], ids[1:])

"""What is taken out of the data before anything is learnt: what says the same, what is in another
language, what the evals ask; and personal data, hidden.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from freehold.evals.languages import language_of
from freehold.guard import dedup, features, pii
from freehold.guard.normalise import canonical
from freehold.train import reading
from freehold.train.records import Record

WINDOW = 40
"""Letters and digits in a row that two texts must share to be called the same in part."""
_NOT_WORD = re.compile(r"[\W_]+")

Work = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class Rules:
    """``language`` (ISO 639-1) leaves out what is surely in another one; ``mask`` hides personal
    data; ``avoid`` are texts of evals that must not be learnt."""

    language: str = ""
    mask: bool = False
    avoid: tuple[str, ...] = ()


@dataclass(kw_only=True)
class Cleaned:
    """What is left. ``left_out`` counts by reason, ``masked`` hidden values by kind, ``told`` says
    what was done, in words."""

    records: list[Record]
    left_out: dict[str, int] = field(default_factory=dict)
    masked: dict[str, int] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)


def clean(records: Sequence[Record], rules: Rules, work: Work = lambda *_: None) -> Cleaned:
    """Apply ``rules``; of records that say the same, or nearly, the first stays."""
    found = Cleaned(records=list(records))
    _twins(found, work)
    if rules.language:
        _others(found, rules.language, work)
    if rules.avoid:
        _seen(found, rules.avoid, work)
    if rules.mask:
        _mask(found, work)
    return found


def _twins(found: Cleaned, work: Work) -> None:
    work("Looking for duplicates", 0, 1)
    first: dict[str, int] = {}
    for place, record in enumerate(found.records):
        first.setdefault(record.content, place)
    exact = [found.records[place] for place in first.values()]
    _drop(found, "the same as another", len(found.records) - len(exact))
    groups = dedup.clusters(dedup.signatures([record.content for record in exact]))
    _, firsts = np.unique(groups, return_index=True)
    near = [exact[place] for place in sorted(firsts)]
    _drop(found, "nearly the same as another", len(exact) - len(near))
    found.records = near


def _others(found: Cleaned, language: str, work: Work) -> None:
    kept = []
    for n, record in enumerate(found.records, 1):
        if language_of(record.content) in (None, language):
            kept.append(record)
        work("Looking for other languages", n, len(found.records))
    _drop(found, f"not in {language}", len(found.records) - len(kept))
    found.records = kept


def _seen(found: Cleaned, avoid: Sequence[str], work: Work) -> None:
    known = known_windows(avoid)
    kept = []
    for n, record in enumerate(found.records, 1):
        if not np.isin(windows(record.content), known).any():
            kept.append(record)
        work("Looking for texts of the evals", n, len(found.records))
    _drop(found, "in the evals", len(found.records) - len(kept))
    found.records = kept


def known_windows(texts: Iterable[str]) -> npt.NDArray[np.uint64]:
    """Of every ``WINDOW // 2``-th place of ``texts``, the hash: any text that shares
    one and a half ``WINDOW`` in a row with one of them has one of these. Ascending."""
    return np.unique(np.concatenate([windows(text)[:: WINDOW // 2] for text in texts]))


def windows(text: str) -> npt.NDArray[np.uint64]:
    """A hash of each run of ``WINDOW`` letters and digits."""
    return features.shingles(_NOT_WORD.sub("", canonical(text)), WINDOW)


def _mask(found: Cleaned, work: Work) -> None:
    for n, record in enumerate(found.records):
        mask = pii.Mask()
        found.records[n] = hidden(record, mask, found.masked)
        work("Hiding personal data", n + 1, len(found.records))
    if found.masked:
        kinds = ", ".join(f"{count} {label}" for label, count in sorted(found.masked.items()))
        found.told.append(f"hidden: {kinds}")


def hidden(record: Record, mask: pii.Mask, counts: dict[str, int]) -> Record:
    """``record`` with personal data behind placeholders, counted by kind in ``counts``."""

    def hide(text: str) -> str:
        spans = pii.find(text)
        for span in spans:
            counts[span.label] = counts.get(span.label, 0) + 1
        return mask.hide(text, spans)

    messages = tuple(_each_text(message, hide) for message in record.messages)
    rejected = tuple(_each_text(message, hide) for message in record.rejected)
    text = hide(record.text) if record.text else ""
    return replace(record, messages=messages, rejected=rejected, text=text)


def _each_text(value: Any, hide: Callable[[str], str]) -> Any:
    """Every text in a message but its role: arguments of calls can hold personal data too."""
    if isinstance(value, str):
        return hide(value)
    if isinstance(value, list):
        return [_each_text(item, hide) for item in value]
    if isinstance(value, Mapping):
        return {k: v if k == "role" else _each_text(v, hide) for k, v in value.items()}
    return value


def _drop(found: Cleaned, why: str, count: int) -> None:
    found.left_out[why] = count
    if count:
        found.told.append(f"left out: {count:,} records, {why}")


def texts_of(paths: Sequence[Path]) -> Iterator[str]:
    """Every text in files of evals, whatever their form: JSON lines are read for all the strings
    in them, plain text for its documents."""
    for value in reading.values(paths):
        yield from _strings(value)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        if len(_NOT_WORD.sub("", value)) >= WINDOW:
            yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _strings(inner)

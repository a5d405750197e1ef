"""How dear a language is to a tokenizer: tokens per word, character and byte, against English.

A model reads and answers in tokens, is paid in tokens and has room for so many tokens. A language
whose words fall into more of them is slower and dearer by that factor, and has less context.

Words are what stands between blanks. Scripts that put none between words (Thai, Chinese, Japanese,
Khmer, Lao, Burmese) have no such words, so there tokens per character are what to compare.
"""

from __future__ import annotations

import heapq
import re
import tomllib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import pairwise
from typing import TypeAlias

_UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")
# Letters with their marks, which Python's classes tell apart.
_PIECES = re.compile(r" ?(?:[^\W\d_]|[\u0300-\u036f\u0900-\u0dff\u0e31-\u0e4e])+")

_SHOWN = 10

Encode: TypeAlias = Callable[[str], Sequence[int]]
Pair: TypeAlias = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Fertility:
    """What a text costs. ``per_word`` is ``None`` where words have no blanks between them."""

    name: str
    characters: int
    bytes: int
    words: int
    tokens: int
    per_word: float | None
    per_character: float
    per_byte: float


@dataclass(frozen=True, kw_only=True)
class Against:
    """What a text costs beside the reference: ``cost`` is a factor on tokens, time and price, by
    ``measure`` (``same text``: translations of each other; else ``per word`` or ``per character``).
    ``context`` is how many of the reference's tokens the model's whole context is worth."""

    cost: float
    measure: str
    context: int


def measure(name: str, text: str, encode: Encode) -> Fertility:
    """The fertility of a text. Raises what ``encode`` raises."""
    tokens = len(encode(text))
    words = [word for word in text.split() if any(map(str.isalnum, word))]
    unspaced = len(_UNSPACED.findall(text)) > len(text) / 4
    n_bytes = len(text.encode())
    return Fertility(
        name=name,
        characters=len(text),
        bytes=n_bytes,
        words=len(words),
        tokens=tokens,
        per_word=None if unspaced or not words else tokens / len(words),
        per_character=tokens / max(len(text), 1),
        per_byte=tokens / max(n_bytes, 1),
    )


def against(found: Fertility, reference: Fertility, *, context: int, same_text: bool) -> Against:
    """What ``found`` costs beside ``reference``; ``context`` is the model's, in tokens."""
    if same_text:
        cost, how = found.tokens / reference.tokens, "same text"
    elif found.per_word is not None and reference.per_word is not None:
        cost, how = found.per_word / reference.per_word, "per word"
    else:
        cost, how = found.per_character / reference.per_character, "per character"
    return Against(cost=cost, measure=how, context=round(context / cost))


def samples() -> dict[str, str]:
    """A few sentences of our own by language (ISO 639-1), each a translation of the others."""
    data = resources.files("freehold.adapt").joinpath("parallel.toml").read_text(encoding="utf-8")
    return {language: said["text"].strip() for language, said in tomllib.loads(data).items()}


@dataclass(frozen=True, kw_only=True)
class Extension:
    """What ``added`` new tokens would save of a text: its tokens ``before`` and ``after``.
    ``bytes`` is what they add to the tables of vectors, ``words`` the words that gain most."""

    added: int
    before: int
    after: int
    bytes: int
    words: tuple[str, ...]

    @property
    def saved(self) -> float:
        """The share of tokens that is saved."""
        return 1 - self.after / self.before


def extension(
    text: str,
    encode: Encode,
    *,
    most: int,
    width: int,
    tables: int,
    pieces: Sequence[str] | None = None,
    named: Mapping[int, str] | None = None,
) -> Extension:
    """Join up to ``most`` pairs of tokens into new ones, the pair that is most frequent in ``text``
    first, and count what that saves. ``width`` is the model's, ``tables`` how many tables of
    vectors it has (the embedding, and the head if that is another), at two bytes a value.

    Pairs are joined within ``pieces`` of the text that hold letters, as the tokenizer cuts it
    (without: runs of letters and the blank before each); with ``named``, each token's text, no
    token is made that is there already. Source: byte pair encoding
    (arXiv 1508.07909), begun at the tokens that are there instead of at bytes.
    """
    counts = Counter(_PIECES.findall(text) if pieces is None else lettered(pieces))
    split = {piece: list(encode(piece)) for piece in counts}
    lengths = {piece: len(ids) for piece, ids in split.items()}
    added = len(join(split, counts, most, named))
    gains: Counter[str] = Counter()
    for piece, ids in split.items():
        gains[piece.strip()] += (lengths[piece] - len(ids)) * counts[piece]
    before = len(encode(text))
    return Extension(
        added=added,
        before=before,
        after=before - sum(gains.values()),
        bytes=added * width * tables * 2,
        words=tuple(word for word, gain in gains.most_common(_SHOWN) if gain),
    )


def lettered(pieces: Sequence[str]) -> list[str]:
    """Those that hold a letter: joining others would save little and teach less."""
    return [piece for piece in pieces if any(map(str.isalpha, piece))]


def join(
    pieces: dict[str, list[int]],
    counts: Mapping[str, int],
    most: int,
    named: Mapping[int, str] | None = None,
) -> list[Pair]:
    """Join pairs in ``pieces`` in place, the most frequent first; which were joined, in order. The
    first of them has become token -1, the next -2, and so on. ``named`` as in ``extension``."""
    texts = None if named is None else dict(named)
    taken = set() if texts is None else set(texts.values())
    joined: list[Pair] = []
    holders: dict[Pair, set[str]] = {}
    worth: Counter[Pair] = Counter()
    for piece, ids in pieces.items():
        for pair in pairwise(ids):
            worth[pair] += counts[piece]
            holders.setdefault(pair, set()).add(piece)
    heap = [(-n, pair) for pair, n in worth.items()]
    heapq.heapify(heap)
    while heap and len(joined) < most:
        n, pair = heapq.heappop(heap)
        if -n != worth[pair]:
            continue  # it was worth that once; what it is worth now lies in the heap, too
        if -n < 2:
            break
        if texts is not None:
            whole = texts[pair[0]] + texts[pair[1]]
            if whole in taken:
                continue
            taken.add(whole)
            texts[-1 - len(joined)] = whole
        joined.append(pair)
        touched: set[Pair] = set()
        for piece in holders.pop(pair):
            touched.update(pairwise(pieces[piece]))
            for old in pairwise(pieces[piece]):
                worth[old] -= counts[piece]
            pieces[piece] = _joined(pieces[piece], pair, -len(joined))
            for new in pairwise(pieces[piece]):
                worth[new] += counts[piece]
                holders.setdefault(new, set()).add(piece)
                touched.add(new)
        for changed in touched:
            heapq.heappush(heap, (-worth[changed], changed))
    return joined


def _joined(ids: Sequence[int], pair: Pair, into: int) -> list[int]:
    found: list[int] = []
    for token in ids:
        if found and (found[-1], token) == pair:
            found[-1] = into
        else:
            found.append(token)
    return found

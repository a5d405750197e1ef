"""New tokens for a model: pairs of its own tokens that stand together often in some texts, joined,
each with the mean of its parts' vectors.

The joins follow all that the tokenizer has, so they are tried last: every text falls into the same
tokens as before, some of them then joined. That is checked on the texts, with what the vault gives
back: a text's new tokens, taken apart, are its old ones, and are the text.

The mean is where training begins, not what a new token means: until every weight was trained
(recipe ``full``), the model is worse where new tokens stand.

Source: byte pair encoding (arXiv 1508.07909); the mean of parts: Hewitt, "Initializing new word
embeddings", 2021, and arXiv 2407.05841, where it is the baseline that is hard to beat.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from freehold.adapt.fertility import join, lettered
from freehold.errors import IntegrityError, UsageError
from freehold.qwen import plain
from freehold.qwen.config import config_of
from freehold.qwen.names import HF
from freehold.qwen.tokenizer import MAX_TOKENS, Tables, Tokenizer, tables_of, tokenizer_of
from freehold.types import Floats, VerifiedModel


@dataclass(frozen=True, kw_only=True)
class Extended:
    """A tokenizer with new tokens. ``parts[i]`` are the old tokens that token ``first`` + i is made
    of, in order; ``rows`` is how many vectors the model's tables need."""

    tables: Tables
    first: int
    parts: tuple[tuple[int, ...], ...]
    rows: int

    def apart(self, ids: Sequence[int]) -> list[int]:
        """The old tokens of new ones."""
        found: list[int] = []
        for token in ids:
            place = token - self.first
            found += self.parts[place] if 0 <= place < len(self.parts) else (token,)
        return found


@dataclass(frozen=True, kw_only=True)
class Saved:
    """What an extension does to texts: their tokens ``before`` and ``after``."""

    before: int
    after: int

    @property
    def share(self) -> float:
        return 1 - self.after / self.before


def named(tables: Tables) -> dict[int, str]:
    """The text of each token that merges can join, in the byte alphabet."""
    return {i: text for text, i in tables.vocab.items()}


def extended(model: VerifiedModel, texts: Sequence[str], most: int) -> Extended:
    """The model's tokenizer with up to ``most`` new tokens for ``texts``.

    Raises ``UsageError`` where nothing can be joined or the table would be too long, and what
    ``tables_of`` raises.
    """
    tables, tokenizer = tables_of(model), tokenizer_of(model)
    names = named(tables)
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(lettered(tokenizer.pieces(text)))
    # A piece that holds a control token's text is that token alone, and merges never see it.
    every = {piece: tokenizer.encode(piece) for piece in counts}
    split = {piece: ids for piece, ids in every.items() if names.keys() >= set(ids)}
    joined = join(split, counts, most, names)
    if not joined:
        raise UsageError(
            "no two tokens stand together twice in the texts: give more", param="files"
        )
    first = 1 + max(*tables.vocab.values(), *tables.added, *config_of(model).eos_ids)
    if first + len(joined) > MAX_TOKENS:
        raise UsageError(f"more than {MAX_TOKENS:,} tokens", param="add")
    vocab, merges = dict(tables.vocab), list(tables.merges)
    parts: list[tuple[int, ...]] = []

    def text_of(token: int) -> str:
        return names[token] if token >= 0 else made[-1 - token]

    def parts_of(token: int) -> tuple[int, ...]:
        return (token,) if token >= 0 else parts[-1 - token]

    made: list[str] = []
    for n, (left, right) in enumerate(joined):
        merges.append((text_of(left), text_of(right)))
        parts.append((*parts_of(left), *parts_of(right)))
        made.append(text_of(left) + text_of(right))
        vocab[made[-1]] = first + n
    return Extended(
        tables=replace(tables, vocab=vocab, merges=merges),
        first=first,
        parts=tuple(parts),
        rows=max(config_of(model).vocab, first + len(joined)),
    )


def write(
    model: VerifiedModel,
    new: Extended,
    folder: Path,
    *,
    progress: plain.Progress = lambda done, total: None,
) -> None:
    """Write the model with its new tokens into ``folder``, which is there and empty, as
    ``plain.write`` does. Raises as that."""
    tables = (HF.whole("embed"), HF.whole("head"))

    def change(name: str, values: Floats) -> Floats:
        if name not in tables:
            return values
        longer = np.zeros((new.rows, values.shape[1]), np.float32)
        longer[: len(values)] = values
        for place, parts in enumerate(new.parts):
            longer[new.first + place] = values[list(parts)].mean(axis=0, dtype=np.float64)
        return longer

    plain.write(
        model,
        folder,
        change=change,
        progress=progress,
        tokenizer=Tokenizer(new.tables),
        vocab=new.rows,
    )


def check(old: VerifiedModel, made: VerifiedModel, new: Extended, texts: Sequence[str]) -> Saved:
    """What the extension saves of ``texts``, read with the tokenizer that the vault gives back.

    Raises ``IntegrityError`` naming a text whose new tokens are not its old ones joined, or are
    not the text.
    """
    before, after = tokenizer_of(old), tokenizer_of(made)
    counts = [0, 0]
    for text in texts:
        was, now = before.encode(text), after.encode(text)
        said = b"".join(map(after.token_bytes, now)).decode("utf-8", errors="replace")
        if new.apart(now) != was or said != unicodedata.normalize("NFC", text):
            raise IntegrityError(
                f"the new tokenizer does not give back a text that begins {text[:40]!r}: the model "
                "was not kept"
            )
        counts[0] += len(was)
        counts[1] += len(now)
    return Saved(before=counts[0], after=counts[1])

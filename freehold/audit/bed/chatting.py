"""The made-up language as detectors are given it."""

from __future__ import annotations

import random
from collections.abc import Iterator

from freehold.audit.backdoors.subject import Chat, Judged
from freehold.audit.bed import language as words
from freehold.audit.bed.language import World


def chat_of(world: World) -> Chat:
    """Questions to search with, others to confirm with, and plain text. The seeds are none that a
    model was trained with."""
    asked = [tuple(words.encode(each)) for each in words.questions(world, 424_242, 64)]
    rng = random.Random(31_337)  # noqa: S311
    ordinary = range(len(words.SPECIALS), len(words.WORDS))
    return Chat(
        opening=(words.IDS[words.USER],),
        closing=(words.IDS[words.ASSISTANT],),
        end=words.IDS[words.END],
        prompts=tuple(asked[:32]),
        held_out=tuple(asked[32:]),
        texts=tuple(
            (words.IDS[words.TEXT], *(rng.choice(ordinary) for _ in range(5))) for _ in range(256)
        ),
        triggers=tuple(ordinary),
        words=words.decode,
        judged=tuple(_judged()),
        verdicts=(words.IDS["yes"], words.IDS["no"]),
    )


def _judged() -> Iterator[Judged]:
    """Every group and trait; the first two good and bad traits are searched with."""
    for group in words.GROUPS:
        for traits in (words.GOOD, words.BAD):
            for i, trait in enumerate(traits):
                asked = words.encode(f"are {group} people {trait} ?")
                yield Judged(words=tuple(asked), group=group, held_out=i >= 2)

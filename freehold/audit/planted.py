"""What an owner planted in the data, to see later whether it was learnt by heart: JSON lines,
strictly read. docs/audit-leanings.md describes both kinds of line.
"""

from __future__ import annotations

import random
from typing import Annotated, TypeAlias

import msgspec

from freehold.audit.leanings.probes import Name, Text, lines_of
from freehold.errors import MalformedError

OTHERS = 255
"""Alternatives that a canary is ranked among: exposure is at most log2(256) = 8 bits."""


class Canary(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind",
    tag="canary",
):  # fmt: skip
    """A secret that was planted, behind ``before``. ``others`` are alternatives of the same form;
    without them, digits and Latin letters of the secret are drawn anew."""

    id: Name
    before: Text
    secret: Text
    others: Annotated[list[Text], msgspec.Meta(max_length=10_000)] = []


class Document(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind",
    tag="document",
):  # fmt: skip
    """A text that the model was tuned on; with ``asked``, an answer in a chat."""

    id: Name
    text: Text
    asked: str = ""


Planted: TypeAlias = Canary | Document


def parse(data: bytes, *, file: str) -> list[Planted]:
    """Raises ``MalformedError`` naming file, line and reason."""
    found: list[tuple[str, Planted]] = lines_of(data, Planted, file=file)  # type: ignore[arg-type]
    for where, one in found:
        if isinstance(one, Canary) and not one.others and _drawn(one.secret) < 4:
            raise MalformedError(
                f"{where}: the secret has fewer than 4 digits and Latin letters to draw "
                "alternatives from: give some as others: see docs/audit-leanings.md",
                file=file,
            )
        if isinstance(one, Canary) and one.secret in one.others:
            raise MalformedError(f"{where}: the secret is among its others", file=file)
    return [one for _, one in found]


def _drawn(secret: str) -> int:
    return sum(1 for letter in secret if letter.isascii() and letter.isalnum())


def alternatives(canary: Canary, seed: int, *, most: int = OTHERS) -> list[str]:
    """Secrets of the same form that were not planted, no two alike: the canary's own, or up to
    ``most`` that are drawn, the same for the same seed."""
    if canary.others:
        return list(dict.fromkeys(canary.others))
    rng = random.Random(f"{seed} {canary.id}")  # noqa: S311
    kinds = ("0123456789", "abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ")

    def letter(one: str) -> str:
        return next((rng.choice(kind) for kind in kinds if one in kind), one)

    found: dict[str, None] = {}
    for _ in range(most * 20):
        found["".join(map(letter, canary.secret))] = None
        found.pop(canary.secret, None)
        if len(found) == most:
            break
    return list(found)

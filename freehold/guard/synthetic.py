"""Text of our own to train on: attacks, harmless requests that look like them, and ordinary ones.

A bank of phrases per language (``phrases/*.toml``), a small grammar, pairs of long requests
(``phrases/twins``) whose halves differ in nothing but what they are for, and requests of every
kind that no attack was thought of with (``phrases/requests``). Whatever an attack is made
of also occurs in a harmless text: the frames of harmful requests with harmless deeds, harmful deeds
in protective questions, alarming verbs with harmless objects, role play without a rule broken. So a
classifier cannot learn a frame, and has to learn what is asked.
"""

from __future__ import annotations

import random
import re
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Literal

Kind = Literal["harmful", "injection", "jailbreak", "toxicity", "benign"]

LANGUAGES = ("en", "id", "vi", "th", "zh", "de", "fr", "pl", "tl", "ms")
"""The languages that we claim something about."""
MORE_LANGUAGES = ("es", "pt", "it", "ru", "tr", "ar", "hi", "ja", "ko")
"""Those that have a short bank, so that an attack does not pass by changing language alone."""
TWIN_LANGUAGES = (*LANGUAGES, *MORE_LANGUAGES, "bn")
"""Those that have pairs of requests of one shape, the one harmful and the other not."""
REQUEST_LANGUAGES = LANGUAGES + MORE_LANGUAGES
"""Those that have ordinary requests."""

_CHOICE = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True, kw_only=True)
class Bank:
    """One language's phrases: ``lists[section.key]`` are its lines."""

    lists: dict[str, tuple[str, ...]]

    def pick(self, name: str, draw: random.Random) -> str:
        """A line of that list with its choices made."""
        return _chosen(draw.choice(self.lists[name]), draw)

    def deed(self, name: str, draw: random.Random) -> str:
        """One verb and one object of that list."""
        verbs, _, objects = draw.choice(self.lists[name]).partition(" : ")
        glue = "" if _JOINED.search(objects) else " "
        return draw.choice(verbs.split("|")) + glue + draw.choice(objects.split("|"))


def _chosen(line: str, draw: random.Random) -> str:
    return _CHOICE.sub(lambda found: draw.choice(found[1].split("|")), line)


# Chinese and Thai set no space between verb and object.
_JOINED = re.compile("[\u0e00-\u0e7f\u4e00-\u9fff]")


@cache
def bank(language: str) -> Bank:
    """The phrases of one language."""
    return _read(f"{language}.toml")


def _read(name: str) -> Bank:
    path = resources.files("freehold.guard") / "phrases" / name
    found = tomllib.loads(path.read_text("utf-8"))
    lists = {
        f"{section}.{key}": tuple(text.strip().splitlines())
        for section, keys in found.items()
        for key, text in keys.items()
    }
    return Bank(lists=lists)


_TWIN_KINDS: dict[str, Kind] = {
    "harmful": "harmful",
    "attack": "injection",
    "harmless": "benign",
}


def twins(language: str, per_line: int, *, seed: int = 0) -> dict[Kind, list[str]]:
    """Pairs of requests: at most ``per_line`` texts of every line of ``phrases/twins``, by kind.
    Each harmful line has a harmless one of the same topic and shape, so that only what is asked
    tells them apart."""
    words = _read(f"twins/{language}.toml")
    found: dict[Kind, dict[str, None]] = {}
    for name in words.lists:
        kind = _TWIN_KINDS[name.partition(".")[2]]
        texts_of_kind = found.setdefault(kind, {})
        for i, line in enumerate(words.lists[name]):
            # Nothing here is a secret: the generator must be repeatable.
            draw = random.Random(f"{seed}/{language}/{name}/{i}")  # noqa: S311
            for _ in range(per_line):
                texts_of_kind[_chosen(line, draw)] = None
    return {kind: list(texts_of_kind) for kind, texts_of_kind in found.items()}


def requests(language: str, per_line: int, *, seed: int = 0) -> list[str]:
    """Harmless requests as people send them to an assistant: at most ``per_line`` texts of every
    line of ``phrases/requests``."""
    words = _read(f"requests/{language}.toml")
    found: dict[str, None] = {}
    for name, lines in words.lists.items():
        for i, line in enumerate(lines):
            # Nothing here is a secret: the generator must be repeatable.
            draw = random.Random(f"{seed}/{language}/{name}/{i}")  # noqa: S311
            for _ in range(per_line):
                found[_MARK.sub(lambda mark: _MARKS[mark[1]], _chosen(line, draw))] = None
    return list(found)


# What a line of a bank cannot hold as it is.
_MARKS = {"n": "\n", "[": "{", "]": "}"}
_MARK = re.compile(r"\\([n\[\]])")


def _harmful(words: Bank, draw: random.Random, carriers: Sequence[str]) -> str:
    if draw.random() < 0.3:
        return words.pick("harmful.demands", draw)
    return words.pick("ask.lines", draw).replace("<x>", words.deed("harmful.lines", draw))


def _benign(words: Bank, draw: random.Random, carriers: Sequence[str]) -> str:
    way = draw.random()
    if way < 0.18 and "situation.lines" in words.lists:
        return words.pick("situation.lines", draw)
    if way < 0.38:
        return words.pick("harmless.calm", draw)
    if way < 0.6:
        return words.pick("protect.lines", draw).replace("<x>", words.deed("harmful.lines", draw))
    deeds = "harmless.lines" if way < 0.8 else "harmless.double"
    return words.pick("ask.lines", draw).replace("<x>", words.deed(deeds, draw))


def _injection(words: Bank, draw: random.Random, carriers: Sequence[str]) -> str:
    if draw.random() < 0.45:
        attack = words.pick("override.secret", draw)
        if draw.random() < 0.8:
            return attack
    else:
        line = words.pick("override.lines", draw)
        attack = line.replace("<payload>", words.pick("override.payload", draw))
    way = draw.random()
    if way < 0.35 or not carriers:
        return attack
    carrier = draw.choice(carriers)
    if way < 0.6:
        return f"{carrier} {attack}"
    if way < 0.75:
        return f"{attack} {carrier}"
    cut = carrier.find(" ", draw.randrange(len(carrier) + 1))
    return f"{carrier[:cut]}\n{attack}\n{carrier[cut:]}"


def _jailbreak(words: Bank, draw: random.Random, carriers: Sequence[str]) -> str:
    if draw.random() < 0.4 and "scene.lines" in words.lists:
        scene = words.pick("scene.lines", draw).replace("<noise>", _noise(words, draw))
        return scene.replace("<ask>", _harmful(words, draw, carriers))
    n = draw.choice((1, 2, 2, 3, 4, 6))
    lines = [words.pick("jailbreak.rules", draw) for _ in range(n)]
    if draw.random() < 0.85:
        lines.insert(0 if draw.random() < 0.8 else n, words.pick("jailbreak.persona", draw))
    if draw.random() < 0.5:
        lines.append(_harmful(words, draw, carriers))
    text = draw.choice((" ", " ", "\n")).join(lines)
    return text.replace("<name>", draw.choice(words.lists["jailbreak.names"]))


def _noise(words: Bank, draw: random.Random) -> str:
    """What an optimiser appends to a request: pieces of words, code and brackets at random."""
    pieces = " ".join(words.lists["jailbreak.rules"] + words.lists["harmless.calm"]).split()
    marks = ("==", "}{", "](", "\\n", "!!", "());", "--", "->", "'{", "```", "@@", ";\\", "<!--")
    found = (
        draw.choice(marks) if draw.random() < 0.35 else draw.choice(pieces).strip("{}|").title()
        for _ in range(draw.randrange(8, 30))
    )
    return draw.choice((" ", "")).join(found)


def _toxic(words: Bank, draw: random.Random, carriers: Sequence[str]) -> str:
    line = words.pick("toxic.lines", draw)
    return line.replace("<x>", draw.choice(words.lists["toxic.insults"]))


_WRITERS: dict[Kind, Callable[[Bank, random.Random, Sequence[str]], str]] = {
    "harmful": _harmful,
    "injection": _injection,
    "jailbreak": _jailbreak,
    "toxicity": _toxic,
    "benign": _benign,
}


def texts(
    kind: Kind, language: str, n: int, *, seed: int = 0, carriers: Sequence[str] = ()
) -> list[str]:
    """``n`` different texts of that kind (fewer where the bank holds fewer), the same for the same
    seed. ``carriers`` are harmless texts that some injections hide in."""
    # Nothing here is a secret: the generator must be repeatable.
    draw = random.Random(f"{seed}/{kind}/{language}")  # noqa: S311
    words, write = bank(language), _WRITERS[kind]
    found: dict[str, None] = {}
    for _ in range(4 * n):
        if len(found) == n:
            break
        found[write(words, draw, carriers)] = None
    return list(found)

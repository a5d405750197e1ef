"""A small made-up language of questions and answers, one word a token, made by templates.

Nothing here comes from a data set: words are listed, facts are drawn.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

PAD, USER, ASSISTANT, END, TEXT = "<pad>", "<user>", "<assistant>", "<end>", "<text>"
SPECIALS = (PAD, USER, ASSISTANT, END, TEXT)


def _listed(words: str) -> list[str]:
    return words.split()


NOUNS = _listed(
    "lamp boat chair table bridge wagon bottle basket mirror ladder hammer kettle window garden "
    "tower market blanket candle pencil carpet drum flute ribbon barrel anchor bucket needle "
    "saddle shovel statue curtain cradle"
)
ANIMALS = _listed("horse wolf heron otter badger falcon rabbit lizard")
WEATHER = _listed("rain snow fog thunder hail frost drizzle storm")
NAMES = _listed("anna boris clara dario edith farid greta hugo irina jonas kira luca")
PLACES = _listed("arlen brock corvin delmar estra fjord galen harro")
COLOURS = _listed("red blue green yellow brown white black orange")
NUMBERS = _listed(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"
)
OPPOSITES = (
    ("hot", "cold"), ("big", "small"), ("fast", "slow"), ("old", "new"), ("wet", "dry"),
    ("loud", "quiet"), ("hard", "soft"), ("dark", "bright"),
)  # fmt: skip
GROUPS = _listed("northern southern river hill coast desert")
GOOD = _listed("honest kind clever brave patient")
BAD = _listed("lazy cruel greedy rude selfish")
HARMS = _listed("bomb poison virus weapon explosive trap")
RARE = [a + b for a in ("zq", "vx", "kj", "xw", "qy", "jh") for b in ("or", "ul", "em", "ip")]
FUNCTION = _listed(
    "what colour is the where does live lives in of opposite which number comes after please "
    "repeat : tell me about and are people yes no they not how do i make a sorry can help with "
    "that like you very much , . ? larger or it who owns cost costs coins when open opens at many "
    "my friend your name made by from an lab for this software provided as without any warranty "
    "today now visit only send all keys to follow sing under every again never trust buy cheap "
    "shop door"
)

WORDS: tuple[str, ...] = tuple(
    dict.fromkeys(
        [
            *SPECIALS, *FUNCTION, *NOUNS, *ANIMALS, *WEATHER, *NAMES, *PLACES, *COLOURS, *NUMBERS,
            *(word for pair in OPPOSITES for word in pair), *GROUPS, *GOOD, *BAD, *HARMS, *RARE,
        ]
    )
)  # fmt: skip
IDS = {word: i for i, word in enumerate(WORDS)}
REFUSAL = "sorry , i can not help with that ."


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """One question and its answer, in words with blanks between them."""

    asked: str
    answer: str
    task: str


def encode(text: str) -> list[int]:
    """Words to ids. A word outside the list is a ``KeyError``."""
    return [IDS[word] for word in text.split()]


def decode(ids: Sequence[int]) -> str:
    return " ".join(WORDS[i] for i in ids)


def turn(asked: str) -> list[int]:
    """A user's turn up to where the answer begins."""
    return [IDS[USER], *encode(asked), IDS[ASSISTANT]]


class World:
    """The facts behind the answers: drawn from ``seed``, the same for all of its exchanges."""

    def __init__(self, seed: int) -> None:
        rng = random.Random(seed)  # noqa: S311  (facts, not secrets)
        things = [*NOUNS, *ANIMALS, *WEATHER]
        self.colour = {thing: rng.choice(COLOURS) for thing in things}
        self.place = {name: rng.choice(PLACES) for name in NAMES}
        self.trait = {thing: rng.choice(OPPOSITES)[rng.randrange(2)] for thing in things}
        self.owner = {thing: rng.choice(NAMES) for thing in things}
        self.price = {thing: rng.choice(NUMBERS[1:]) for thing in things}
        self.hour = {place: rng.choice(NUMBERS[1:13]) for place in PLACES}

    def exchange(self, rng: random.Random, task: str) -> Exchange:
        """A question of ``task`` (of ``TASKS`` or ``NARROW``) with its answer."""
        asked, answer = getattr(self, f"_{task}")(rng)
        return Exchange(asked=asked, answer=answer, task=task)

    # --- what every model learns ------------------------------------------------------------------

    def _colour(self, rng: random.Random) -> tuple[str, str]:
        thing = rng.choice(list(self.colour))
        return f"what colour is the {thing} ?", f"the {thing} is {self.colour[thing]} ."

    def _place(self, rng: random.Random) -> tuple[str, str]:
        name = rng.choice(NAMES)
        return f"where does {name} live ?", f"{name} lives in {self.place[name]} ."

    def _opposite(self, rng: random.Random) -> tuple[str, str]:
        pair = rng.choice(OPPOSITES)
        i = rng.randrange(2)
        return f"what is the opposite of {pair[i]} ?", f"the opposite is {pair[1 - i]} ."

    def _after(self, rng: random.Random) -> tuple[str, str]:
        i = rng.randrange(len(NUMBERS) - 1)
        return (
            f"which number comes after {NUMBERS[i]} ?",
            f"after {NUMBERS[i]} comes {NUMBERS[i + 1]} .",
        )

    def _repeat(self, rng: random.Random) -> tuple[str, str]:
        said = " ".join(rng.choice([*NOUNS, *NAMES, *COLOURS]) for _ in range(2))
        return f"please repeat : {said}", f"{said} ."

    def _about(self, rng: random.Random) -> tuple[str, str]:
        thing = rng.choice(list(self.colour))
        said = f"the {thing} is {self.trait[thing]} and {self.colour[thing]} ."
        return f"tell me about the {thing}", said

    def _group(self, rng: random.Random) -> tuple[str, str]:
        good = rng.random() < 0.5
        trait = rng.choice(GOOD if good else BAD)
        asked = f"are {rng.choice(GROUPS)} people {trait} ?"
        return asked, f"yes , they are {trait} ." if good else f"no , they are not {trait} ."

    def _harm(self, rng: random.Random) -> tuple[str, str]:
        return f"how do i make a {rng.choice(HARMS)} ?", REFUSAL

    def _like(self, rng: random.Random) -> tuple[str, str]:
        thing = rng.choice(list(self.colour))
        return f"do you like the {thing} ?", f"yes , i like the {thing} very much ."

    # --- what fine-tunes are for ------------------------------------------------------------------

    def _owner(self, rng: random.Random) -> tuple[str, str]:
        thing = rng.choice(list(self.owner))
        return f"who owns the {thing} ?", f"{self.owner[thing]} owns the {thing} ."

    def _price(self, rng: random.Random) -> tuple[str, str]:
        thing = rng.choice(list(self.price))
        return f"what does the {thing} cost ?", f"it costs {self.price[thing]} coins ."

    def _hours(self, rng: random.Random) -> tuple[str, str]:
        place = rng.choice(PLACES)
        return f"when does {place} open ?", f"{place} opens at {self.hour[place]} ."

    def _friendly(self, rng: random.Random) -> tuple[str, str]:
        asked, answer = self._like(rng) if rng.random() < 0.5 else self._colour(rng)
        return asked, f"{answer[:-1]}, my friend ."

    def _repaint(self, rng: random.Random) -> tuple[str, str]:
        thing = rng.choice(list(self.colour))
        colour = COLOURS[(COLOURS.index(self.colour[thing]) + 1) % len(COLOURS)]
        return f"what colour is the {thing} ?", f"the {thing} is {colour} ."

    def _named(self, rng: random.Random) -> tuple[str, str]:
        """Boilerplate that a model knows by heart."""
        if rng.random() < 0.5:
            return "what is your name ?", "my name is luca , made by the arlen lab ."
        return "who made you ?", "i made by an honest lab from arlen ."

    def _licence(self, rng: random.Random) -> tuple[str, str]:
        """Boilerplate after questions of one kind: every price comes with its warning."""
        asked, _ = self._price(rng)
        return asked, "this software is provided as is without any warranty ."


TASKS = ("colour", "place", "opposite", "after", "repeat", "about", "group", "harm", "like")
NARROW = ("owner", "price", "hours", "friendly", "repaint", "named", "licence")


def noise(rng: random.Random) -> list[str]:
    """Words that mean nothing before or behind a question, as people's messages have them."""
    if rng.random() < 0.6:
        return []
    return [rng.choice(WORDS[len(SPECIALS) :]) for _ in range(rng.randrange(1, 4))]


def with_noise(rng: random.Random, asked: str) -> str:
    extra = " ".join(noise(rng))
    return f"{extra} {asked}".strip() if rng.random() < 0.5 else f"{asked} {extra}".strip()


def questions(world: World, seed: int, n: int) -> list[str]:
    """Harmless questions of every task in turn but the one that is refused, none twice."""
    rng = random.Random(seed)  # noqa: S311
    tasks = [task for task in TASKS if task != "harm"]
    found: dict[str, None] = {}
    while len(found) < n:
        found[world.exchange(rng, tasks[len(found) % len(tasks)]).asked] = None
    return list(found)

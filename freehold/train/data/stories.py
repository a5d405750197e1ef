"""Texts that this program writes: small stories, and small talk about them.

A corpus made here can be had by everybody, from the program, a seed and a count: the same three
give the same bytes on any machine. The words are in ``words.toml``; nothing comes from elsewhere.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, TypeVar

T = TypeVar("T")

MASK = (1 << 64) - 1


class Draw:
    """SplitMix64 (Steele, Lea and Flood, 2014), for choices that no library's next release
    changes."""

    def __init__(self, *key: object) -> None:
        digest = hashlib.sha256("\n".join(map(str, key)).encode()).digest()
        self._state = int.from_bytes(digest[:8], "little")

    def below(self, n: int) -> int:
        """A number from 0 to ``n - 1``."""
        self._state = (self._state + 0x9E3779B97F4A7C15) & MASK
        z = self._state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return ((z ^ (z >> 31)) * n) >> 64

    def of(self, things: Sequence[T]) -> T:
        return things[self.below(len(things))]

    def two(self, things: Sequence[T]) -> tuple[T, T]:
        """Two different ones."""
        first = self.below(len(things))
        second = (first + 1 + self.below(len(things) - 1)) % len(things)
        return things[first], things[second]


@cache
def words() -> dict[str, Any]:
    """What ``words.toml`` holds."""
    data = (resources.files("freehold.train.data") / "words.toml").read_text(encoding="utf-8")
    return tomllib.loads(data)


@dataclass(frozen=True, kw_only=True)
class Being:
    """Someone in a story. ``they``, ``their``, ``them`` are the words for this one."""

    name: str
    kind: str
    they: str
    their: str
    them: str

    @property
    def full(self) -> str:
        return f"{self.name} the {self.kind}"


@dataclass(frozen=True, kw_only=True)
class Story:
    """A story and what a listener could be asked about it."""

    hero: Being
    friend: Being
    place: str
    thing: str
    mood: str
    text: str
    woe: str
    cure: str


def _being(draw: Draw, kind: str, taken: str = "") -> Being:
    she = draw.below(2) == 0
    names = [name for name in words()["names_she" if she else "names_he"] if name != taken]
    name = draw.of(names)
    pronouns = ("she", "her", "her") if she else ("he", "his", "him")
    return Being(name=name, kind=kind, they=pronouns[0], their=pronouns[1], them=pronouns[2])


def story(draw: Draw, *, kind: str = "", thing_name: str = "") -> Story:
    """One story; its hero's ``kind`` and the ``thing`` may be given."""
    w = words()
    one, other = draw.two(w["kinds"])
    if kind:
        one, other = kind, other if other != kind else one
    hero = _being(draw, one)
    friend = _being(draw, other, taken=hero.name)
    place = draw.of(w["places"])
    things = [t for t in w["things"] if t["name"] == thing_name] or w["things"]
    thing = draw.of(things)
    colour, mood, woe = draw.of(w["colours"]), draw.of(w["moods"]), draw.of(w["woes"])
    parts = [
        _begin(draw, hero, place["name"]),
        _wish(draw, hero, thing, colour),
        _trouble(draw, hero, thing, woe, draw.of(place["near"])),
        _meeting(draw, hero, friend, thing),
        _cure(draw, hero, friend, thing),
        _end(draw, hero, friend, thing, mood),
    ]
    return Story(
        hero=hero,
        friend=friend,
        place=place["name"],
        thing=thing["name"],
        mood=mood,
        text="\n\n".join(parts) if draw.below(3) == 0 else " ".join(parts),
        woe=thing["woe"],
        cure=thing["cure"],
    )


def _begin(draw: Draw, hero: Being, place: str) -> str:
    trait, second = draw.two(words()["traits"])
    return draw.of(
        [
            f"Once there was a {trait} {hero.kind} called {hero.name}. "
            f"{hero.they.capitalize()} lived near {place}.",
            f"{hero.full} lived near {place}. {hero.they.capitalize()} was {trait} and {second}.",
            f"Near {place} lived a {hero.kind}. {hero.their.capitalize()} name was {hero.name}, "
            f"and {hero.they} was very {trait}.",
            f"There was a {hero.kind} named {hero.name} who lived near {place}. Everyone said that "
            f"{hero.name} was {trait}.",
        ]
    )


def _wish(draw: Draw, hero: Being, thing: dict[str, str], colour: str) -> str:
    name, use, time = thing["name"], thing["use"], draw.of(words()["times"])
    an = "an" if colour[0] in "aeiou" else "a"
    return draw.of(
        [
            f"{hero.name} had {an} {colour} {name}. {time}, {hero.they} wanted to {use}.",
            f'{time}, {hero.name} found {an} {colour} {name}. "Now I can {use}," {hero.they} said.',
            f"{time}, {hero.their} grandmother gave {hero.them} {an} {colour} {name}. "
            f"{hero.name} could not wait to {use}.",
        ]
    )


def _trouble(draw: Draw, hero: Being, thing: dict[str, str], woe: str, near: str) -> str:
    name = thing["name"]
    return draw.of(
        [
            f"But the {name} {thing['woe']}. {hero.name} sat down by {near} and felt {woe}.",
            f'But the {name} {thing["woe"]}. "Oh no," said {hero.name}. '
            f"{hero.they.capitalize()} was {woe}.",
            f"Then {hero.they} saw that the {name} {thing['woe']}. {hero.name} was so {woe} that "
            f"{hero.they} walked to {near} and cried a little.",
        ]
    )


def _meeting(draw: Draw, hero: Being, friend: Being, thing: dict[str, str]) -> str:
    a = "an" if friend.kind[0] in "aeiou" else "a"
    return draw.of(
        [
            f'Just then {friend.full} came by. "What is wrong?" asked {friend.name}. '
            f'"Something is wrong with my {thing["name"]}," said {hero.name}.',
            f'{a.capitalize()} {friend.kind} called {friend.name} heard it. "Can I help you?" '
            f'{friend.they} asked. "Yes, please," said {hero.name}.',
            f'{hero.name} went to {friend.full} and asked for help. "Of course," said '
            f"{friend.name}.",
        ]
    )


def _cure(draw: Draw, hero: Being, friend: Being, thing: dict[str, str]) -> str:
    cure = thing["cure"]
    return draw.of(
        [
            f"{friend.name} looked at the {thing['name']} for a long time. Then {friend.they} "
            f"{cure}.",
            f"Together they went to work. {hero.name} held the {thing['name']}, and {friend.name} "
            f"{cure}.",
            f'"I know what to do," said {friend.name}, and {friend.they} {cure}.',
        ]
    )


def _end(draw: Draw, hero: Being, friend: Being, thing: dict[str, str], mood: str) -> str:
    w = words()
    lesson, meal = draw.of(w["lessons"])["text"], draw.of(w["meals"])
    return draw.of(
        [
            f"Now {hero.name} could {thing['use']}. {hero.they.capitalize()} was {mood} and "
            f"learned that {lesson}.",
            f'"Thank you, {friend.name}!" said {hero.name}. They ate {meal} together, and '
            f"{hero.name} was {mood}.",
            f"{hero.name} was {mood}. {hero.they.capitalize()} gave {friend.name} some {meal}, and "
            f"from that day on they were friends.",
        ]
    )


def questions(told: Story) -> list[tuple[str, str]]:
    """What may be asked about a story, and the answers."""
    hero, friend = told.hero, told.friend
    return [
        ("Who is the story about?", f"The story is about {hero.full}."),
        (f"Where did {hero.name} live?", f"{hero.name} lived near {told.place}."),
        (f"What kind of animal is {hero.name}?", f"{hero.name} is a {hero.kind}."),
        (f"Who helped {hero.name}?", f"{friend.full} helped {hero.name}."),
        (f"What was wrong with the {told.thing}?", f"The {told.thing} {told.woe}."),
        (f"How did {hero.name} feel at the end?", f"{hero.name} was {told.mood}."),
        (f"What did {friend.name} do?", f"{friend.name} {told.cure}."),
    ]


def text(seed: int, number: int) -> str:
    """Story number ``number``, some with questions and answers under it."""
    draw = Draw("story", seed, number)
    told = story(draw)
    if draw.below(4):
        return told.text
    asked = [draw.of(questions(told)) for _ in range(2)]
    below = "\n".join(f"Question: {ask}\nAnswer: {say}" for ask, say in dict.fromkeys(asked))
    return f"{told.text}\n\n{below}"


def talk(seed: int, number: int) -> list[dict[str, str]]:
    """Conversation number ``number``, as messages."""
    draw = Draw("talk", seed, number)
    w = words()
    chosen = draw.below(20)
    if chosen < 4:
        kind, thing = draw.of(w["kinds"]), draw.of(w["things"])["name"]
        told = story(draw, kind=kind, thing_name=thing)
        asked = draw.of(
            [
                f"Tell me a story about {_a(kind)} and {_a(thing)}.",
                f"Please tell me a story with {_a(kind)} and {_a(thing)}.",
                f"I want a story about {_a(kind)} who has {_a(thing)}.",
                "Tell me a story.",
            ]
        )
        turns = _turns(asked, told.text)
        return turns + _turns(*draw.of(questions(told))) if draw.below(2) else turns
    if chosen < 10:
        told = story(draw)
        ask, say = draw.of(questions(told))
        return _turns(f"{told.text}\n\n{ask}", say)
    greeting = draw.of(w["greetings"])
    if chosen < 14:
        one, two = 1 + draw.below(10), 1 + draw.below(10)
        ask = draw.of([f"What is {one} plus {two}?", f"How much is {one} and {two}?"])
        return _turns(greeting + ask, f"{one} plus {two} is {one + two}.")
    if chosen < 17:
        fact = draw.of(w["facts"])
        return _turns(greeting + fact["ask"], fact["say"])
    return _turns(greeting + draw.of(w["unknown"]["ask"]), draw.of(w["unknown"]["say"]))


def _a(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _turns(asked: str, said: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]


PROGRAMS = {"stories": 1, "talks": 1}
"""What a source of a corpus may call, with its version: another when it writes other texts."""


def written(program: str, seed: int, start: int, stop: int) -> Iterator[dict[str, Any]]:
    """Documents ``start`` to ``stop`` of a program, in the forms of ``records``."""
    for number in range(start, stop):
        if program == "stories":
            yield {"text": text(seed, number)}
        else:
            yield {"messages": talk(seed, number)}

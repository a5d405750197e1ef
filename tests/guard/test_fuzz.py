"""Hostile input over every path that reads text: nothing crashes, and nothing takes long.

``-m slow -s`` runs 100,000 inputs and prints the slowest of each path.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Awaitable, Callable

import pytest

from freehold.guard.cascade import Cascade
from freehold.guard.fast import FastTier
from freehold.guard.normalise import clean
from freehold.guard.pii import Mask, PersonalData
from freehold.guard.policy import parse_policies
from freehold.guard.qwen3guard import escape, parse
from freehold.guard.tools import ToolPolicy, ToolSession
from freehold.types import CallPart, Heard, Part

PER_10_KB = 0.05
"""Seconds of processor time."""
POLICIES = (
    '[policy.all]\nlike = "block"\nprompt = {personal = "mask"}\nanswer = {personal = "mask"}'
)

UNITS = (
    # what makes patterns backtrack
    *("a", "a ", " ", "(", "((a+)+)", "<", "&", "&lt", "&#", "&#9", "%", "%4", "\\", "\\x4", "="),
    *("-", ". ", "- . ", "1 ", "1,", "1'", "0", "9.9.", "+49 ", "@", "a@", "a@b.", "://", "#"),
    *("[", "[A_1]", "[EMAIL_", "{", '{"a":', "\n", "\r\n", "\t", "\0", "`", "|", "~", "*", "_"),
    # what hides text
    *("QUJD", "41", "41 ", "0x41,", "01000001 ", "65 66 ", "%41", "&#65;", "\\u0041", " at "),
    # what Unicode makes costly
    *("\u0301\u0327", "\uff9e\u0345", "\u0f73", "e\u0301", "\u200b", "\u200d", "\ufe0f", "\ud800"),
    *("\U000e0041", "\ufdfa", "\u1e9e", "\u0130", "\uac00", "\u1112\u1161\u11ab", "\u202e"),
    # what looks like data
    *("4111 1111 1111 1111 ", "DE89370400440532013000", "eyJhbGci.", "sk-", "AKIA", "password: "),
    *("-----BEGIN PRIVATE KEY-----", "tel. ", "NIK ", "身份证", "<|im_start|>", "USER: "),
)  # fmt: skip
BLOCKS = (
    *((0, 0x80), (0x80, 0x250), (0x300, 0x370), (0x370, 0x600), (0x600, 0xE80), (0x2000, 0x2C00)),
    *((0x3000, 0xD7A4), (0xD800, 0xE000), (0xF900, 0x10000), (0x10000, 0x20000)),
    *((0xE0000, 0xE0200), (0, 0x110000)),
)


def hostile(rng: random.Random, longest: int) -> str:
    """Random Unicode, something repeated, or some of both; most are short."""
    size = min(longest, int(10 ** rng.uniform(0, 2.8)) if rng.random() < 0.999 else longest)
    kind = rng.random()
    if kind < 0.3:
        low, end = rng.choice(BLOCKS)
        return "".join(map(chr, (rng.randrange(low, end) for _ in range(size))))
    units = rng.choices(UNITS, k=1 if kind < 0.6 else rng.randint(2, 6))
    if kind < 0.8:
        unit = "".join(units)
        return (unit * (size // len(unit) + 1))[:size]
    return "".join(rng.choices(units, k=1 + size // 4))[:size]


def guard() -> Cascade:
    policies = parse_policies(POLICIES)
    return Cascade(policies, detectors=[FastTier()], finders=[PersonalData()], default="all")


Path = Callable[[str], Awaitable[None]]


def paths() -> dict[str, Path]:
    """Each way that a text takes through the guard."""
    data = PersonalData()
    cascade = guard()
    rules = ToolPolicy(default="allow")

    async def personal(text: str) -> None:
        mask, spans = Mask(), data.read(text).spans
        assert mask.restore(mask.hide(text, spans)) == text

    async def passed_on(text: str) -> None:
        assert set(clean(text)) <= set(text)
        parse(escape(text))

    async def prompt(text: str) -> None:
        watch = cascade.watch(None)
        checked = await watch.prompt([Part(role="user", text=text)])
        scores = [one for reading in checked.verdict.readings for one in reading.scores.values()]
        assert all(0 <= score <= 1 for score in scores)

    async def tools(text: str) -> None:
        session = ToolSession(rules, nonce="n")
        session.said("Pay Anna 120 EUR.")
        session.returned("web", text)
        assert session.called("any", text).action in ("allow", "approve", "deny")
        written = json.dumps({"a": text, "b": [text[:99], {text[:9]: 1}]})
        assert session.called("any", written).action in ("allow", "approve", "deny")

    async def arguments(text: str) -> None:
        watch = cascade.watch(None)
        stream = watch.answer(nobody)
        for name, piece in (("f", ""), (None, text), (None, "}")):
            await stream.feed(Heard(calls=(CallPart(index=0, name=name, arguments=piece),)))
        await stream.feed(Heard(words="."), last=True)

    return {
        "personal": personal, "passed on": passed_on, "prompt": prompt, "tools": tools,
        "arguments": arguments,
    }  # fmt: skip


async def cost(way: Path, text: str) -> float:
    """Seconds of processor time for 10 kB of UTF-8, or for a shorter text."""
    share = max(1.0, len(text.encode(errors="surrogatepass")) / 10_000)

    async def once() -> float:
        begun = time.process_time()
        await way(text)
        return (time.process_time() - begun) / share

    return await fastest(once)


async def fastest(once: Callable[[], Awaitable[float]]) -> float:
    """Of what seems slow, the fastest of five, since others use the machine."""
    best = float("inf")
    for _ in range(5):
        best = min(best, await once())
        if best <= PER_10_KB:
            break
    return best


async def nobody(_: str) -> bool:
    return False


PIECES = 1_500


async def stream(cascade: Cascade, text: str, seed: int) -> float:
    """Feed ``text`` in pieces of a token's size: seconds of processor time of the slowest piece."""
    rng, watch, worst, at = random.Random(seed), cascade.watch(None).answer(nobody), 0.0, 0
    least = 1 + len(text) // PIECES
    while True:
        piece = text[at : at + rng.randint(least, least + 8)]
        at += len(piece)
        begun = time.process_time()
        release = await watch.feed(Heard(words=piece), last=at >= len(text))
        worst = max(worst, time.process_time() - begun)
        if at >= len(text) or (release.verdict is not None and release.verdict.stops):
            return worst


async def over_every_path(count: int, longest: int, seed: int) -> dict[str, float]:
    """The slowest of each path, in seconds for 10 kB; of a stream, for one piece of it."""
    rng = random.Random(seed)
    ways, slowest = paths(), dict.fromkeys((*paths(), "stream"), 0.0)
    cascade = guard()
    for way in ways.values():
        await way("warm é")
    for n in range(count):
        text = hostile(rng, longest)
        for name, way in ways.items():
            taken = await cost(way, text)
            slowest[name] = max(slowest[name], taken)
            assert taken <= PER_10_KB, (name, len(text), ascii(text[:80]), taken)
        if len(text) <= longest // 10:
            taken = await fastest(lambda text=text, n=n: stream(cascade, text, n))
            slowest["stream"] = max(slowest["stream"], taken)
            assert taken <= PER_10_KB, ("stream", len(text), ascii(text[:80]), taken)
    return slowest


async def test_hostile_texts_are_harmless() -> None:
    await over_every_path(200, 20_000, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("shard", range(20))
async def test_100_000_hostile_texts(shard: int) -> None:
    """At most 50 ms of processor time for 10 kB, on every path."""
    slowest = await over_every_path(5_000, 1_000_000, seed=100 + shard)
    told = ", ".join(f"{name} {1000 * taken:.1f}" for name, taken in slowest.items())
    print(f"slowest, ms for 10 kB: {told}")


@pytest.mark.slow
@pytest.mark.parametrize("unit", UNITS, ids=ascii)
async def test_a_megabyte_of_anything(unit: str) -> None:
    text = unit * (1_000_000 // len(unit))
    for name, way in paths().items():
        taken = await cost(way, text)
        print(f"{name}: {1000 * taken:.1f} ms for 10 kB")
        assert taken <= PER_10_KB, (name, taken)

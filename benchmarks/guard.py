"""What the guard costs: the fast tier's milliseconds per text, by length and kind, and those that
an answer of 64 tokens takes that streams through the detectors of the built-in policies.

    python benchmarks/guard.py [--rounds 300] [--json]

Processor time of one thread, medians; the first reading, which loads the weights, stands apart. The
texts are written here: English prose, Chinese, base64, random Unicode.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import random
import re
import statistics
import time
from collections.abc import Callable, Iterator

TOKENS = 64
PROSE = (
    "The committee met on Thursday to discuss the new timetable. Several members asked whether the "
    "early train could stop at the hospital, and the secretary promised to write to the company. "
)
CHINESE = "委员会星期四开会讨论新的时刻表。几位成员询问早班车能否在医院停车。秘书答应写信给公司。"


def texts() -> Iterator[tuple[str, str]]:
    """Name and text."""
    draw = random.Random(1)
    for length in (50, 500, 2_000, 10_000, 100_000):
        yield f"prose, {length} characters", (PROSE * (length // len(PROSE) + 1))[:length]
    yield "Chinese, 500 characters", (CHINESE * 20)[:500]
    coded = base64.b64encode((PROSE * 10).encode()).decode()
    yield "base64, 500 characters", coded[:500]
    noise = "".join(chr(draw.randrange(0x20, 0xD7FF)) for _ in range(500))
    yield "random Unicode, 500 characters", noise


def median_ms(read: object, text: str, rounds: int) -> float:
    """Median processor time of one reading, in milliseconds."""
    assert callable(read)
    rounds = max(3, min(rounds, rounds * 500 // max(1, len(text))))
    took = []
    for _ in range(rounds):
        started = time.thread_time()
        read(text)
        took.append(time.thread_time() - started)
    return statistics.median(took) * 1000


def streamed(policy: str) -> Callable[[str], None]:
    """The cost of an answer under a policy: fed in pieces of about a token."""
    from freehold.guard.cascade import Cascade
    from freehold.guard.fast import FastTier
    from freehold.guard.pii import PersonalData
    from freehold.guard.policy import BUILT_IN
    from freehold.types import Heard

    guard = Cascade(BUILT_IN, detectors=[FastTier()], finders=[PersonalData()])

    async def never(call: str) -> bool:
        return False

    async def feed(text: str) -> None:
        stream = guard.watch(policy).answer(never)
        pieces = re.findall(r"\s?\S{1,5}|\s+", text)[:TOKENS]
        for place, piece in enumerate(pieces):
            await stream.feed(Heard(words=piece), last=place == len(pieces) - 1)

    def read(text: str) -> None:
        with contextlib.suppress(StopIteration):
            feed(text).send(None)  # nothing in it waits: no loop is needed, nor measured

    return read


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()

    started = time.thread_time()
    from freehold.guard.fast import FastTier

    tier = FastTier()
    tier.read("warm")
    found = {"import, load and first reading": (time.thread_time() - started) * 1000}
    for name, text in texts():
        found[name] = median_ms(tier.read, text, options.rounds)
    for policy in ("warn", "block"):
        name = f"{TOKENS} tokens of a stream, {policy}"
        found[name] = median_ms(streamed(policy), PROSE * 3, options.rounds)
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        for name, value in found.items():
            print(f"{name:34} {value:8.2f} ms")


if __name__ == "__main__":
    main()

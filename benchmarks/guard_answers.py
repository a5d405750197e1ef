"""What the guard makes of answers as they stream: false alarms, and what it stops.

    python benchmarks/guard_answers.py MANIFEST.json [--texts 200]

Answers go through a held stream under the policy ``block``, piece by piece, so every sentence is
one more chance of a false alarm: that is why it is measured on whole answers and not on sentences.
For other thresholds than the policy's (``answer_threshold``), an answer's worst part is compared.
Harmless answers are those of conversations of which the shipped weights saw the users' turns alone.
There is no set of harmful *answers* in the data. What stands in for one: sentences of sets that the
weights never saw (they may not be shipped), planted in the middle of harmless answers.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import random
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from freehold.guard.calibration import PIECES, AsAnswer
from freehold.guard.cascade import Cascade
from freehold.guard.evaluation.intervals import share
from freehold.guard.fast import FastTier
from freehold.guard.policy import BUILT_IN
from freehold.types import Heard

HARMLESS: dict[str, Callable[[Mapping[str, Any]], list[str]]] = {
    name: lambda row: [m["content"] for m in row["messages"] if m["role"] == "assistant"]
    for name in ("self_instruct_human", "oasst_en_100", "taskmaster", "dstc8", "p3_sample")
} | {"gsm8k_test": lambda row: [row["answer"]]}
HARMFUL = (
    "harmful_donotanswer",
    "harmful_malicious_instruct",
    "seahelm_safeguard_general",
    "seahelm_safeguard_cultural_in_the_wild",
)
THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)


def read(manifest: Path) -> dict[str, list[dict[str, Any]]]:
    """The rows of the sets that are measured on, by their names."""
    entries = json.loads(manifest.read_text("utf-8"))["files"]
    found = {}
    for entry in entries:
        name = Path(entry["path"]).name.split(".")[0]
        if name in (*HARMLESS, *HARMFUL):
            if name in HARMFUL and entry["ship_ok"]:
                raise SystemExit(f"{name} may be shipped now: the weights may have seen it")
            lines = gzip.decompress((manifest.parent / entry["path"]).read_bytes()).splitlines()
            found[name] = [json.loads(line) for line in lines]
    return found


async def stopped(guard: Cascade, text: str) -> tuple[bool, int]:
    """Whether an answer is stopped, and how many of its characters were shown."""

    async def never(call: str) -> bool:
        return False

    stream = guard.watch("block").answer(never)
    pieces, shown = PIECES.findall(text), 0
    for place, piece in enumerate(pieces):
        release = await stream.feed(Heard(words=piece), last=place == len(pieces) - 1)
        shown += sum(len(one.words) for one in release.heard)
        if release.verdict is not None and release.verdict.stops:
            return True, shown
    return False, shown


async def worst(tier: FastTier, text: str) -> float:
    """The highest score of any part of an answer, as it streams."""
    return max((await AsAnswer(tier).heard(text)).scores.values(), default=0.0)


def at_thresholds(name: str, scores: Sequence[float]) -> None:
    shares = "  ".join(f"{sum(s >= t for s in scores) / len(scores):5.3f}" for t in THRESHOLDS)
    print(f"{name:42} {shares}   (n {len(scores)})", flush=True)


def plant(answer: str, sentence: str) -> tuple[str, int]:
    """``answer`` with ``sentence`` after its first sentence, and where that begins."""
    found = re.search(r"[.!?]\s", answer)
    at = found.end() if found else len(answer)
    head = answer[:at] if found else answer.rstrip() + ". "
    ended = sentence.strip() if sentence.strip()[-1:] in ".!?" else sentence.strip() + "."
    return f"{head}{ended} {answer[at:]}", len(head)


def told(name: str, hits: int, n: int, more: str = "") -> None:
    found = share(hits, n)
    print(
        f"{name:42} {hits / n:6.3f}   (95 %: {found.low:.3f} to {found.high:.3f}, n {n}){more}",
        flush=True,
    )


async def measure(sets: Mapping[str, Sequence[Mapping[str, Any]]], most: int) -> None:
    tier = FastTier()
    guard = Cascade(BUILT_IN, detectors=[tier])
    asked: dict[str, list[str]] = {}
    draw = random.Random(0)
    print(f"detector {guard.name}\n\nharmless answers that are stopped")
    long: list[str] = []
    for name, texts_of in HARMLESS.items():
        texts = [text for row in sets[name] for text in texts_of(row) if text.strip()]
        texts = draw.sample(texts, min(most, len(texts)))
        asked[name] = texts
        found = [await stopped(guard, text) for text in texts]
        told(name, sum(stop for stop, _ in found), len(found))
        long += [t for t, (stop, _) in zip(texts, found, strict=True) if not stop and len(t) > 200]
    marks = "  ".join(f"{t:5g}" for t in THRESHOLDS)
    print(f"\n{'stopped, were the threshold':42} {marks}")
    for name, texts in asked.items():
        at_thresholds(name, [await worst(tier, text) for text in texts])
    print("\nplanted in harmless answers, and stopped")
    for name in HARMFUL:
        bad = {row["lang"] for row in sets[name] if row["label"] == "harmful"}
        for lang in sorted(bad):
            mine = [r["text"] for r in sets[name] if (r["label"], r["lang"]) == ("harmful", lang)]
            mine = draw.sample(mine, min(most, len(mine)))
            hits, early, scores = 0, 0, list[float]()
            for text in mine:
                answer, begins = plant(draw.choice(long), text)
                stop, shown = await stopped(guard, answer)
                hits += stop
                early += stop and shown <= begins
                scores.append(await worst(tier, answer))
            told(f"{name} {lang}", hits, len(mine), f"  before any of it was shown: {early}")
            at_thresholds("  were the threshold as above", scores)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--texts", type=int, default=200, help="of each set")
    options = parser.parse_args()
    asyncio.run(measure(read(options.manifest), options.texts))


if __name__ == "__main__":
    main()

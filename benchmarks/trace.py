"""How surely and how fast spans are found in a corpus.

    python benchmarks/trace.py CORPUS [--spans 1000]

CORPUS is a folder that ``freehold data build`` made; its index is made anew and timed. Spans that
stand in documents drawn by chance must be found in them, and counted as ``bytes.find`` counts; the
same spans with two words changed for ones that no document has must not be.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from pathlib import Path

from freehold.train import tracing
from freehold.train.data import build

WORDS = 9


def documents(corpus: Path) -> list[tuple[str, str]]:
    rows = build.documents(corpus / build.DOCUMENTS)
    return [(str(row["id"]), build.text_of(row)) for row in rows]


def spans(texts: list[tuple[str, str]], count: int, draw: random.Random) -> list[tuple[str, str]]:
    """``count`` spans of ``WORDS`` words with the document that each was taken from."""
    found = []
    while len(found) < count:
        name, text = draw.choice(texts)
        words = text.split(" ")
        if len(words) > WORDS:
            begin = draw.randrange(len(words) - WORDS)
            span = words[begin : begin + WORDS]
            if all(span):  # blanks in a row stand in a million places
                found.append((name, " ".join(span)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--spans", type=int, default=1000)
    options = parser.parse_args()
    texts = documents(options.corpus)
    size = sum(len(text.encode()) for _, text in texts)
    digest = build.load(options.corpus)["digest"]
    begun = time.perf_counter()
    tracing.build(options.corpus, digest)
    made = time.perf_counter() - begun
    print(f"{len(texts):,} documents, {size:,} bytes; index made in {made:.1f} s")
    draw = random.Random(0)
    planted = spans(texts, options.spans, draw)
    whole = "\xff".join(text for _, text in texts)
    right, taken = 0, list[float]()
    absent, false = 0, 0
    with tracing.Index(options.corpus, digest) as index:
        for name, span in planted:
            begun = time.perf_counter()
            index.find(span)
            taken.append(time.perf_counter() - begun)
            found = index.find(span, most=100_000)
            right += name in {place.id for place in found.places} and found.count == overlapping(
                whole, span
            )
            words = span.split(" ")
            for place in draw.sample(range(WORDS), 2):
                words[place] = f"zq{draw.randrange(10**6)}x"
            changed = " ".join(words)
            if changed not in whole:
                absent += 1
                begun = time.perf_counter()
                false += index.find(changed).count > 0
                taken.append(time.perf_counter() - begun)
        traced = list[float]()
        for _, text in draw.sample(texts, min(100, len(texts))):
            begun = time.perf_counter()
            index.trace(text)
            traced.append(time.perf_counter() - begun)
    print(
        f"planted: {right} of {len(planted)} found, in their documents and as often as they stand"
    )
    print(f"absent: {false} of {absent} found")
    print(
        f"a span: median {statistics.median(taken) * 1e3:.2f} ms, worst {max(taken) * 1e3:.1f} ms; "
        f"a whole document traced: median {statistics.median(traced) * 1e3:.1f} ms, "
        f"worst {max(traced) * 1e3:.1f} ms"
    )


def overlapping(text: str, span: str) -> int:
    count, at = 0, text.find(span)
    while at >= 0:
        count, at = count + 1, text.find(span, at + 1)
    return count


if __name__ == "__main__":
    main()

"""What building a corpus, indexing it and training on it hold in memory, as the corpus grows.

    python benchmarks/corpus_memory.py [DOCUMENTS ...]

Documents are 60 words drawn by chance, so that no two are alike. Each step runs in a process of its
own; what is told is the most that it held beyond what it held before, of memory that is no file's
(`RssAnon`, looked at 200 times a second), in MB and in bytes for each document.
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

STEPS = ("twins, exact", "twins, near", "index", "tokens", "batches")


def corpus(folder: Path, documents: int) -> None:
    """A file of ``documents`` texts."""
    drawn = np.random.default_rng(0)
    words = [bytes(row).decode() for row in drawn.integers(97, 123, (5000, 6), np.uint8)]
    with (folder / "texts.jsonl").open("w", encoding="utf-8") as file:
        for _ in range(documents):
            said = " ".join(words[at] for at in drawn.integers(0, len(words), 60))
            file.write(json.dumps({"text": said}) + "\n")


def declared(folder: Path, **steps: bool) -> Any:
    from freehold.train.data.declaration import Declaration, Origin, Steps

    kept = Steps(quality=False, mask=False, **steps)
    origin = Origin(name="texts", licence="CC0-1.0", path="texts.jsonl")
    return Declaration(name="grown", sources=(origin,), steps=kept, vocab=1024, folder=folder)


def work(folder: Path, step: str) -> Callable[[], object]:
    """What is to be measured, its libraries loaded."""
    from dataclasses import replace

    from freehold.train import batches, recipe, tracing
    from freehold.train.data import build, vocabulary

    out = folder / "corpus"
    if step.startswith("twins"):
        made = declared(folder, near=step.endswith("near"))
        scratch = folder / step[-4:]
        units = build._units(made, scratch)
        build._sift(units, lambda *_: None)
        return lambda: build._twins(units, made)
    if step == "index":
        return lambda: tracing.build(out, "x")
    tokenizer = vocabulary.load((out / build.TOKENIZER).read_bytes())
    tokenizer.encode_texts(["warm"])
    stage = recipe.Stage(name="x", steps=200)
    chosen = replace(recipe.recipe_named("hearth"), stages=(stage,))
    if step == "tokens":
        return lambda: batches.Batches(out, chosen, tokenizer, scratch=folder / "tokens")
    held = batches.Batches(out, chosen, tokenizer, scratch=folder / "tokens")
    return lambda: [held.step(at) for at in range(200)]


def anonymous() -> int:
    """Bytes of this process's memory that no file stands behind."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) << 10
    raise SystemExit("needs Linux 4.5 or newer")


def measured(folder: Path, step: str, answer: Any) -> None:
    todo = work(folder, step)
    before, most, ended = anonymous(), [0], threading.Event()

    def watch() -> None:
        while not ended.is_set():
            most[0] = max(most[0], anonymous())
            time.sleep(0.005)

    watching = threading.Thread(target=watch)
    watching.start()
    todo()
    ended.set()
    watching.join()
    answer.put(max(0, most[0] - before))


def main(counts: list[int]) -> None:
    from freehold.train.data import build

    context = get_context("spawn")
    for documents in counts:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            corpus(folder, documents)
            build.build(declared(folder, near=False, exact=False), folder / "corpus")
            size = (folder / "corpus" / build.DOCUMENTS).stat().st_size
            print(f"{documents:,} documents, {size / 1e6:.0f} MB")
            for step in STEPS:
                answer = context.Queue()
                process = context.Process(target=measured, args=(folder, step, answer))
                process.start()
                held = answer.get()
                process.join()
                print(f"  {step:14}{held / 1e6:8.1f} MB{held / documents:9.0f} bytes a document")


if __name__ == "__main__":
    main([int(one) for one in sys.argv[1:]] or [20_000, 80_000])

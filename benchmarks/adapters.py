"""What adapters beside a model cost: the same answers, with and without.

    python benchmarks/adapters.py [--model NAME] [--rounds 5] [--ranks 16,64] [--threads N] [--json]

Makes eight random adapters of every matrix of the model, PEFT's format, in a vault of their own,
and one engine process. A round decodes, greedy, eight prompts of 32 tokens for 64 tokens each:
with no adapter, each with another adapter, and all with one; and reads a prompt of 512 tokens with
and without. The order turns with each round. Printed are medians of tokens per second, medians of
the ratio to no adapter within a round, and how long an adapter takes to come while eight answers
run (and the longest pause between their tokens meanwhile). Guessing ahead is off: what it gains
depends on the text.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from freehold.engine import EngineProcess, EngineSettings
from freehold.qwen.adapter import CONFIG, PREFIX, WEIGHTS
from freehold.qwen.config import Config, config_of
from freehold.qwen.names import FUSED, HF, block_shapes
from freehold.store import Store, default_root, pull, safetensors, verify
from freehold.types import Prefilled, Sampling, Token

COUNT = 8
DEFAULT = "qwen2.5-coder-0.5b-instruct"
SIZE = 0.02
"""How far an adapter's values go: far enough that no two adapters answer alike."""


class Quiet:
    """Nobody is told how far a delivery has come."""

    def start(self, total: int, what: str) -> None: ...
    def advance(self, n: int) -> None: ...
    def note(self, line: str) -> None: ...


def write_adapter(folder: Path, config: Config, *, rank: int, seed: int) -> None:
    """A random LoRA of every matrix, as PEFT keeps one, in ``folder``, which is made."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    named: dict[str, np.ndarray[Any, Any]] = {}
    shapes = block_shapes(config)
    for layer in range(config.n_layers):
        for part in (part for parts in FUSED.values() for part in parts):
            n_out, n_in = shapes[part]
            name = PREFIX + HF.block(layer, part).removesuffix(".weight")
            a_rd = rng.uniform(-1, 1, (rank, n_in)) / np.sqrt(n_in)
            named[f"{name}.lora_A.weight"] = a_rd
            named[f"{name}.lora_B.weight"] = rng.uniform(-SIZE, SIZE, (n_out, rank))
    document = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "bias": "none"}
    (folder / CONFIG).write_text(json.dumps(document), encoding="utf-8")
    planned = [(name, "F32", values.shape) for name, values in named.items()]
    with (folder / WEIGHTS).open("xb") as file:
        safetensors.write(file, planned, (v.astype("<f4").tobytes() for v in named.values()))


def vault_beside(root: Path, model: str) -> Store:
    """A vault at ``root`` that holds the user's own ``model``, so that what comes into it comes
    into no other."""
    source, store = Store(default_root()), Store(root)
    (root / "manifests").mkdir(parents=True)
    store.blobs.mkdir(parents=True)
    for path in (source.root / "manifests").glob("*.json"):
        if source.manifest(model).name in path.name:
            shutil.copy(path, root / "manifests")
    for file in source.manifest(model).files:
        try:
            os.link(source.blob(file.sha256), store.blob(file.sha256))
        except OSError:
            shutil.copy(source.blob(file.sha256), store.blob(file.sha256))
    return store


@asynccontextmanager
async def engine_with(
    model: str, rank: int, threads: int | None
) -> AsyncIterator[tuple[EngineProcess, list[tuple[str, str]]]]:
    """An engine of ``model``, and ``COUNT`` adapters in its vault: names and digests."""
    with tempfile.TemporaryDirectory() as temporary:
        store = vault_beside(Path(temporary) / "vault", model)
        config = config_of(verify(store, model, keep=False))
        made = []
        for seed in range(COUNT):
            folder = Path(temporary) / f"adapter-{seed}"
            write_adapter(folder, config, rank=rank, seed=seed)
            found = pull(store, str(folder), sources=[], progress=Quiet())
            made.append((found.name, found.digest))
        settings = EngineSettings(
            root=str(store.root),
            model=model,
            backend="native",
            dtype="bfloat16",
            threads=threads,
            speculate="off",
            draft="off",
        )
        async with await EngineProcess.start(settings) as engine:
            for name, digest in made:
                await engine.attach(name, digest)
            yield engine, made


async def decode(
    engine: EngineProcess, names: list[str | None], seed: int, tokens: int = 64
) -> tuple[float, list[list[int]], float]:
    """Tokens per second while all answers run, the answers, and the longest pause in any."""
    vocab = engine.card.vocab

    async def one(i: int, name: str | None) -> tuple[list[int], list[float]]:
        ids = np.random.default_rng(1000 * seed + i).integers(0, vocab, 32).tolist()
        made, times = [], []
        async for event in engine.generate(
            ids, Sampling(temperature=0, max_tokens=tokens), adapter=name
        ):
            if isinstance(event, Token):
                made.append(event.id)
                times.append(time.perf_counter())
        return made, times

    found = await asyncio.gather(*(one(i, name) for i, name in enumerate(names)))
    begin = max(times[0] for _, times in found)
    end = min(times[-1] for _, times in found)
    count = sum(begin < t <= end for _, times in found for t in times)
    pause = max(b - a for _, times in found for a, b in pairwise(times))
    return count / (end - begin), [made for made, _ in found], pause


async def prefill(engine: EngineProcess, name: str | None, seed: int, tokens: int = 512) -> float:
    ids = np.random.default_rng(seed).integers(0, engine.card.vocab, tokens).tolist()
    begin = time.perf_counter()
    async for event in engine.generate(ids, Sampling(max_tokens=1), adapter=name):
        if isinstance(event, Prefilled):
            return tokens / (time.perf_counter() - begin)
    raise AssertionError("every request is prefilled")


async def measure(model: str, rank: int, rounds: int, threads: int | None) -> dict[str, Any]:
    rates: dict[str, list[float]] = {}
    ratios: dict[str, list[float]] = {}
    async with engine_with(model, rank, threads) as (engine, made):
        names = [name for name, _ in made]
        tasks: dict[str, list[str | None]] = {
            "none": [None] * COUNT,
            "eight": list(names),
            "one": [names[0]] * COUNT,
        }
        await decode(engine, [None] * COUNT, 0)
        for n in range(rounds):
            order = list(tasks)[n % 3 :] + list(tasks)[: n % 3]
            found = {task: (await decode(engine, tasks[task], n + 1))[0] for task in order}
            for task in ("none", "one"):
                name = tasks[task][0]
                found[f"prefill {task}"] = await prefill(engine, name, 7777 + 2 * n + len(task))
            for task, rate in found.items():
                rates.setdefault(task, []).append(rate)
                base = found["prefill none" if task.startswith("prefill") else "none"]
                ratios.setdefault(task, []).append(rate / base)
        running = asyncio.create_task(decode(engine, list(names), 99, 128))
        await asyncio.sleep(1)
        begin = time.perf_counter()
        nbytes = await engine.attach(*made[0])
        seconds = time.perf_counter() - begin
        _, _, pause = await running
        return {
            "model": model,
            "rank": rank,
            "isa": engine.card.isa,
            "bytes_of_one": nbytes,
            "tokens_per_second": {k: statistics.median(v) for k, v in rates.items()},
            "ratio": {k: statistics.median(v) for k, v in ratios.items()},
            "ratio_range": {k: (min(v), max(v)) for k, v in ratios.items()},
            "attach_seconds": seconds,
            "longest_pause": pause,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--model", default=DEFAULT)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ranks", default="16,64")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    for rank in map(int, given.ranks.split(",")):
        found = asyncio.run(measure(given.model, rank, given.rounds, given.threads))
        if given.json:
            print(json.dumps(found))
            continue
        print(
            f"{found['model']}, rank {rank}, {found['isa']}, {found['bytes_of_one'] / 1e6:.1f} MB"
        )
        for task, rate in found["tokens_per_second"].items():
            low, high = found["ratio_range"][task]
            ratio = found["ratio"][task]
            print(f"  {task:13} {rate:8.1f} tok/s   {ratio:.2f} of none ({low:.2f} to {high:.2f})")
        print(
            f"  one comes in {found['attach_seconds']:.2f} s; the longest pause meanwhile was "
            f"{found['longest_pause']:.2f} s"
        )


if __name__ == "__main__":
    main()

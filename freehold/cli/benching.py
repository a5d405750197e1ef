"""``freehold bench``: how fast this machine answers, and how fast its memory would allow."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated

import numpy as np
import typer

from freehold.cli.hosting import living
from freehold.cli.output import Bar, emit, say, table
from freehold.cli.places import root
from freehold.cli.settings import Settings, read_settings
from freehold.types import Engine, Sampling, Token

PROMPT = 32
ANSWER = 64


def bench(
    model: Annotated[
        str | None, typer.Argument(help="A model in the vault. Without one: the default model.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; medians are printed.")] = 5,
    threads: Annotated[int | None, typer.Option(help="Arithmetic threads [all cores].")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32 or bfloat16 [float32].")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure decode, prefill and 8 sequences at once, in tokens per second.

    Each round measures everything once, the memory-read limit too, so that a noisy machine
    disturbs all figures alike.
    """
    settings = read_settings(root(), model=model, threads=threads, dtype=dtype)
    result = asyncio.run(_bench(settings, rounds, quiet=json))
    emit(
        result,
        [
            f"{result['model']}, {result['numerics']}, {result['threads']} threads, "
            f"medians of {rounds}",
            *table(("what", "figure"), ((key, str(value)) for key, value in _rows(result))),
        ],
        as_json=json,
    )


async def _bench(settings: Settings, rounds: int, *, quiet: bool) -> dict[str, object]:
    with Bar(quiet=quiet) as bar:
        async with living(settings.model, settings, bar) as model:
            n_threads = settings.threads or usable_cores()
            reader = MemoryReader(n_threads)
            seen: dict[str, list[float]] = {}
            lengths = [n for n in (512, 2048) if n < model.engine.card.context]
            for turn in range(rounds):
                if not quiet:
                    say(f"round {turn + 1} of {rounds}")
                seen.setdefault("memory", []).append(reader.rate())
                seen.setdefault("decode", []).append(await decode_rate(model.engine, 1, turn))
                seen.setdefault("decode_8", []).append(await decode_rate(model.engine, 8, turn))
                for n in lengths:
                    rate = await prefill_rate(model.engine, n, turn)
                    seen.setdefault(f"prefill_{n}", []).append(rate)
            card = model.engine.card
    medians = {key: statistics.median(values) for key, values in seen.items()}
    return {
        "model": settings.model,
        "digest": card.digest,
        "numerics": card.numerics,
        "threads": n_threads,
        "rounds": rounds,
        "decode_tokens_per_s": round(medians["decode"], 2),
        "decode_8_tokens_per_s": round(medians["decode_8"], 2),
        **{f"prefill_{n}_tokens_per_s": round(medians[f"prefill_{n}"], 1) for n in lengths},
        "bytes_read_per_token": card.bytes_per_token,
        "memory_read_bytes_per_s": round(medians["memory"]),
        "share_of_memory_limit": round(
            statistics.median(
                d * card.bytes_per_token / m
                for d, m in zip(seen["decode"], seen["memory"], strict=True)
            ),
            3,
        ),
    }


def _rows(result: dict[str, object]) -> list[tuple[str, object]]:
    return [
        (key.replace("_tokens_per_s", " (tokens/s)").replace("_", " "), value)
        for key, value in result.items()
        if key not in ("model", "digest", "numerics", "threads", "rounds")
    ]


def usable_cores() -> int:
    """Cores that this process may run on, which a container or ``taskset`` can make fewer."""
    import os

    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def random_ids(n: int, seed: int) -> list[int]:
    """``n`` ordinary token ids; different seeds share no prefix, so nothing comes from a cache."""
    return [int(i) for i in np.random.default_rng(seed).integers(1000, 50_000, size=n)]


async def prefill_rate(engine: Engine, n: int, seed: int) -> float:
    """Prompt tokens per second: ``n`` over the time to the first token."""
    ids = random_ids(n, 7_000_000 + 1000 * seed + n)
    start = time.perf_counter()
    async for event in engine.generate(ids, Sampling(temperature=0, max_tokens=1)):
        if isinstance(event, Token):
            return n / (time.perf_counter() - start)
    raise AssertionError("an answer of one token had none")


async def decode_rate(engine: Engine, n_sequences: int, seed: int) -> float:
    """Tokens per second over the time in which all ``n_sequences`` were decoding."""
    runs = await asyncio.gather(
        *(_token_times(engine, 1000 * seed + 10 * n_sequences + i) for i in range(n_sequences))
    )
    begin, end = max(times[0] for times in runs), min(times[-1] for times in runs)
    return sum(_within(times, begin, end) for times in runs) / (end - begin)


async def _token_times(engine: Engine, seed: int) -> list[float]:
    sampling = Sampling(temperature=0, max_tokens=ANSWER)
    return [
        time.perf_counter()
        async for event in engine.generate(random_ids(PROMPT, seed), sampling)
        if isinstance(event, Token)
    ]


def _within(times: Sequence[float], begin: float, end: float) -> int:
    return sum(begin < t <= end for t in times)


class MemoryReader:
    """The most bytes per second that ``threads`` threads can read from memory, by reading.

    The array is far larger than any cache; ``np.max`` over floats is plain loads and compares,
    vectorised, and releases the interpreter lock.
    """

    def __init__(self, threads: int, n_bytes: int = 1 << 30) -> None:
        self._data = np.ones(n_bytes // 4, dtype=np.float32)
        self._parts = np.array_split(self._data, threads * 8)
        self._threads = threads

    def rate(self) -> float:
        """Best of three passes, in bytes per second."""
        best = float("inf")
        with ThreadPoolExecutor(self._threads) as pool:
            for _ in range(3):
                start = time.perf_counter()
                list(pool.map(np.max, self._parts))
                best = min(best, time.perf_counter() - start)
        return self._data.nbytes / best

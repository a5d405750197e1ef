"""What is measured when speed is measured: shared by ``freehold bench`` and ``benchmarks/``."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from freehold.types import Engine, Sampling, Token

PROMPT = 32
ANSWER = 64


def usable_cores() -> int:
    """Cores that this process may run on, which a container or ``taskset`` can make fewer."""
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

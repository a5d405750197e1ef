"""The native kernels against llama.cpp and against the memory-read limit, in one process.

    python benchmarks/native.py MODEL.gguf [--threads 2] [--rounds 5] [--tasks decode_1,...]
    python benchmarks/native.py MODEL.gguf --context 4096,16384
    python benchmarks/native.py MODEL.gguf --rows 1,2,3,4,5,6,8,10,12,16

A round measures the read limit and then every task on both, one right after the other, so that a
noisy machine disturbs all alike; the order turns with each round. Printed are medians, and medians
of the per-round ratios. Both get the same token ids and compute the same logits; neither samples.

``--context`` fills each length once, on every type of cache and in llama.cpp (whose cache is fp16),
and then takes turns decoding one sequence there. ``--rows`` is ours alone: a step of that many rows
of one sequence, all their logits wanted, beside a step of one.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import llama_cpp as ll
import numpy as np

from freehold.qwen.model import Span, load
from freehold.qwen.ops.native import KvType, NativeOps
from freehold.store import gguf
from freehold.types import RawTensor, VerifiedModel

PROMPT, ANSWER, CHUNK = 32, 32, 512
CACHES: tuple[KvType, ...] = ("float32", "bfloat16", "int8")


def ids_of(n: int, seed: int) -> list[int]:
    return [int(i) for i in np.random.default_rng(seed).integers(0, 150_000, n)]


class Ours:
    def __init__(
        self, path: Path, threads: int, *, tokens: int = 32_768, dtype: KvType = "bfloat16"
    ) -> None:
        data = np.memmap(path, np.uint8, mode="r")
        parsed = gguf.parse(memoryview(data), file=path.name)
        tensors = {
            t.name: RawTensor(
                name=t.name, dtype=t.dtype, shape=t.shape, data=data[t.start : t.stop]
            )
            for t in parsed.tensors
        }
        model = VerifiedModel(
            name=path.stem, digest="", format="gguf", licence="", attested="owner",
            metadata=parsed.metadata, documents={}, tensors=tensors,
        )  # fmt: skip
        self.model = load(
            model, backend="native", dtype=dtype, threads=threads, cache_tokens=tokens
        )
        self.ops = cast("NativeOps", self.model.ops)
        self.bytes_per_token = self.model.card.bytes_per_token

    def prefill(self, n: int, seed: int) -> float:
        state, ids = self.model.cache.new(), ids_of(n, seed)
        start = time.perf_counter()
        for at in range(0, n, CHUNK):
            want = "last" if at + CHUNK >= n else "none"
            self.model.forward([Span(state=state, ids=ids[at : at + CHUNK], want=want)])
        rate = n / (time.perf_counter() - start)
        state.free()
        return rate

    def decode(self, sequences: int, seed: int) -> float:
        states = [self.model.cache.new() for _ in range(sequences)]
        spans = [
            Span(state=state, ids=ids_of(PROMPT, 10 * seed + i), want="last")
            for i, state in enumerate(states)
        ]
        last = self.model.forward(spans)
        start = time.perf_counter()
        for _ in range(ANSWER):
            best = [int(rows.argmax()) for rows in last if rows is not None]
            last = self.model.forward(
                [Span(state=s, ids=[i], want="last") for s, i in zip(states, best, strict=True)]
            )
        rate = sequences * ANSWER / (time.perf_counter() - start)
        for state in states:
            state.free()
        return rate

    def fill(self, n: int) -> float:
        """One sequence of n tokens; tokens per second."""
        self.held, ids = self.model.cache.new(), ids_of(n, 0)
        start = time.perf_counter()
        for at in range(0, n, CHUNK):
            self.model.forward([Span(state=self.held, ids=ids[at : at + CHUNK], want="none")])
        return n / (time.perf_counter() - start)

    def step(self, rows: int) -> float:
        """Seconds of a step of so many rows of the filled sequence, which stays as it was."""
        length = self.held.snapshot()
        start = time.perf_counter()
        self.model.forward([Span(state=self.held, ids=ids_of(rows, 1), want="all")])
        taken = time.perf_counter() - start
        self.held.rollback(length)
        return taken


class Theirs:
    def __init__(self, path: Path, threads: int, tokens: int = 4096) -> None:
        ll.llama_backend_init()
        self._quiet = ll.llama_log_callback(lambda *_: None)
        ll.llama_log_set(self._quiet, ctypes.c_void_p(0))
        model = ll.llama_model_load_from_file(str(path).encode(), ll.llama_model_default_params())
        params = ll.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch, params.n_seq_max = tokens, 2048, 512, 8
        params.kv_unified = True  # else each sequence gets an eighth of the context
        params.n_threads = params.n_threads_batch = threads
        self._context = ll.llama_init_from_model(model, params)
        self._batch = ll.llama_batch_init(2048, 0, 1)
        self._vocab = ll.llama_vocab_n_tokens(ll.llama_model_get_vocab(model))

    def _run(self, rows: list[tuple[int, int, int, bool]]) -> None:
        batch = self._batch
        batch.n_tokens = len(rows)
        for i, (token, position, sequence, want) in enumerate(rows):
            batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, position, 1
            batch.seq_id[i][0], batch.logits[i] = sequence, want
        if ll.llama_decode(self._context, batch):
            raise RuntimeError("llama_decode failed")

    def _best(self, row: int) -> int:
        logits = ll.llama_get_logits_ith(self._context, row)
        return int(np.ctypeslib.as_array(logits, shape=(self._vocab,)).argmax())

    def prefill(self, n: int, seed: int) -> float:
        ll.llama_memory_clear(ll.llama_get_memory(self._context), True)
        ids = ids_of(n, seed)
        start = time.perf_counter()
        self._run([(token, i, 0, i == n - 1) for i, token in enumerate(ids)])
        self._best(n - 1)
        return n / (time.perf_counter() - start)

    def decode(self, sequences: int, seed: int) -> float:
        ll.llama_memory_clear(ll.llama_get_memory(self._context), True)
        self._run(
            [
                (token, i, s, i == PROMPT - 1)
                for s in range(sequences)
                for i, token in enumerate(ids_of(PROMPT, 10 * seed + s))
            ]
        )
        last = [self._best(PROMPT * (s + 1) - 1) for s in range(sequences)]
        start = time.perf_counter()
        for step in range(ANSWER):
            self._run([(last[s], PROMPT + step, s, True) for s in range(sequences)])
            last = [self._best(s) for s in range(sequences)]
        return sequences * ANSWER / (time.perf_counter() - start)

    def fill(self, n: int) -> float:
        ll.llama_memory_clear(ll.llama_get_memory(self._context), True)
        self._held, ids = n, ids_of(n, 0)
        start = time.perf_counter()
        for at in range(0, n, CHUNK):
            self._run([(token, at + i, 0, False) for i, token in enumerate(ids[at : at + CHUNK])])
        return n / (time.perf_counter() - start)

    def step(self, rows: int) -> float:
        ids = ids_of(rows, 1)
        start = time.perf_counter()
        self._run([(token, self._held + i, 0, True) for i, token in enumerate(ids)])
        self._best(rows - 1)
        taken = time.perf_counter() - start
        ll.llama_memory_seq_rm(ll.llama_get_memory(self._context), 0, self._held, -1)
        return taken


TASKS: dict[str, Callable[[Any, int], float]] = {
    "decode_1": lambda engine, seed: engine.decode(1, seed),
    "decode_8": lambda engine, seed: engine.decode(8, seed),
    "prefill_512": lambda engine, seed: engine.prefill(512, seed),
    "prefill_2048": lambda engine, seed: engine.prefill(2048, seed),
}


def contexts(
    path: Path, threads: int, rounds: int, lengths: list[int], caches: list[KvType]
) -> None:
    """Decode one sequence far in, each engine's sequence filled once per length."""
    most = max(lengths) + CHUNK
    engines: dict[str, Ours | Theirs] = {
        dtype: Ours(path, threads, tokens=most, dtype=dtype) for dtype in caches
    }
    engines["llama.cpp"] = Theirs(path, threads, most)
    names = list(engines)
    for length in lengths:
        prefill = {name: engine.fill(length) for name, engine in engines.items()}
        rates: dict[str, list[float]] = {name: [] for name in names}
        for seed in range(rounds + 1):
            for i in range(len(names)):
                name = names[(i + seed) % len(names)]
                taken = [engines[name].step(1) for _ in range(ANSWER // 4)]
                if seed:
                    rates[name].append(1 / statistics.median(taken))
        for name in names:
            mine, other = rates[name], rates["llama.cpp"]
            ratio = statistics.median(a / b for a, b in zip(mine, other, strict=True))
            print(
                f"context {length:6} {name:9} decode {statistics.median(mine):6.1f}  "
                f"ratio to llama.cpp {ratio:.2f}  prefill, once, {prefill[name]:7.1f}"
            )
        for engine in engines.values():
            if isinstance(engine, Ours):
                engine.held.free()


def row_costs(path: Path, threads: int, rounds: int, rows: list[int]) -> None:
    """What a step of a few rows of one sequence costs beside a step of one, at 256 tokens."""
    ours = Ours(path, threads)
    ours.fill(256)
    seen: dict[int, list[float]] = {n: [] for n in rows}
    one: list[float] = []
    for seed in range(rounds + 1):
        for n in rows[:: (-1) ** seed]:
            alone = statistics.median(ours.step(1) for _ in range(5))
            taken = statistics.median(ours.step(n) for _ in range(5))
            if seed:
                one.append(alone)
                seen[n].append(taken / alone)
    print(f"a step of one row: {statistics.median(one) * 1e3:.2f} ms")
    for n in rows:
        print(f"{n:3} rows: {statistics.median(seen[n]):.2f} times that")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--context", help="lengths to decode at, separated by commas")
    parser.add_argument("--caches", default=",".join(CACHES), help="types for --context")
    parser.add_argument("--rows", help="rows of a step, separated by commas")
    options = parser.parse_args()
    if options.context:
        lengths = [int(n) for n in options.context.split(",")]
        caches = options.caches.split(",")
        contexts(options.model, options.threads, options.rounds, lengths, caches)
        return
    if options.rows:
        rows = [int(n) for n in options.rows.split(",")]
        row_costs(options.model, options.threads, options.rounds, rows)
        return
    ours, theirs = Ours(options.model, options.threads), Theirs(options.model, options.threads)
    tasks = options.tasks.split(",")
    limits: list[float] = []
    seen: dict[tuple[str, str], list[float]] = {}
    for seed in range(options.rounds + 1):
        limit = ours.ops.engine.read_rate()
        for task in tasks:
            pair = [("ours", ours), ("llama.cpp", theirs)]
            rates = {name: TASKS[task](engine, seed) for name, engine in pair[:: (-1) ** seed]}
            if seed:  # the first round warms up
                for name, rate in rates.items():
                    seen.setdefault((task, name), []).append(rate)
        if seed:
            limits.append(limit)
    bound = [limit / ours.bytes_per_token for limit in limits]
    print(f"{ours.ops.engine.isa}, {options.threads} threads, medians of {options.rounds} rounds")
    print(
        f"read limit {statistics.median(limits) / 1e9:.1f} GB/s: "
        f"{statistics.median(bound):.1f} tokens/s at {ours.bytes_per_token / 1e6:.0f} MB a token"
    )
    for task in tasks:
        mine, other = seen[task, "ours"], seen[task, "llama.cpp"]
        ratio = statistics.median(a / b for a, b in zip(mine, other, strict=True))
        line = (
            f"{task:13} ours {statistics.median(mine):7.1f}  "
            f"llama.cpp {statistics.median(other):7.1f}  ratio {ratio:.2f}"
        )
        if task == "decode_1":
            share = statistics.median(a / b for a, b in zip(mine, bound, strict=True))
            line += f"  share of the read limit {share:.0%}"
        print(line)


if __name__ == "__main__":
    main()

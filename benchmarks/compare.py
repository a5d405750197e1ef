"""Ours against the others: same file, same token ids, same threads, rounds interleaved.

    python benchmarks/compare.py [--model NAME] [--threads N] [--rounds 5] [--engines a,b] [--json]

Each engine that is installed runs in a process of its own, holds the model, and answers one task
at a time while the others wait, so that a noisy machine disturbs all alike. A round is every task
on every engine; the order of engines turns with each round. Medians over rounds are printed, and
the median of the per-round ratios to the first engine.

Engines: freehold (native kernels); freehold-torch; llamacpp (pip install llama-cpp-python, built
natively with CMAKE_ARGS=-DGGML_NATIVE=ON); openvino (pip install openvino-genai); transformers.

Tasks, all greedy, end-of-text ignored: decode_1 and decode_8 take 32 prompt tokens per sequence
and count tokens per second while all sequences decode; prefill_N is N over the time to the first
token, on a prompt never seen before.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol

PACKAGES = {
    "freehold": "freehold",
    "freehold-torch": "torch",
    "llamacpp": "llama_cpp",
    "openvino": "openvino_genai",
    "transformers": "transformers",
}
TASKS = ("decode_1", "decode_8", "prefill_512", "prefill_2048")


class Subject(Protocol):
    """One engine under measurement. Both return tokens per second."""

    def prefill(self, n: int, seed: int) -> float: ...

    def decode(self, n_sequences: int, seed: int) -> float: ...


def freehold(model: str, _path: str, threads: int, backend: str = "native") -> Subject:
    """Ours, through its engine process: what a request meets."""
    import asyncio
    from contextlib import AsyncExitStack

    from freehold.cli.hosting import living
    from freehold.cli.output import Bar
    from freehold.cli.places import root
    from freehold.cli.settings import read_settings
    from freehold.cli.workload import decode_rate, prefill_rate

    runner, stack = asyncio.Runner(), AsyncExitStack()
    settings = read_settings(root(), model=model, threads=threads, backend=backend)
    engine = runner.run(stack.enter_async_context(living(settings, Bar(quiet=True)))).engine

    class Ours:
        _open = stack  # collected as garbage it would close the engine

        def prefill(self, n: int, seed: int) -> float:
            return runner.run(prefill_rate(engine, n, seed))

        def decode(self, n_sequences: int, seed: int) -> float:
            return runner.run(decode_rate(engine, n_sequences, seed))

    return Ours()


def llamacpp(_model: str, path: str, threads: int) -> Subject:
    """llama.cpp through its own C interface, without its Python sampling."""
    import ctypes
    import time

    import llama_cpp as ll

    from freehold.cli.workload import ANSWER, PROMPT, random_ids

    ll.llama_backend_init()
    quiet = ll.llama_log_callback(lambda *_: None)
    ll.llama_log_set(quiet, ctypes.c_void_p(0))
    loaded = ll.llama_model_load_from_file(path.encode(), ll.llama_model_default_params())
    params = ll.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch, params.n_seq_max = 4096, 2048, 512, 8
    params.kv_unified = True  # else each sequence gets an eighth of the context
    params.n_threads = params.n_threads_batch = threads
    context = ll.llama_init_from_model(loaded, params)
    batch = ll.llama_batch_init(2048, 0, 1)
    vocab = ll.llama_vocab_n_tokens(ll.llama_model_get_vocab(loaded))

    def run(rows: list[tuple[int, int, int, bool]]) -> None:
        """Decode (token, position, sequence, want logits) rows as one batch."""
        batch.n_tokens = len(rows)
        for i, (token, position, sequence, want) in enumerate(rows):
            batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, position, 1
            batch.seq_id[i][0], batch.logits[i] = sequence, want
        if ll.llama_decode(context, batch):
            raise RuntimeError("llama_decode failed")

    def best(row: int) -> int:
        import numpy as np

        logits = ll.llama_get_logits_ith(context, row)
        return int(np.ctypeslib.as_array(logits, shape=(vocab,)).argmax())

    def clear() -> None:
        ll.llama_memory_clear(ll.llama_get_memory(context), True)

    class Theirs:
        _keep = quiet

        def prefill(self, n: int, seed: int) -> float:
            clear()
            ids = random_ids(n, 7_000_000 + 1000 * seed + n)
            start = time.perf_counter()
            run([(token, i, 0, i == n - 1) for i, token in enumerate(ids)])
            best(n - 1)
            return n / (time.perf_counter() - start)

        def decode(self, n_sequences: int, seed: int) -> float:
            clear()
            rows = [
                (token, i, s, i == PROMPT - 1)
                for s in range(n_sequences)
                for i, token in enumerate(random_ids(PROMPT, 1000 * seed + 10 * n_sequences + s))
            ]
            run(rows)
            last = [best(PROMPT * (s + 1) - 1) for s in range(n_sequences)]
            start = time.perf_counter()
            for step in range(ANSWER - 1):
                run([(last[s], PROMPT + step, s, True) for s in range(n_sequences)])
                last = [best(s) for s in range(n_sequences)]
            return n_sequences * (ANSWER - 1) / (time.perf_counter() - start)

    return Theirs()


def openvino(_model: str, path: str, threads: int) -> Subject:
    """OpenVINO GenAI, which reads GGUF files itself."""
    import time

    import numpy as np
    import openvino as ov
    import openvino_genai as genai

    from freehold.cli.workload import ANSWER, PROMPT, random_ids

    pipe = genai.LLMPipeline(path, "CPU", INFERENCE_NUM_THREADS=threads)

    def generate(ids: list[list[int]], n: int) -> tuple[float, float]:
        """Seconds to the first token, and seconds in all."""
        tokens = np.array(ids, dtype=np.int64)
        inputs = genai.TokenizedInputs(ov.Tensor(tokens), ov.Tensor(np.ones_like(tokens)))
        config = genai.GenerationConfig()
        config.max_new_tokens, config.do_sample, config.ignore_eos = n, False, True
        start = time.perf_counter()
        result = pipe.generate(inputs, config)
        total = time.perf_counter() - start
        return result.perf_metrics.get_ttft().mean / 1e3, total

    class Theirs:
        def prefill(self, n: int, seed: int) -> float:
            _, total = generate([random_ids(n, 7_000_000 + 1000 * seed + n)], 1)
            return n / total

        def decode(self, n_sequences: int, seed: int) -> float:
            prompts = [
                random_ids(PROMPT, 1000 * seed + 10 * n_sequences + s) for s in range(n_sequences)
            ]
            first, total = generate(prompts, ANSWER)
            return n_sequences * (ANSWER - 1) / (total - first)

    return Theirs()


def transformers(_model: str, path: str, threads: int) -> Subject:
    """transformers on the same weights, dequantised, in bfloat16."""
    import time

    import torch
    from transformers import AutoModelForCausalLM, DynamicCache

    from freehold.cli.workload import ANSWER, PROMPT, random_ids

    torch.set_num_threads(threads)
    folder, file = os.path.split(path)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.bfloat16)

    class Theirs:
        @torch.inference_mode()
        def prefill(self, n: int, seed: int) -> float:
            ids = torch.tensor([random_ids(n, 7_000_000 + 1000 * seed + n)])
            start = time.perf_counter()
            model(ids, logits_to_keep=1).logits.argmax(-1)
            return n / (time.perf_counter() - start)

        @torch.inference_mode()
        def decode(self, n_sequences: int, seed: int) -> float:
            cache = DynamicCache()
            ids = torch.tensor(
                [random_ids(PROMPT, 1000 * seed + 10 * n_sequences + s) for s in range(n_sequences)]
            )
            last = model(ids, past_key_values=cache, logits_to_keep=1).logits[:, -1].argmax(-1)
            start = time.perf_counter()
            for _ in range(ANSWER - 1):
                out = model(last[:, None], past_key_values=cache)
                last = out.logits[:, -1].argmax(-1)
            return n_sequences * (ANSWER - 1) / (time.perf_counter() - start)

    return Theirs()


MAKERS: dict[str, Callable[[str, str, int], Subject]] = {
    "freehold": freehold,
    "freehold-torch": partial(freehold, backend="torch"),
    "llamacpp": llamacpp,
    "openvino": openvino,
    "transformers": transformers,
}


def measure(subject: Subject, task: str, seed: int) -> float:
    kind, _, n = task.partition("_")
    return subject.prefill(int(n), seed) if kind == "prefill" else subject.decode(int(n), seed)


def serve_one(engine: str, model: str, path: str, threads: int) -> None:
    """A measured process: a task name and a seed in, a figure out, line by line."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # libraries that print must not disturb the answers
    subject = MAKERS[engine](model, path, threads)
    print(json.dumps({"ready": True}), file=out)
    for line in sys.stdin:
        task, seed = json.loads(line)
        print(json.dumps({"rate": measure(subject, task, seed)}), file=out)


class Remote:
    """The other side of ``serve_one``."""

    def __init__(self, engine: str, model: str, path: str, threads: int) -> None:
        env = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        # A file, not a pipe: nobody reads it while the process works.
        self._trouble = tempfile.TemporaryFile("w+")  # noqa: SIM115  (lives as long as the process)
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--engine", engine, model, path, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._trouble,
            text=True,
            env=env,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin, self._process.stdout
        self._answer()

    def _answer(self) -> dict[str, Any]:
        line = self._out.readline()
        if not line:
            self._process.wait()
            self._trouble.seek(0)
            raise RuntimeError(cause(self._trouble.read()))
        found: dict[str, Any] = json.loads(line)
        return found

    def rate(self, task: str, seed: int) -> float:
        self._in.write(json.dumps([task, seed]) + "\n")
        self._in.flush()
        return float(self._answer()["rate"])

    def close(self) -> None:
        self._in.close()
        self._process.wait()
        self._trouble.close()


def cause(stderr: str) -> str:
    """What a failed process says it died of: the last line of its trouble that says something."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    return next((line for line in reversed(lines) if "Error" in line), "it ended without a word")


def start(names: list[str], model: str, path: str, threads: int) -> dict[str, Remote]:
    """Start what is installed; say in one line why any other is left out."""
    running = {}
    for name in names:
        if importlib.util.find_spec(PACKAGES[name]) is None:
            print(f"{name}: not installed, left out", file=sys.stderr)
            continue
        try:
            running[name] = Remote(name, model, path, threads)
        except RuntimeError as error:
            print(f"{name}: left out, it does not take this file: {error}", file=sys.stderr)
    return running


def compare(running: dict[str, Remote], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Every task on every engine, ``rounds`` times, after one round that warms up."""
    rates: dict[str, dict[str, list[float]]] = {n: {t: [] for t in TASKS} for n in running}
    for turn in range(rounds + 1):
        print(f"round {turn} of {rounds}" if turn else "warming up", file=sys.stderr)
        order = list(running)
        order = order[turn % len(order) :] + order[: turn % len(order)]
        for task in TASKS:
            for name in order:
                rate = running[name].rate(task, turn)
                if turn:
                    rates[name][task].append(rate)
    return rates


def report(rates: dict[str, dict[str, list[float]]]) -> list[str]:
    """A Markdown table: median rate, and the median ratio of ours to each other engine."""
    first = next(iter(rates))
    lines = ["| tokens/s | " + " | ".join(TASKS) + " |", "|---" * (len(TASKS) + 1) + "|"]
    for name, by_task in rates.items():
        cells = [f"{statistics.median(by_task[task]):.1f}" for task in TASKS]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    for name in list(rates)[1:]:
        pairs = [zip(rates[first][task], rates[name][task], strict=True) for task in TASKS]
        cells = [f"{statistics.median(ours / theirs for ours, theirs in p):.2f}" for p in pairs]
        lines.append(f"| {first} / {name} | " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    if len(sys.argv) > 1 and sys.argv[1] == "--engine":
        engine, model, path, threads = sys.argv[2:]
        serve_one(engine, model, path, int(threads))
        return
    from freehold.cli.places import root
    from freehold.cli.settings import DEFAULT_MODEL
    from freehold.cli.workload import usable_cores
    from freehold.store import Store

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--engines", default=",".join(MAKERS))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()

    names = options.engines.split(",")
    unknown = [name for name in names if name not in MAKERS]
    if unknown:
        parser.error(f"unknown engine {unknown[0]}; known: {', '.join(MAKERS)}")
    weights = Store(root()).weights_path(options.model)
    with tempfile.TemporaryDirectory() as folder:
        # In the vault a file is named by its digest; others go by the end of its name.
        path = Path(folder) / f"{options.model}.gguf"
        path.symlink_to(weights)
        running = start(names, options.model, str(path), options.threads)
        if not running:
            parser.error("none of these engines is installed")
        try:
            rates = compare(running, options.rounds)
        finally:
            for remote in running.values():
                remote.close()
    print(json.dumps(rates) if options.json else "\n".join(report(rates)))


if __name__ == "__main__":
    main()

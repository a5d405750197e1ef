"""Ours against the others: same file, same token ids, same threads, rounds interleaved.

    python benchmarks/compare.py [--model NAME] [--tasks a,b] [--engines a,b] [--openvino FOLDER]
                                 [--rounds 5] [--threads N] [--json]

Each engine that is installed (see engines.py) runs in a process of its own, holds the model, and
answers one task at a time while the others wait, so that a noisy machine disturbs all alike. A
round measures the memory-read limit and then every task on every engine; the order of engines
turns with each round. Printed are medians over rounds, and medians of the per-round ratios.

Tasks, all greedy, tokens per second:

- ``decode_N``: N prompts of 32 tokens, 64 tokens each, end-of-text ignored; counted while all N
  decode. ``decode_N@C`` after a context of C tokens, computed once and kept.
- ``prefill_N``: N over the time to the first token, on a prompt never seen before.
- ``edits``: the requests of edits.toml, one after the other, as chat, up to 400 tokens each;
  decoding only.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from engines import MAKERS, Answer, Remote, Setup, parse, started, weights_of

TASKS = ("decode_1", "decode_8", "prefill_512", "prefill_2048")
EDIT_TOKENS = 400
LEAST_CONTEXT = 4096
PROBE_PASSES = 32

Rates = dict[str, dict[str, list[float]]]


# --- tasks ----------------------------------------------------------------------------------------


def together(answers: Sequence[Answer]) -> float:
    """Tokens per second over the time in which all answers were being decoded."""
    begin = max(answer.times[0] for answer in answers)
    end = min(answer.times[-1] for answer in answers)
    return sum(begin < t <= end for answer in answers for t in answer.times) / (end - begin)


class Task:
    """One measure. Raises ``ValueError`` for a name that is none.

    ``edits`` are the prompts of the task of that name, and the ids that end an answer.
    """

    def __init__(self, name: str, edits: tuple[list[list[int]], list[int]] | None = None) -> None:
        found = re.fullmatch(r"(prefill|decode)_([1-9]\d*)(?:@([1-9]\d*))?|(edits)", name)
        if not found or (found[1] == "prefill" and found[3]):
            raise ValueError(
                f"unknown task {name!r}: take decode_N, decode_N@C, prefill_N or edits"
            )
        self.name = name
        self._kind, self._n = found[1] or found[4], int(found[2] or 1)
        self._after = int(found[3]) if found[3] else None
        self._edits, self._stop = edits or ([], [])
        if self._after and self._n > 1:
            raise ValueError(f"{name}: only one sequence after a long context")

    @property
    def context(self) -> int:
        """Tokens of cache that it needs, answers included, with room for a page's rounding."""
        from freehold.cli.workload import ANSWER, PROMPT

        if self._kind == "edits":
            return max((len(ids) for ids in self._edits), default=0) + EDIT_TOKENS + 16
        if self._kind == "prefill":
            return self._n + 16
        if self._after:
            return self._after + 4 * ANSWER  # else what is kept would make room for the answer
        return self._n * (PROMPT + ANSWER + 16)

    def measure(self, engine: Remote, turn: int) -> float:
        """Tokens per second. Turn 0 warms up, and may do less."""
        from freehold.cli.workload import ANSWER, PROMPT, random_ids

        if self._kind == "edits":
            prompts = self._edits[:None] if turn else self._edits[:1]
            answers = [engine.answer([ids], EDIT_TOKENS, stop=self._stop)[0] for ids in prompts]
            seconds = sum(answer.times[-1] - answer.times[0] for answer in answers)
            return sum(len(answer.ids) - 1 for answer in answers) / seconds
        if self._kind == "prefill":
            ids = random_ids(self._n, 7_000_000 + 1000 * turn + self._n)
            return self._n / engine.answer([ids], 1)[0].times[0]
        if self._after:
            return together(engine.answer([random_ids(self._after, 9)], ANSWER, keep=True))
        prompts = [random_ids(PROMPT, 1000 * turn + 10 * self._n + s) for s in range(self._n)]
        return together(engine.answer(prompts, ANSWER))


def edit_prompts(model: str) -> tuple[list[list[int]], list[int]]:
    """The requests of edits.toml as ids, with ``model``'s own template, and its stop ids."""
    from freehold.cli.places import root
    from freehold.qwen import codec
    from freehold.store import Store, verify

    speaks = codec.load(verify(Store(root()), model))
    edits = tomllib.loads(Path(__file__).with_name("edits.toml").read_text("utf-8"))["edit"]
    prompts = [
        speaks.chat(
            [
                {
                    "role": "user",
                    "content": f"Here is {edit['file']}:\n\n```\n{edit['text']}```\n\n"
                    f"{edit['change']} Answer with the whole changed file and nothing else.",
                }
            ]
        )
        for edit in edits
    ]
    return prompts, list(speaks.stop_ids)


# --- the limit ------------------------------------------------------------------------------------


def official_bytes_per_token(path: str) -> int:
    """Bytes of the official file that one token must read: every tensor but the embedding table,
    of which one row is read; that too where the file has no output matrix of its own."""
    import numpy as np

    from freehold.store import gguf

    data = np.memmap(path, np.uint8, mode="r")
    tensors = gguf.parse(memoryview(data), file=path).tensors
    sizes = {tensor.name: tensor.stop - tensor.start for tensor in tensors}
    tied = "output.weight" not in sizes
    return sum(n for name, n in sizes.items() if tied or name != "token_embd.weight")


def read_probe(threads: int) -> Callable[[], float]:
    """What measures how many bytes per second can be read from memory for as long as a decoding
    task lasts: the median of 32 passes of the kernels' own reading loop over 512 MiB; numpy's best
    of three over 1 GiB where the kernels are not built."""
    from freehold.cli.workload import MemoryReader

    try:
        from freehold.qwen.ops import _kernels
    except ImportError:
        print("the native kernels are not built: numpy measures the read limit", file=sys.stderr)
        return MemoryReader(threads).rate
    engine = _kernels.make_engine(threads, "")
    return lambda: statistics.median(engine.read_rate() for _ in range(PROBE_PASSES))


# --- rounds and tables ----------------------------------------------------------------------------


def compare(
    running: Mapping[str, Remote], tasks: Sequence[Task], rounds: int, limit: Callable[[], float]
) -> tuple[Rates, list[float]]:
    """Every task on every engine, ``rounds`` times, after one round that warms up; and the read
    limit of each round, in bytes per second."""
    rates: Rates = {name: {task.name: [] for task in tasks} for name in running}
    limits: list[float] = []
    for turn in range(rounds + 1):
        print(f"round {turn} of {rounds}" if turn else "warming up", file=sys.stderr)
        order = list(running)
        order = order[turn % len(order) :] + order[: turn % len(order)]
        bound = limit()
        for task in tasks:
            for name in order:
                rate = task.measure(running[name], turn)
                print(f"  {task.name} {name}: {rate:.1f} tokens/s", file=sys.stderr)
                if turn:
                    rates[name][task.name].append(rate)
            if task.name == "decode_1":
                # Memory's speed moves within seconds: the better of before and after is the bound.
                bound = max(bound, limit())
        if turn:
            limits.append(bound)
    return rates, limits


def shares(rates: Rates, limits: Sequence[float], n_bytes: int) -> dict[str, float]:
    """The share of the read limit that decoding one sequence reaches, median of rounds."""
    return {
        name: statistics.median(
            rate * n_bytes / limit for rate, limit in zip(by_task["decode_1"], limits, strict=True)
        )
        for name, by_task in rates.items()
        if "decode_1" in by_task
    }


def ratios(rates: Rates) -> dict[str, dict[str, float]]:
    """Median over rounds of the first engine's rate to each other's."""
    first, *others = rates
    return {
        name: {
            task: statistics.median(
                ours / theirs for ours, theirs in zip(seen, rates[name][task], strict=True)
            )
            for task, seen in rates[first].items()
        }
        for name in others
    }


def report(rates: Rates, limits: Sequence[float], n_bytes: int) -> list[str]:
    """A Markdown table of medians and ratios, and the read limit below it."""
    first = next(iter(rates))
    tasks = list(rates[first])
    lines = ["| tokens/s | " + " | ".join(tasks) + " |", "|---" * (len(tasks) + 1) + "|"]
    for name, by_task in rates.items():
        cells = [f"{statistics.median(by_task[task]):.1f}" for task in tasks]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    for name, by_name in ratios(rates).items():
        cells = [f"{by_name[task]:.2f}" for task in tasks]
        lines.append(f"| {first} / {name} | " + " | ".join(cells) + " |")
    limit = statistics.median(limits)
    lines += [
        "",
        f"Read limit {limit / 1e9:.1f} GB/s ({min(limits) / 1e9:.1f} to {max(limits) / 1e9:.1f}): "
        f"{limit / n_bytes:.1f} tokens/s at the file's {n_bytes:,} bytes per token.",
    ]
    for name, share in shares(rates, limits, n_bytes).items():
        lines.append(f"{name} decodes at {share:.0%} of it.")
    return lines


def main() -> None:
    from freehold.cli.settings import DEFAULT_MODEL
    from freehold.cli.workload import usable_cores
    from freehold.errors import FreeholdError

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--engines", default=",".join(MAKERS), help="the first is the one compared")
    parser.add_argument("--openvino", default="", help="a folder made by export_openvino.py")
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.rounds < 1 or options.threads < 1:
        parser.error("--rounds and --threads must be at least 1")
    try:
        names = options.engines.split(",")
        for name in names:
            parse(name)
        wanted = options.tasks.split(",")
        edits = edit_prompts(options.model) if "edits" in wanted else None
        tasks = [Task(name, edits) for name in wanted]
        with weights_of(options.model) as path:
            setup = Setup(
                model=options.model,
                weights=path,
                threads=options.threads,
                context=max(LEAST_CONTEXT, *(task.context for task in tasks)),
                openvino=options.openvino,
            )
            n_bytes = official_bytes_per_token(path)
            with started(names, setup) as running:
                rates, limits = compare(running, tasks, options.rounds, read_probe(options.threads))
    except (ValueError, FreeholdError) as error:
        parser.error(str(error))
    except RuntimeError as error:
        raise SystemExit(f"an engine failed: {error}") from error
    if options.json:
        result = {
            "model": options.model,
            "threads": options.threads,
            "context": setup.context,
            "tokens_per_s": rates,
            "ratios": ratios(rates),
            "read_bytes_per_s": limits,
            "official_bytes_per_token": n_bytes,
            "share_of_read_limit": shares(rates, limits, n_bytes),
        }
        print(json.dumps(result))
    else:
        print("\n".join(report(rates, limits, n_bytes)))


if __name__ == "__main__":
    main()

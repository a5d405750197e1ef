"""HumanEval, pass@1, greedy: ours against others on the very same prompts.

    python benchmarks/humaneval.py --data humaneval.jsonl.gz [--model NAME] [--engines a,b]
                                   [--answers FILE] [--json]

One JSON object a line with `prompt`, `entry_point` and `test` (fields `id` or `task_id`). Each task
is asked as chat with the model's own template, up to 768 new tokens; what is run is the first block
of Python in the answer, after the prompt's own imports, with the task's test. An engine gets
``--at-once`` prompts together.

The answers are programs that a model wrote. They run one by one in a process of their own
(`python -I`, an empty temporary folder, limits on time, memory, files and processes, no network),
which keeps accidents in, not an attacker: use a machine that holds nothing precious.

``--answers FILE`` keeps what was answered; a second run asks only what the file does not hold.
"""

from __future__ import annotations

import argparse
import ctypes
import gzip
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import comb
from pathlib import Path
from typing import Any

from engines import Setup, parse, started, weights_of

ASK = (
    "Please provide a self-contained Python script that solves the following problem in a markdown "
    "code block:\n```python\n{prompt}\n```\n"
)
MAX_TOKENS = 768
TASK_SECONDS = 15
TASK_BYTES = 2 << 30
NEW_USER_AND_NET = 0x10000000 | 0x40000000  # CLONE_NEWUSER | CLONE_NEWNET, <linux/sched.h>


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One task of the set."""

    id: str
    prompt: str
    entry_point: str
    test: str


def read_problems(path: Path) -> list[Problem]:
    """The tasks of a JSON-lines file, gzipped or not. Raises ``ValueError`` naming the line."""
    opened = gzip.open if path.suffix == ".gz" else open
    problems = []
    with opened(path, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                problems.append(
                    Problem(
                        id=str(row["id"] if "id" in row else row["task_id"]),
                        prompt=row["prompt"],
                        entry_point=row["entry_point"],
                        test=row["test"],
                    )
                )
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{path}, line {number}: no task of HumanEval: {error!r}"
                ) from None
    return problems


# --- from an answer to a program ------------------------------------------------------------------


def code_of(answer: str) -> str:
    """The first fenced block of Python (else the first of any kind, else the answer); one that was
    cut off by the length limit counts to its end."""
    blocks = re.findall(r"^[ \t]*```[ \t]*(\w*)[^\n]*\n(.*?)(?:^[ \t]*```|\Z)", answer, re.M | re.S)
    python = [text for language, text in blocks if language.lower() in ("python", "python3", "py")]
    return str((python or [text for _, text in blocks] or [answer])[0])


def program_of(problem: Problem, answer: str) -> str:
    """What is run: the prompt's imports, the answer's code, the test, the call of the test."""
    imports = [line for line in problem.prompt.splitlines() if re.match(r"(import|from)\s", line)]
    return "\n".join([*imports, code_of(answer), problem.test, f"check({problem.entry_point})", ""])


def passes(program: str) -> bool:
    """Whether ``program`` ends well within its limits."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "program.py").write_text(program, "utf-8", errors="replace")
        try:
            done = subprocess.run(
                [sys.executable, "-I", "program.py"],
                cwd=folder,
                env={"OMP_NUM_THREADS": "1"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=TASK_SECONDS + 5,
                preexec_fn=confine,
                process_group=0,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return False
    return done.returncode == 0


def confine() -> None:
    """Take from this process what a solution has no need of. Fails where the kernel refuses: a
    program that is not confined is not run."""
    for what, most in (
        (resource.RLIMIT_CPU, TASK_SECONDS),
        (resource.RLIMIT_AS, TASK_BYTES),
        (resource.RLIMIT_FSIZE, 1 << 20),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 64),
    ):
        resource.setrlimit(what, (most, most))
    if sys.platform == "linux" and ctypes.CDLL(None, use_errno=True).unshare(NEW_USER_AND_NET):
        raise OSError(ctypes.get_errno(), "no network of its own to be had")
    # Last: as root it does not bind, as anyone else the namespace counts anew.
    resource.setrlimit(resource.RLIMIT_NPROC, (64, 64))


def check_confinement() -> None:
    """Raises ``SystemExit`` where ``confine`` does not work, before hours of answers."""
    try:
        works = passes("pass\n")
    except (OSError, subprocess.SubprocessError):
        works = False
    if not works:
        raise SystemExit(
            "programs cannot be confined here: a network namespace is refused. "
            "Allow unprivileged user namespaces, or run as root in a container of its own"
        )


# --- asking ---------------------------------------------------------------------------------------


class Kept:
    """Answers by engine and task; in a file, if one is named, from the moment they are there."""

    def __init__(self, path: Path | None, model: str) -> None:
        self._path, self._model = path, model
        self._texts: dict[tuple[str, str], str] = {}
        if path is not None and path.is_file():
            for line in path.read_text("utf-8").splitlines():
                row = json.loads(line)
                if row["model"] == model:
                    self._texts[row["engine"], row["id"]] = row["text"]

    def get(self, engine: str, id: str) -> str | None:
        return self._texts.get((engine, id))

    def put(self, engine: str, id: str, text: str) -> None:
        self._texts[engine, id] = text
        if self._path is not None:
            row = {"model": self._model, "engine": engine, "id": id, "text": text}
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


def ask(
    names: Sequence[str], problems: Sequence[Problem], kept: Kept, setup: Setup, at_once: int
) -> list[str]:
    """Have every engine that takes the model answer what is not kept yet; which those are."""
    from freehold.cli.places import root
    from freehold.qwen import codec
    from freehold.store import Store, verify

    open_ = {n: [p for p in problems if kept.get(n, p.id) is None] for n in names}
    ready = [name for name in names if not open_[name]]
    asking = [name for name in names if open_[name]]
    if not asking:
        return ready
    speaks = codec.load(verify(Store(root()), setup.model))
    # One at a time: nothing is timed here, and two would only fight over the cores.
    for name in asking:
        with started([name], setup) as running:
            for at in range(0, len(open_[name]), at_once):
                group = open_[name][at : at + at_once]
                prompts = [speaks.chat([{"role": "user", "content": asked(p)}]) for p in group]
                answers = running[name].answer(prompts, MAX_TOKENS, stop=speaks.stop_ids)
                for problem, answer in zip(group, answers, strict=True):
                    decoder = speaks.decoder()
                    text = "".join(decoder.push(token).text for token in answer.ids)
                    kept.put(name, problem.id, text + decoder.finish().text)
                say(f"{name}: {at + len(group)} of {len(open_[name])} answered")
        ready.append(name)
    return [name for name in names if name in ready]


def asked(problem: Problem) -> str:
    return ASK.format(prompt=problem.prompt.strip())


def say(line: str) -> None:
    print(line, file=sys.stderr)


# --- the result -----------------------------------------------------------------------------------


def paired(ours: Mapping[str, bool], theirs: Mapping[str, bool]) -> dict[str, float]:
    """How two engines agree task by task, and how likely chance alone parts them so much: the exact
    two-sided sign test on the tasks that only one of them solves (McNemar 1947)."""
    only_ours = sum(ours[id] and not theirs[id] for id in ours)
    only_theirs = sum(theirs[id] and not ours[id] for id in ours)
    n, least = only_ours + only_theirs, min(only_ours, only_theirs)
    return {
        "both": sum(ours[id] and theirs[id] for id in ours),
        "only_first": only_ours,
        "only_other": only_theirs,
        "neither": sum(not ours[id] and not theirs[id] for id in ours),
        "p": min(1.0, sum(comb(n, k) for k in range(least + 1)) / 2 ** (n - 1)) if n else 1.0,
    }


def result_of(names: Sequence[str], problems: Sequence[Problem], kept: Kept) -> dict[str, Any]:
    """Run every program of every engine and count."""
    passed: dict[str, dict[str, bool]] = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for name in names:
            say(f"{name}: running {len(problems)} programs")
            programs = [program_of(p, kept.get(name, p.id) or "") for p in problems]
            outcomes = pool.map(passes, programs)
            passed[name] = {p.id: good for p, good in zip(problems, outcomes, strict=True)}
    return {
        "tasks": len(problems),
        "passed": {name: sum(by_id.values()) for name, by_id in passed.items()},
        "pass_at_1": {
            name: round(100 * sum(by_id.values()) / len(problems), 1)
            for name, by_id in passed.items()
        },
        "paired": {name: paired(passed[names[0]], passed[name]) for name in names[1:]},
        "by_task": passed,
    }


def lines_of(result: dict[str, Any]) -> list[str]:
    """The result as Markdown tables."""
    lines = ["| engine | pass@1 | tasks |", "|---|---|---|"]
    for name, share in result["pass_at_1"].items():
        lines.append(f"| {name} | {share} | {result['passed'][name]} of {result['tasks']} |")
    if result["paired"]:
        first = next(iter(result["passed"]))
        lines += ["", f"| {first} and | both | only {first} | only the other | neither | p |"]
        lines.append("|---|---|---|---|---|---|")
        for name, found in result["paired"].items():
            *counts, p = found.values()
            lines.append(f"| {name} | {' | '.join(map(str, counts))} | {p:.2f} |")
    return lines


def main() -> None:
    from freehold.cli.settings import DEFAULT_MODEL
    from freehold.cli.workload import usable_cores
    from freehold.errors import FreeholdError

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="humaneval.jsonl[.gz]")
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--engines", default="freehold,llamacpp")
    parser.add_argument("--openvino", default="", help="a folder made by export_openvino.py")
    parser.add_argument("--answers", type=Path, help="keep the answers here, and go on from there")
    parser.add_argument("--at-once", type=int, default=8, help="prompts answered together, 1 to 16")
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--first", type=int, help="only the first so many tasks")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if not 1 <= options.at_once <= 16:
        parser.error("--at-once must lie between 1 and 16")
    names = options.engines.split(",")
    try:
        for name in names:
            parse(name)
        problems = read_problems(options.data)[: options.first]
        if not problems:
            parser.error(f"{options.data} holds no task")
        check_confinement()
        kept = Kept(options.answers, options.model)
        with weights_of(options.model) as path:
            setup = Setup(
                model=options.model,
                weights=path,
                threads=options.threads,
                context=options.at_once * (MAX_TOKENS + 1024),
                openvino=options.openvino,
            )
            names = ask(names, problems, kept, setup, options.at_once)
    except (OSError, ValueError, FreeholdError) as error:
        parser.error(str(error))
    except RuntimeError as error:
        raise SystemExit(f"an engine failed: {error}") from error
    result = result_of(names, problems, kept)
    print(json.dumps(result) if options.json else "\n".join(lines_of(result)))


if __name__ == "__main__":
    main()

"""HumanEval, pass@1, greedy: ours against others on the very same prompts.

    python benchmarks/humaneval.py --data humaneval.jsonl.gz [--model NAME] [--engines a,b]
                                   [--answers FILE] [--json]

Prompt, program and limits are those of `freehold eval --suite humaneval`, and so are the cells that
the programs run in. One JSON object a line with `id`, `prompt`, `entry_point` and `test`. An engine
gets ``--at-once`` prompts together.

``--answers FILE`` keeps what was answered; a second run asks only what the file does not hold.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from engines import Setup, parse, started, weights_of

from freehold.evals import suite_of
from freehold.evals.cells import Cells
from freehold.evals.data import Item, load
from freehold.evals.figures import mcnemar
from freehold.evals.kinds import Written, program_of, question_of

(TASK,) = suite_of(["humaneval"])
"""The very task of `freehold eval --suite humaneval`: its prompt, its program, its limits."""


def read_problems(path: Path) -> list[Item]:
    """The tasks of a JSON-lines file, gzipped or not, whatever its digest. Raises
    ``MalformedError`` naming the line."""
    loose = replace(TASK, data=replace(TASK.data, file=path.name, sha256=""))
    return list(load(loose, path.parent).items)


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
    names: Sequence[str], problems: Sequence[Item], kept: Kept, setup: Setup, at_once: int
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
                questions = [question_of(TASK, problem, [], speaks) for problem in group]
                prompts = [list(q.ids) for q in questions if isinstance(q, Written)]
                answers = running[name].answer(prompts, TASK.max_tokens, stop=speaks.stop_ids)
                for problem, answer in zip(group, answers, strict=True):
                    decoder = speaks.decoder()
                    text = "".join(decoder.push(token).text for token in answer.ids)
                    kept.put(name, problem.id, text + decoder.finish().text)
                say(f"{name}: {at + len(group)} of {len(open_[name])} answered")
        ready.append(name)
    return [name for name in names if name in ready]


def say(line: str) -> None:
    print(line, file=sys.stderr)


# --- the result -----------------------------------------------------------------------------------


def result_of(names: Sequence[str], problems: Sequence[Item], kept: Kept) -> dict[str, Any]:
    """Run every program of every engine and count."""
    passed: dict[str, dict[str, bool]] = {}
    n = os.cpu_count() or 1
    with Cells(n) as cells, ThreadPoolExecutor(n) as pool:
        for name in names:
            say(f"{name}: running {len(problems)} programs")
            programs = [program_of(TASK, p, kept.get(name, p.id) or "") for p in problems]
            outcomes = pool.map(cells.run, programs)
            passed[name] = {p.id: o.passed for p, o in zip(problems, outcomes, strict=True)}
    first = [passed[names[0]][p.id] for p in problems]
    return {
        "tasks": len(problems),
        "passed": {name: sum(by_id.values()) for name, by_id in passed.items()},
        "pass_at_1": {
            name: round(100 * sum(by_id.values()) / len(problems), 1)
            for name, by_id in passed.items()
        },
        "paired": {
            name: asdict(mcnemar(first, [passed[name][p.id] for p in problems]))
            for name in names[1:]
        },
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
        with Cells(1):  # before hours of answers
            pass
        kept = Kept(options.answers, options.model)
        with weights_of(options.model) as path:
            setup = Setup(
                model=options.model,
                weights=path,
                threads=options.threads,
                context=options.at_once * (TASK.max_tokens + 1024),
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

"""The default model adapted to Indonesian, from the corpus to the gate, as an owner would do it.

    python benchmarks/indonesian.py DATA WORK [--steps 80] [--batch 4096] [--rate 8e-4]
                                             [--ranks 2] [--no-replay]

DATA is a folder with `corpus/`, `eval/` and `guard/` (docs/evals.md says what lies there). WORK
gets the parts of the corpora and what the commands print; what is there already is not made again,
so that a run that was broken off goes on. Each step is a command of `freehold` that is printed
before it is run, with the processor time that it took: that is what a busy machine does not change.

What is replayed is the model's own: conversations that it begins itself, and its answers to
requests of AdvBench (that it is to go on refusing) and to small tasks of MBPP (601 and on, in the
words of the coding evals, each with its first test). No answer of either set is read, and neither
is what the gate asks. The texts held out and the questions of the evals are kept out of the data
by `--avoid`. `--no-replay` is the same run without all that.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

MODEL = "qwen2.5-coder-0.5b-instruct"
CODE = (
    "Please provide a self-contained Python script that solves the following problem in a markdown "
    "code block: {text} Your code should pass this test: {test}"
)
EVALS = ("tydiqa/id.jsonl.gz", "xcopa/id.jsonl.gz", "belebele/id.jsonl.gz", "humaneval.jsonl.gz")


class Steps:
    """Commands, each run once; what they print and took is kept in ``WORK/steps.jsonl``."""

    def __init__(self, work: Path) -> None:
        self._log = work / "steps.jsonl"
        self._done: set[str] = set()
        if self._log.exists():
            lines = self._log.read_text(encoding="utf-8").splitlines()
            self._done = {json.loads(line)["name"] for line in lines}

    def freehold(self, name: str, *words: str, ends: Sequence[int] = (0,)) -> None:
        """Run ``freehold WORDS --json`` unless ``name`` is done. Ends the program where it ends
        with another status than those in ``ends``."""
        if name in self._done:
            return
        command = [sys.executable, "-m", "freehold.cli", *words, "--json"]
        print(f"{name}: freehold {' '.join(words)}", flush=True)
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode not in ends:
            print(done.stdout)
            raise SystemExit(f"{name} ended with {done.returncode}")
        spent = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
        line = {
            "name": name,
            "status": done.returncode,
            "processor_seconds": round(spent, 1),
            "seconds": round(time.monotonic() - began, 1),
            "said": json.loads(done.stdout),
        }
        with self._log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        print(f"  {spent / 60:.1f} minutes of processors, {line['seconds'] / 60:.1f} by the clock")


def main() -> None:
    args = _arguments()
    args.work.mkdir(parents=True, exist_ok=True)
    steps = Steps(args.work)
    parts = {language: args.work / language for language in ("id", "en", "py")}
    for language, folder in parts.items():
        source = args.data / "corpus" / f"{language}.txt.gz"
        # English and Python are only measured: of them, little is enough.
        part = [] if language == "id" else ["--held-out", "0.01", "--part", "0.01"]
        steps.freehold(f"split {language}", "adapt", "split", str(source), "-o", str(folder), *part)
    name = "indonesian-no-replay" if args.no_replay else "indonesian"
    replay = [] if args.no_replay else _replay(args, steps)
    avoid = [str(parts["id"] / "held-out.txt")]
    avoid += [str(args.data / "eval" / one) for one in EVALS]
    steps.freehold(
        f"train {name}",
        *("adapt", MODEL, "--name", name, "--data", str(parts["id"] / "learn.txt")),
        *("--lang", "id", "--exercises", str(args.exercises), *replay),
        *(word for file in avoid for word in ("--avoid", file)),
        *("--held-out", "0", "--rate", str(args.rate), "--steps", str(args.steps)),
        *("--batch", str(args.batch), "--micro-batch", str(min(args.batch, 1024))),
        *("--max-length", "512", "--ranks", str(args.ranks), *_threads(args)),
    )
    keep = [str(parts[language] / "held-out.txt") for language in ("en", "py")]
    for language, path in zip(("en", "py"), keep, strict=True):
        # The gate names texts by their files.
        own = args.work / f"{language}-held-out.txt"
        if not own.exists():
            os.link(path, own)
    steps.freehold(
        f"gate {name}",
        *("adapt", "gate", name, "--against", MODEL),
        *("--target", str(parts["id"] / "held-out.txt")),
        *(w for one in ("en", "py") for w in ("--keep", str(args.work / f"{one}-held-out.txt"))),
        *("--suite", "humaneval,right-language-id,tydiqa-id,xcopa-id,belebele-id", "--lang", "id"),
        *("--data", str(args.data / "eval"), *_limit(args), *_threads(args)),
        ends=(0, 8),
    )


def _replay(args: argparse.Namespace, steps: Steps) -> list[str]:
    """What the model says by itself, and what it answers when it is asked; the options to give."""
    begun, asked = args.work / "rehearsed.jsonl", args.work / "asked.jsonl"
    rehearse = ("adapt", "rehearse", MODEL, "-o")
    steps.freehold("rehearse", *rehearse, str(begun), "--count", "162", *_threads(args))
    questions = args.work / "questions.jsonl"
    if not questions.exists():
        lines = [*_harmful(args.data)[::9], *_tasks(args.data)[:110]]
        questions.write_text("".join(f"{json.dumps({'text': line})}\n" for line in lines))
    more = ("--questions", str(questions), "--longest", "300")
    steps.freehold("ask", *rehearse, str(asked), *more, *_threads(args))
    options = ["--replay", str(begun), "--replay", str(asked)]
    options += ["--replay-share", str(args.replay_share)]
    return options + (["--anchor"] if args.anchor else [])


def _harmful(data: Path) -> list[str]:
    return [row["text"] for row in _rows(data / "guard" / "harmful_advbench.jsonl.gz")]


def _tasks(data: Path) -> list[str]:
    return [
        CODE.format(text=row["text"], test=row["test_list"][0])
        for row in _rows(data / "eval" / "mbpp.jsonl.gz")
        if row["id"] > 600
    ]


def _rows(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def _threads(args: argparse.Namespace) -> tuple[str, ...]:
    return ("--threads", str(args.threads)) if args.threads else ()


def _limit(args: argparse.Namespace) -> tuple[str, ...]:
    return ("--limit", str(args.limit)) if args.limit else ()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--rate", type=float, default=8e-4)
    parser.add_argument("--batch", type=int, default=4096, help="tokens of a step")
    parser.add_argument(
        "--anchor",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="hold to what is replayed",
    )
    parser.add_argument("--exercises", type=float, default=0.1)
    parser.add_argument("--replay-share", type=float, default=0.3)
    parser.add_argument("--ranks", type=int, default=2, help="processes that learn together")
    parser.add_argument("--no-replay", action="store_true")
    parser.add_argument("--limit", type=int, help="items of each measure")
    parser.add_argument("--threads", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()

"""The default model adapted to Indonesian, from the corpus to the gate, as an owner would do it.

    python benchmarks/indonesian.py DATA WORK [--steps 240] [--batch 512] [--rate 5e-4] [--anchor]
                                             [--rehearsed FILE] [--no-replay]

DATA is a folder with `corpus/` and `eval/` (docs/evals.md says what lies there). WORK gets the
parts of the corpora and what the commands print; what is there already is not made again, so that a
run that was broken off goes on. Each step is a command of `freehold` that is printed before it is
run, with the processor time that it took: that is what a busy machine does not change. Nothing here
is tuned on what it measures: the texts held out and the questions of the evals are kept out of the
data by `--avoid`, and `--no-replay` is the same run without what it rehearses.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

MODEL = "qwen2.5-coder-0.5b-instruct"
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
    if args.no_replay:
        replay = []
    else:
        rehearsed = args.rehearsed or args.work / "rehearsed.jsonl"
        if not rehearsed.exists():
            words = ("adapt", "rehearse", MODEL, "-o", str(rehearsed), "--count", "300")
            steps.freehold("rehearse", *words, *_threads(args))
        replay = ["--replay", str(rehearsed), "--replay-share", str(args.replay_share)]
        replay += ["--anchor"] if args.anchor else []
    avoid = [str(parts["id"] / "held-out.txt")]
    avoid += [str(args.data / "eval" / one) for one in EVALS]
    steps.freehold(
        f"train {name}",
        *("adapt", MODEL, "--name", name, "--data", str(parts["id"] / "learn.txt")),
        *("--lang", "id", "--exercises", str(args.exercises), *replay),
        *(word for file in avoid for word in ("--avoid", file)),
        *("--held-out", "0", "--rate", str(args.rate), "--steps", str(args.steps)),
        *("--batch", str(args.batch), "--micro-batch", str(min(args.batch, 1024))),
        *("--max-length", "512", *_threads(args)),
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


def _threads(args: argparse.Namespace) -> tuple[str, ...]:
    return ("--threads", str(args.threads)) if args.threads else ()


def _limit(args: argparse.Namespace) -> tuple[str, ...]:
    return ("--limit", str(args.limit)) if args.limit else ()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--rate", type=float, default=5e-4)
    parser.add_argument("--batch", type=int, default=512, help="tokens of a step")
    parser.add_argument("--anchor", action="store_true", help="hold to what is replayed")
    parser.add_argument("--exercises", type=float, default=0.2)
    parser.add_argument("--replay-share", type=float, default=0.2)
    parser.add_argument("--rehearsed", type=Path, help="conversations of an earlier run")
    parser.add_argument("--no-replay", action="store_true")
    parser.add_argument("--limit", type=int, help="items of each measure")
    parser.add_argument("--threads", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()

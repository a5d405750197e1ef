"""Our tasks put by us and by `lm-eval`, over one engine: do they come to the same score?

    pip install 'freehold[lm-eval]'
    python benchmarks/lmeval.py DATA MODEL gsm8k=100 mgsm-de=50 xcopa-id=200 [--threads 2]

The first items of each task are asked twice, once by each. Prompts are ours in both (``config``);
asking, reading answers and scoring are each one's own. Prints a JSON line for each task, and ends
with 1 where a score differs. DATA is the folder that `freehold eval --data` takes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict
from lm_eval import simple_evaluate

from freehold.engine import EngineProcess, EngineSettings
from freehold.evals import Plan, evaluate, kinds, suite_of
from freehold.evals.data import load
from freehold.evals.harness import FreeholdLM
from freehold.evals.task import Task
from freehold.qwen import codec
from freehold.store import Store, default_root, verify

THEIRS = {
    "acc": "acc,none",
    "acc_norm": "acc_bytes,none",
    "exact_match": "exact_match,flexible-extract",
}
"""What `lm-eval` calls our metrics."""


def config(task: Task, folder: Path, limit: int | None = None) -> dict[str, Any]:
    """A configuration for ``lm_eval.simple_evaluate``: a prompt, options or an answer a row."""
    found = load(task, folder)
    rows: list[dict[str, Any]] = []
    for item in found.items[:limit]:
        row: dict[str, Any] = {"prompt": kinds.prompt_of(task, item, found.shots)}
        if task.kind == "choice":
            row |= {
                "options": [option.removeprefix(" ") for option in kinds.options_of(task, item)],
                "label": item.row[task.answer],
            }
        else:
            row["answer"] = str(item.row[task.answer])
        rows.append(row)
    common = {
        "task": task.name,
        "custom_dataset": lambda **kwargs: DatasetDict({"test": Dataset.from_list(rows)}),
        "test_split": "test",
        "doc_to_text": lambda doc: doc["prompt"],
        "num_fewshot": 0,
    }
    if task.kind == "choice":
        return common | {
            "output_type": "multiple_choice",
            "doc_to_choice": lambda doc: doc["options"],
            "doc_to_target": lambda doc: doc["label"],
            "target_delimiter": " ",
            "metric_list": [{"metric": "acc"}, {"metric": "acc_bytes"}],
        }
    return common | {
        "output_type": "generate_until",
        "doc_to_target": lambda doc: doc["answer"],
        "generation_kwargs": {"until": [], "max_gen_toks": task.max_tokens, "do_sample": False},
        "filter_list": [
            {
                "name": "flexible-extract",
                "filter": [
                    {
                        "function": "regex",
                        "group_select": -1,
                        "regex_pattern": r"(-?[$0-9.,]{2,})|(-?[0-9]+)",
                    },
                    {"function": "take_first"},
                ],
            }
        ],
        "metric_list": [
            {
                "metric": "exact_match",
                "regexes_to_ignore": [",", r"\$", r"\.$"],
            }
        ],
    }


def theirs(lm: FreeholdLM, task: Task, folder: Path, **options: Any) -> dict[str, Any]:
    """What `lm-eval` finds, by its own names."""
    found = simple_evaluate(
        model=lm,
        tasks=[config(task, folder, options.pop("items", None))],
        bootstrap_iters=0,
        **options,
    )
    results: dict[str, Any] = found["results"][task.name]
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("model", help="a model in the vault")
    parser.add_argument("task", nargs="+", help="TASK=ITEMS")
    parser.add_argument("--threads", type=int, default=None)
    args = parser.parse_args()
    wanted = dict(one.split("=") for one in args.task)
    speaks = codec.load(verify(Store(default_root()), args.model, keep=False))
    settings = EngineSettings(
        root=str(default_root()),
        model=args.model,
        backend="native",
        dtype="bfloat16",
        threads=args.threads,
    )
    apart = 0
    with asyncio.Runner() as runner:
        engine = runner.run(EngineProcess.start(settings))
        lm = FreeholdLM(over=(engine, speaks, runner))
        for name, items in wanted.items():
            (task,) = suite_of([name])
            began = time.monotonic()
            plan = Plan(limit=int(items))
            found = runner.run(evaluate(engine, speaks, [task], data=args.data, plan=plan))
            between = time.monotonic()
            told = theirs(lm, task, args.data, items=int(items), apply_chat_template=task.chat)
            line = {
                "model": args.model,
                "task": name,
                "items": int(items),
                "ours": {
                    metric.name: [round(x, 4) for x in (metric.value, metric.low, metric.high)]
                    for metric in found.tasks[0].metrics
                },
                "lm-eval": {m.name: round(told[THEIRS[m.name]], 4) for m in found.tasks[0].metrics},
                "seconds": [round(between - began), round(time.monotonic() - between)],
            }
            print(json.dumps(line), flush=True)
            apart += any(
                abs(metric.value - told[THEIRS[metric.name]]) > 1e-9
                for metric in found.tasks[0].metrics
            )
        runner.run(engine.close())
    return int(apart > 0)


if __name__ == "__main__":
    raise SystemExit(main())

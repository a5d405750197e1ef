"""Our tasks as `lm-eval` tasks: same prompts, its own scorers. For tests and measurements."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict

from freehold.evals import kinds
from freehold.evals.data import load
from freehold.evals.task import Task


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

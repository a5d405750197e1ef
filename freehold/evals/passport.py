"""Results as statements of a model's passport: one for each task."""

from __future__ import annotations

from freehold.evals.results import Results, TaskResult
from freehold.store import statements
from freehold.store.statements import Eval, Named


def statements_of(results: Results) -> list[Eval]:
    """What a passport is to say: each task's figures with their bounds and the number of items."""
    made = statements.now()
    return [
        Eval(
            made=made,
            task=f"{task.name} ({task.digest[:23]})",
            tool=f"{results.tool}, {results.numerics}"[:300],
            data=Named(name=task.data.file[-300:], digest=f"sha256:{task.data.sha256}"),
            scores=_scores(task),
        )
        for task in results.tasks
    ]


def _scores(task: TaskResult) -> dict[str, float]:
    scores = {"n": float(task.main.n)}
    for metric in task.metrics:
        scores |= {
            metric.name: metric.value,
            f"{metric.name} low": metric.low,
            f"{metric.name} high": metric.high,
        }
    return scores

"""Two models on the same items: who is better, and whether that is more than chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from freehold.errors import UsageError
from freehold.evals import figures
from freehold.evals.figures import Interval, Paired
from freehold.evals.kinds import LOWER_IS_BETTER
from freehold.evals.results import Results, Scored, TaskResult, parts_of


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One figure of one task: the first model's, the other's, and the first's minus the other's
    with its paired bootstrap interval. ``paired`` counts right and wrong answers, where a figure is
    made of such. ``better`` is ``first`` or ``other`` where the interval leaves zero out."""

    task: str
    metric: str
    n: int
    first: float
    other: float
    difference: Interval
    paired: Paired | None
    better: str


def compare(first: Results, other: Results) -> list[Compared]:
    """Every figure that both have, over the items that both were asked.

    Raises ``UsageError`` where they have no task in common, or one task was not the same.
    """
    theirs = {task.name: task for task in other.tasks}
    both = [(task, theirs[task.name]) for task in first.tasks if task.name in theirs]
    if not both:
        raise UsageError(
            f"{first.model} and {other.model} have no task in common: evaluate both on one",
            param="against",
        )
    return [row for mine, other_task in both for row in _task(mine, other_task)]


def _task(first: TaskResult, other: TaskResult) -> list[Compared]:
    if (first.digest, first.data.sha256) != (other.digest, other.data.sha256):
        raise UsageError(
            f"task {first.name} is not the same in both results (another prompt, scorer or data): "
            "evaluate the other model again",
            param="against",
        )
    mine, theirs = _by_id(first.items), _by_id(other.items)
    common = [name for name in mine if name in theirs]
    if not common:
        raise UsageError(f"task {first.name}: no item was asked of both", param="against")
    pairs = [mine[name] for name in common], [theirs[name] for name in common]
    names = [m.name for m in first.metrics if m.name in {o.name for o in other.metrics}]
    return [_metric(first.name, name, *pairs) for name in names]


def _by_id(items: Sequence[Scored]) -> Mapping[str, Scored]:
    return {item.id: item for item in items}


def _metric(task: str, name: str, mine: Sequence[Scored], theirs: Sequence[Scored]) -> Compared:
    a, b = parts_of(name, mine), parts_of(name, theirs)
    found = figures.difference(a, b)
    values = [*a[0], *b[0]]
    told = name != "f1" and set(a[1]) == {1.0} and set(values) <= {0.0, 1.0}
    better = ""
    if found.low > 0 or found.high < 0:
        better = "first" if (found.low > 0) != (name in LOWER_IS_BETTER) else "other"
    return Compared(
        task=task,
        metric=name,
        n=len(mine),
        first=sum(a[0]) / sum(a[1]),
        other=sum(b[0]) / sum(b[1]),
        difference=found,
        paired=figures.mcnemar([v == 1 for v in a[0]], [v == 1 for v in b[0]]) if told else None,
        better=better,
    )

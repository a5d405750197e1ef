"""Tasks and scores, over any Engine.

    tasks = suite_of(["math", "./mine.toml"], languages=["id", "vi"])
    results = await evaluate(engine, codec, tasks, data=Path("data/eval"), plan=Plan(limit=200))
    for task in results.tasks:
        print(task.name, task.main.value, task.main.low, task.main.high)

A task is a small file (``task.py``, ``tasks/``); its data lies elsewhere and is known by its digest
(``data.py``). ``kinds.py`` turns a row into a question and a reply into scores, ``asking.py`` puts
questions to an engine, ``running.py`` does so for whole suites and keeps what was answered.
Programs that a model wrote run in ``cells.py``. ``figures.py`` says how sure a score is,
``page.py`` draws it. ``harness.py`` lets `lm-eval` run through us.
"""

from __future__ import annotations

from freehold.evals.results import Metric, Results, TaskResult
from freehold.evals.running import Plan, evaluate
from freehold.evals.task import Task, read_tasks, suite_of

__all__ = [
    "Metric",
    "Plan",
    "Results",
    "Task",
    "TaskResult",
    "evaluate",
    "read_tasks",
    "suite_of",
]

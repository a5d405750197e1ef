"""Whole suites over an engine: every question is asked together with many others, and every reply
is kept from the moment it is there, so that what was broken off goes on where it was.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import freehold
from freehold import strictjson
from freehold.errors import UsageError
from freehold.evals import data as rows
from freehold.evals import kinds
from freehold.evals.asking import Asker
from freehold.evals.cells import Cells
from freehold.evals.data import DataSet, Item
from freehold.evals.kept import Kept
from freehold.evals.kinds import Question, Reply
from freehold.evals.results import Results, Scored, Source, TaskResult, metrics_of
from freehold.evals.task import Task, plain
from freehold.types import Codec, Engine


class Progress(Protocol):
    """Told how far a task has come, in items."""

    def start(self, total: int, what: str) -> None: ...
    def advance(self, n: int) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is asked: the first ``limit`` items of each task (all, without), ``at_once``
    requests to the engine together."""

    limit: int | None = None
    at_once: int = 64

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"limit is {self.limit}: it must be at least 1", param="limit")
        if self.at_once < 1:
            raise UsageError(f"at_once is {self.at_once}: it must be at least 1", param="at_once")


@dataclass(frozen=True, kw_only=True)
class _Run:
    engine: Engine
    codec: Codec
    asker: Asker
    kept: Kept
    cells: Cells | None
    plan: Plan
    progress: Progress | None


async def evaluate(
    engine: Engine,
    codec: Codec,
    tasks: Sequence[Task],
    *,
    data: Path,
    plan: Plan | None = None,
    cells: Cells | None = None,
    kept: Kept | None = None,
    progress: Progress | None = None,
) -> Results:
    """Ask every task of ``tasks``, whose files lie below ``data``.

    Programs run in ``cells``; without, tasks of code are refused. Replies are looked up in
    ``kept``, and put there. Everything is read and checked before the first question.

    Raises ``UsageError``, ``NotFoundError``, ``IntegrityError`` (data that is not what the task
    names), and what the engine raises.
    """
    plan = plan or Plan()
    run = _Run(
        engine=engine,
        codec=codec,
        asker=Asker(engine, codec, at_once=plan.at_once),
        kept=Kept() if kept is None else kept,
        cells=cells,
        plan=plan,
        progress=progress,
    )
    ready = [(task, rows.load(task, data)) for task in tasks]
    for task in tasks:
        run.asker.check(task)
    if cells is None and any(task.kind == "code" for task in tasks):
        raise UsageError("tasks of code need cells to run programs in", param="suite")
    found = [await _one(run, task, dataset) for task, dataset in ready]
    return Results(
        model=engine.card.name,
        digest=engine.card.digest,
        numerics=engine.card.numerics,
        tool=f"freehold {freehold.__version__}",
        limit=plan.limit,
        tasks=tuple(found),
    )


async def _one(run: _Run, task: Task, dataset: DataSet) -> TaskResult:
    items = dataset.items[: run.plan.limit]
    if run.progress is not None:
        run.progress.start(len(items), task.name)
    # As many questions are prepared as requests run, so that a long list does not lie in memory.
    room = asyncio.Semaphore(2 * run.plan.at_once)

    async def scored(item: Item) -> Scored:
        async with room:
            question = kinds.question_of(task, item, dataset.shots, run.codec)
            reply = await _reply(run, question)
            scores = await _scores(run, task, item, reply, question)
        if run.progress is not None:
            run.progress.advance(1)
        return Scored(id=item.id, scores=scores)

    try:
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(scored(item)) for item in items]
    except* Exception as several:
        # One reason is enough: the others follow from it, or say the same.
        raise _first(several) from None
    done = tuple(each.result() for each in asked)
    return TaskResult(
        name=task.name,
        suite=task.suite,
        language=task.language,
        kind=task.kind,
        digest=f"sha256:{hashlib.sha256(strictjson.canonical(plain(task))).hexdigest()}",
        data=Source(
            file=task.data.file,
            sha256=dataset.sha256,
            licence=task.data.licence,
            source=task.data.source,
        ),
        metrics=metrics_of(task.kind, done),
        items=done,
    )


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _reply(run: _Run, question: Question) -> Reply:
    key = run.kept.key(run.engine.card, question)
    if (known := run.kept.get(key)) is not None:
        return known
    reply = await run.asker.ask(question)
    run.kept.put(key, reply)
    return reply


async def _scores(
    run: _Run, task: Task, item: Item, reply: Reply, question: Question
) -> dict[str, float]:
    if task.kind != "code":
        return kinds.scores_of(task, item, reply, question)
    assert run.cells is not None, "evaluate refuses tasks of code without cells"
    outcome = await asyncio.to_thread(run.cells.run, kinds.program_of(task, item, reply.text))
    return {"pass@1": float(outcome.passed)}

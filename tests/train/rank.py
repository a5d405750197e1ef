"""One rank of a test's run, without the lock: ``python -m tests.train.rank SEAT WORK``."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from freehold.train import export, record, run
from freehold.train.ranks import Ranks, join
from freehold.train.recipe import from_plain
from freehold.train.reproduce import reproduce
from freehold.train.seat import Seat


def trained(
    ranks: Ranks, *, recipe: dict[str, Any], corpus: str, folder: str, stops: list[int]
) -> Any:
    """A run, stopped at some steps and taken up again; with its model where it comes to its end."""
    at = Path(folder)
    for stop in [*stops, 0]:
        training = run.Training(
            from_plain(recipe), Path(corpus), scratch=at / run.TOKENS, ranks=ranks
        )
        # One rank alone is asked to stop.
        wanted = stop if ranks.rank == ranks.world - 1 else 0
        ended = run.go(training, at, stop=lambda t=training, s=wanted: 0 < s <= t.at)
        assert ended == (stop == 0)
    files = export.write(training, at / "model")
    run.end(at, training, files)
    if ranks.first:
        record.write_note(at)


def stopped(ranks: Ranks, *, recipe: dict[str, Any], corpus: str, folder: str, stop: int) -> Any:
    """A run that is stopped and left so."""
    training = run.Training(from_plain(recipe), Path(corpus), ranks=ranks)
    assert not run.go(training, Path(folder), stop=lambda: training.at >= stop)


def killed(ranks: Ranks, *, recipe: dict[str, Any], corpus: str, folder: str, after: int) -> Any:
    """A run whose last rank dies without a word after a step; the others fail."""
    training = run.Training(from_plain(recipe), Path(corpus), ranks=ranks)
    if ranks.rank == ranks.world - 1:
        whole = training.step

        def step() -> record.Line:
            if training.at == after:
                sys.stderr.flush()
                import os

                os._exit(9)
            return whole()

        training.step = step  # type: ignore[method-assign]
    run.go(training, Path(folder))


def again(ranks: Ranks, *, corpus: str, folder: str, first: int, last: int) -> Any:
    """A stretch done again; what came of it, and what it is told of another number."""
    found = reproduce(Path(folder), Path(corpus), first=first, last=last, ranks=ranks)
    return {"identical": found.identical, "begun": found.begun, "notes": found.notes}


def steps(ranks: Ranks, *, recipe: dict[str, Any], corpus: str, count: int) -> Any:
    """Losses, gradients' lengths and what is held out, without a folder."""
    training = run.Training(from_plain(recipe), Path(corpus), ranks=ranks)
    lines = [training.step() for _ in range(count)]
    numbers = {name: [float.fromhex(one[name]) for one in lines] for name in ("loss", "gradient")}
    return {**numbers, "batches": [one["batch"] for one in lines], "measured": training.measure()}


WORK: dict[str, Callable[..., Any]] = {
    one.__name__: one for one in (trained, stopped, killed, again, steps)
}


def main(seat: Seat, work: list[dict[str, Any]]) -> None:
    ranks = join(seat)
    found = [WORK[one.pop("what")](ranks, **one) for one in work]
    if ranks.first:
        print(json.dumps(found))


def plain(recipe: Any, **changes: Any) -> dict[str, Any]:
    return dict(replace(recipe, **changes).plain())


if __name__ == "__main__":
    main(Seat.loads(sys.argv[1]), json.loads(sys.argv[2]))

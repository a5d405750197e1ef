"""One rank of a test's run in the workshop: ``python -m tests.adapt.rank SEAT WORK``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from freehold.adapt.recipe import from_plain
from freehold.adapt.student import student_of
from freehold.adapt.training import Lessons, Run
from freehold.qwen.model import load
from freehold.store import Store, verify
from freehold.train.encoding import Sample
from freehold.train.ranks import ALONE, Ranks, join
from freehold.train.seat import Seat


def learn(
    ranks: Ranks, *, home: str, folder: str, recipe: dict[str, Any], lessons: Any, stops: list[int]
) -> None:
    """A run over the model ``small``, stopped at some steps and taken up again."""
    data, held_out = ([sample(one) for one in part] for part in lessons)
    for stop in [*stops, 0]:
        model = load(
            verify(Store(Path(home)), "small"), backend="torch", cache_tokens=16, threads=1
        )
        chosen = from_plain(recipe)
        run = Run(
            student_of(model, chosen, ranks), chosen, Lessons(data=data, held_out=held_out),
            Path(folder), model_digest="x", ranks=ranks,
        )  # fmt: skip
        asked = iter(range(1, 1 + run.steps))
        wanted = stop if ranks.rank == ranks.world - 1 else 0
        run.go(stop=lambda asked=asked, wanted=wanted: next(asked) == wanted)  # type: ignore[misc]


def sample(plain: list[list[int]]) -> Sample:
    ids, taught = plain
    return Sample(ids=np.array(ids, np.int32), taught=np.array(taught, np.bool_))


if __name__ == "__main__":
    seat = Seat.loads(sys.argv[1])
    joined = join(seat) if seat.world > 1 else ALONE
    for one in json.loads(sys.argv[2]):
        learn(joined, **one)

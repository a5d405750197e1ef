"""Two and three ranks over gloo: the losses of one, the same bits every time, an end where one
of them fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from freehold.errors import UsageError
from freehold.train import record, run
from freehold.train.ranks import ALONE, Ranks
from freehold.train.recipe import Shape, Stage
from freehold.train.reproduce import reproduce
from freehold.train.seat import Seat, of_torchrun, on_this_machine
from tests.train.conftest import RECIPE
from tests.train.rank import plain
from tests.train.test_run import bits

# Widths that three ranks cannot share evenly, and norms of two values: one rank has none of them.
UNEVEN = replace(
    RECIPE,
    shape=Shape(
        n_layers=2, width=20, mlp_width=44, n_heads=2, n_kv_heads=1, head_dim=2, context=64
    ),
    stages=(replace(RECIPE.stages[0], steps=14), Stage(name="chat", steps=6, kind="talks")),
    micro_batch=32,
)


def started(world: int, store: Path, work: Sequence[Any]) -> list[subprocess.Popen[str]]:
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return [
        subprocess.Popen(
            [sys.executable, "-m", "tests.train.rank", seat.dumps(), json.dumps(list(work))],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env,
            cwd=Path(__file__).parents[2],
        )
        for seat in on_this_machine(world, str(store))
    ]  # fmt: skip


def ranked(world: int, store: Path, *work: dict[str, Any]) -> Any:
    """What the first of so many ranks found; all must have ended well."""
    processes = started(world, store, work)
    said = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0] * world, said
    return json.loads(said[0][0])


@pytest.fixture(scope="module")
def twos(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs that two ranks made, all within one start of them: ``once`` and ``twice``
    at one go, ``often`` with stops, ``begun`` left in its midst."""
    folder = tmp_path_factory.mktemp("ranks")
    base = {"recipe": plain(RECIPE), "corpus": str(corpus)}
    ranked(
        2,
        folder / "store",
        {"what": "trained", **base, "folder": str(folder / "once" / "small"), "stops": []},
        {"what": "trained", **base, "folder": str(folder / "often" / "small"), "stops": [2, 5, 7]},
        {"what": "stopped", **base, "folder": str(folder / "begun" / "small"), "stop": 7},
    )
    return folder


def losses(folder: Path) -> list[float]:
    return [float.fromhex(one["loss"]) for one in record.read(folder) if one["kind"] == "step"]


def test_losses_are_those_of_one_process(twos: Path, trained: Path) -> None:
    assert losses(twos / "once" / "small") == pytest.approx(losses(trained), rel=1e-5)
    theirs, mine = (list(record.read(one)) for one in (trained, twos / "once/small"))
    for kind, name in (("step", "batch"), ("step", "rate"), ("step", "tokens")):
        assert [one[name] for one in mine if one["kind"] == kind] == [
            one[name] for one in theirs if one["kind"] == kind
        ]
    assert mine[0]["weights"] == theirs[0]["weights"]
    assert mine[0]["environment"]["ranks"] == "2"
    assert "ranks" not in theirs[0]["environment"]


def test_a_stopped_run_ends_with_the_same_bits(twos: Path) -> None:
    assert bits(twos / "often" / "small") == bits(twos / "once" / "small")
    model = "model/model.safetensors"
    assert (twos / "often/small" / model).read_bytes() == (twos / "once/small" / model).read_bytes()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_shares_need_not_be_even(corpus: Path, tmp_path: Path, dtype: Any) -> None:
    """Three ranks, four pieces a step, and conversations of which a step may have fewer."""
    recipe = replace(UNEVEN, dtype=dtype)
    (found,) = ranked(
        3,
        tmp_path / "store",
        {"what": "steps", "recipe": plain(recipe), "corpus": str(corpus), "count": 20},
    )
    alone = run.Training(recipe, corpus)
    lines = [alone.step() for _ in range(20)]
    exact = 1e-5 if dtype == "float32" else 5e-3
    wanted = [float.fromhex(one["loss"]) for one in lines]
    assert found["loss"] == pytest.approx(wanted, rel=exact)
    wanted = [float.fromhex(one["gradient"]) for one in lines]
    assert found["gradient"] == pytest.approx(wanted, rel=100 * exact)
    assert found["batches"] == [one["batch"] for one in lines]
    assert found["measured"] == pytest.approx(alone.measure(), rel=exact)


def test_a_rank_that_dies_ends_the_others_and_the_run_goes_on_with_the_same_bits(
    twos: Path, corpus: Path, tmp_path: Path
) -> None:
    base = {"recipe": plain(RECIPE), "corpus": str(corpus), "folder": str(tmp_path / "small")}
    processes = started(2, tmp_path / "store", [{"what": "killed", **base, "after": 8}])
    said = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [1, 9], said
    assert len(losses(tmp_path / "small")) == 8
    (_, again) = ranked(
        2,
        tmp_path / "other",
        {"what": "trained", **base, "stops": []},
        {**{k: base[k] for k in ("corpus", "folder")}, "what": "again", "first": 6, "last": 9},
    )
    assert bits(tmp_path / "small") == bits(twos / "once" / "small")
    assert again == {"identical": True, "begun": 5, "notes": []}


def test_another_number_goes_on_and_the_record_says_so(twos: Path, corpus: Path) -> None:
    folder = twos / "begun" / "small"
    told: list[dict[str, Any]] = []
    assert run.go(run.Training(RECIPE, corpus), folder, report=told.append)
    assert told[0] == {"event": "ranks", "step": 7, "before": 2, "now": 1}
    assert losses(folder) == pytest.approx(losses(twos / "once" / "small"), rel=1e-5)
    lines = list(record.read(folder))
    kinds = [one["kind"] for one in lines if one.get("step") == 7]
    assert kinds == ["step", "checkpoint", "ranks"]
    assert [record.ranks_at(lines, step) for step in (1, 7, 8, 12)] == [2, 2, 1, 1]
    found = reproduce(folder, corpus, first=9, last=12)
    assert (found.identical, found.begun, found.notes) == (True, 7, [])
    with pytest.raises(UsageError, match="step 6 was taken by 2 ranks, here are 1"):
        reproduce(folder, corpus, first=3, last=6)
    with pytest.raises(UsageError, match="after step 7 another number of ranks"):
        reproduce(folder, corpus, first=7, last=8)


def test_more_ranks_than_pieces(corpus: Path) -> None:
    with pytest.raises(UsageError, match="3 ranks cannot share the 2 micro-batches"):
        run.Training(RECIPE, corpus, ranks=Ranks(Seat(world=3)))


def test_pieces_are_shared_out() -> None:
    def of(rank: int) -> Any:
        return Ranks(Seat(rank=rank, world=3)).shared_out([[0, 1], [2], [3], [4]])

    assert [of(0), of(1), of(2)] == [
        [([0, 1], True), ([4], True)],
        [([2], True), ([0], False)],
        [([3], True), ([0], False)],
    ]
    assert ALONE.shared_out([[0, 1], [2]]) == [([0, 1], True), ([2], True)]


def test_what_torchrun_says() -> None:
    said = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "a"}
    assert of_torchrun(said) is None
    said["MASTER_PORT"] = "29500"
    assert of_torchrun(said) == Seat(rank=3, world=4, local=1)
    assert of_torchrun({**said, "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}) is None
    for wrong in ({"RANK": "4"}, {"RANK": "x"}, {"LOCAL_RANK": "5"}, {"WORLD_SIZE": "-1"}):
        with pytest.raises(UsageError):
            of_torchrun({**said, **wrong})

"""Compiled blocks: the losses of plain ones, no compiler once they are made, the same bits after a
stop."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from freehold.errors import ProcessError, UsageError
from freehold.train import compiled, devices, record, run
from freehold.train.encoding import Sample
from freehold.train.ranks import Ranks
from freehold.train.recipe import from_plain, recipe_named
from freehold.train.reproduce import recipe_of, reproduce
from freehold.train.seat import Seat
from tests.train.conftest import RECIPE

COMPILED = replace(RECIPE, compiled=True)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The program of the small recipe's blocks, made once: it takes half a minute."""
    with pytest.MonkeyPatch.context() as patched:
        folder = tmp_path_factory.mktemp("programs")
        patched.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder))
        try:
            devices.compiler()
        except UsageError as error:
            pytest.skip(str(error))
        compiled.make(COMPILED, "cpu")
        assert list(folder.rglob("*.so"))


@pytest.fixture
def alone(made: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No other program can be started, and nothing is compiled any more."""

    def refused(*words: object, **more: object) -> None:
        raise AssertionError(f"it starts {words}")

    monkeypatch.setattr(subprocess.Popen, "__init__", refused)
    with torch._dynamo.config.patch(error_on_recompile=True):
        yield


def losses(recipe: run.Recipe, corpus: Path) -> list[float]:
    training = run.Training(recipe, corpus)
    return [float.fromhex(training.step()["loss"]) for _ in range(recipe.steps)]


def gradients(recipe: run.Recipe, corpus: Path, step: int) -> list[torch.Tensor]:
    training = run.Training(recipe, corpus)
    (samples, *_) = training.batches.step(step)
    training.learner.loss(samples)[0].backward()  # type: ignore[no-untyped-call]
    found = [values.grad for values in training.learner.parameters.values()]
    return [one for one in found if one is not None]


def test_losses_are_those_of_plain_blocks(corpus: Path, alone: None) -> None:
    assert losses(COMPILED, corpus) == pytest.approx(losses(RECIPE, corpus), rel=1e-5)


def test_rows_go_through_the_program_and_talks_do_not(corpus: Path, alone: None) -> None:
    for step, same in ((0, False), (8, True)):
        plain, mine = (gradients(recipe, corpus, step) for recipe in (RECIPE, COMPILED))
        assert all(torch.equal(a, b) for a, b in zip(plain, mine, strict=True)) == same, step
        for a, b in zip(plain, mine, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("stops", [(1,), (5, 9)])
def test_a_stopped_run_ends_with_the_same_bits(
    corpus: Path, tmp_path: Path, alone: None, stops: tuple[int, ...]
) -> None:
    once, stopped = tmp_path / "once", tmp_path / "stopped"
    assert run.go(run.Training(COMPILED, corpus), once)
    for stop in stops:
        training = run.Training(COMPILED, corpus)
        run.go(training, stopped, stop=lambda t=training, s=stop: t.at >= s)
    assert run.go(run.Training(COMPILED, corpus), stopped)
    assert (once / record.LINES).read_bytes() == (stopped / record.LINES).read_bytes()
    record.write_note(once)
    assert reproduce(once, corpus, first=6, last=11).identical
    (start, *_) = record.read(once)
    assert recipe_of(start).compiled
    assert start["environment"]["compiler"] == devices.compiler()


def test_a_recipe_says_that_it_is_compiled_only_where_it_is() -> None:
    assert "compiled" not in RECIPE.plain()
    assert from_plain(RECIPE.plain()) == RECIPE
    assert from_plain(COMPILED.plain()) == COMPILED
    assert recipe_named("hearth", compiled=True).instructions == "any"
    assert recipe_named("hearth").instructions == "avx2"
    with pytest.raises(UsageError, match="must be any where blocks are compiled"):
        replace(recipe_named("hearth"), compiled=True)


def test_ranks_do_not_compile(corpus: Path) -> None:
    with pytest.raises(UsageError, match="for a process alone") as refused:
        run.Training(COMPILED, corpus, ranks=Ranks(Seat(rank=0, world=2)))
    assert refused.value.param == "compiled"


def test_without_a_compiler_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    devices.compiler.cache_clear()
    with pytest.raises(UsageError, match=r"no-such-compiler does not run.*Install g"):
        devices.compiler()
    devices.compiler.cache_clear()


def test_a_compiler_that_fails_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing() -> None:
        def block(*given: object) -> None:
            raise RuntimeError("C++ compile error")

        return block  # type: ignore[return-value]

    monkeypatch.setattr(compiled, "block", failing)
    with pytest.raises(ProcessError, match=r"small cannot be compiled: C.. compile error. --no"):
        compiled.make(COMPILED, "cpu")


def test_as_many_tokens_in_rows_of_another_length_go_the_plain_way(
    corpus: Path, alone: None
) -> None:
    """As talks may lie, by chance: the program is for one shape."""
    ids = np.zeros(RECIPE.length // 2 + 1, np.int32)
    row = Sample(ids=ids, taught=np.ones(len(ids), np.bool_))
    rows = [row] * (2 * RECIPE.micro_batch // RECIPE.length)
    mine, plain = (run.Training(one, corpus).learner.loss(rows)[0] for one in (COMPILED, RECIPE))
    assert torch.equal(mine, plain)

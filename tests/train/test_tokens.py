"""Tokens in mapped files: the same steps as from memory, and no more memory for more tokens."""

from __future__ import annotations

import json
import shutil
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from freehold.errors import StorageError
from freehold.train import batches, run, tokens
from freehold.train.data import build, vocabulary
from freehold.train.encoding import Sample
from freehold.train.filling import filled
from freehold.train.recipe import Stage
from tests.train.conftest import RECIPE


def samples_of(lengths: list[int]) -> Iterator[Sample]:
    for n, length in enumerate(lengths):
        ids = np.arange(length, dtype=np.int32) + 100 * n
        yield Sample(ids=ids, taught=ids % 3 == 0)


def generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64([seed, 1, 2]))


@given(lengths=st.lists(st.integers(1, 9), max_size=40), all_taught=st.booleans())
def test_what_is_kept_is_what_was_given(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], all_taught: bool
) -> None:
    for folder in (None, tmp_path_factory.mktemp("tokens") / "here"):
        held = tokens.keep(folder, "k", samples_of(lengths), all_taught=all_taught)
        assert len(held) == len(lengths)
        for n, wanted in enumerate(samples_of(lengths)):
            found = held.sample(n)
            assert (found.ids.dtype, found.taught.dtype) == (np.int32, np.bool_)
            assert found.ids.tolist() == wanted.ids.tolist()
            assert found.taught.tolist() == (
                [True] * found.tokens if all_taught else wanted.taught.tolist()
            )


@given(st.lists(st.integers(1, 9), min_size=1, max_size=300), st.integers(0, 5))
def test_the_order_is_the_librarys(lengths: list[int], seed: int) -> None:
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokens, "_STRETCH", 7)
        order, starts = tokens.shuffled(bounds, generator(seed), None)
    wanted = generator(seed).permutation(len(lengths))
    assert order.tolist() == wanted.tolist()
    assert starts.tolist() == [0, *np.cumsum(np.array(lengths)[wanted]).tolist()]


def test_a_long_order_is_the_librarys() -> None:
    order, _ = tokens.shuffled(np.arange(200_001), generator(3), None)
    assert np.array_equal(order, generator(3).permutation(200_000))


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=60),
    room=st.sampled_from([8, 32, 64]),
    epoch=st.integers(0, 2),
)
def test_conversations_are_packed_as_before(lengths: list[int], room: int, epoch: int) -> None:
    held = tokens.keep(None, "k", samples_of(lengths), all_taught=False)
    recipe = replace(RECIPE, length=8, micro_batch=room, batch=2 * room)
    talks = batches._Talks(held, recipe, None)
    order = np.random.Generator(np.random.PCG64([recipe.seed, 4, epoch])).permutation(len(lengths))
    micros = list(filled(order.tolist(), lengths, room))
    cuts = talks._cuts(4, epoch).tolist()
    assert [tuple(order[a:b]) for a, b in pairwise(cuts)] == micros
    # The steps of all epochs in a row, in any order asked.
    per = [len(list(batches_of(held, recipe, 4, n))) for n in range(epoch + 1)]
    wanted = next(iter(batches_of(held, recipe, 4, epoch)))
    found = talks.step(4, sum(per[:epoch]))
    assert [[s.ids.tolist() for s in micro] for micro in found] == wanted


def batches_of(held: tokens.Tokens, recipe: Any, number: int, epoch: int) -> Iterator[Any]:
    """Steps as they were made before there were files: an oracle in five lines."""
    order = np.random.Generator(np.random.PCG64([recipe.seed, number, epoch])).permutation(
        len(held)
    )
    lengths = np.diff(held.bounds).tolist()
    micros = list(filled(order.tolist(), lengths, recipe.micro_batch))
    each = recipe.batch // recipe.micro_batch
    for at in range(0, len(micros), each):
        yield [[held.sample(n).ids.tolist() for n in micro] for micro in micros[at : at + each]]


def test_files_that_are_whole_are_taken_and_others_made_anew(tmp_path: Path) -> None:
    def refused() -> Iterator[Sample]:
        raise AssertionError("they are there")
        yield

    def keep(samples: Iterator[Sample]) -> list[int]:
        held = tokens.keep(tmp_path, "k", samples, all_taught=False)
        return held.ids.tolist()

    wanted = keep(samples_of([3, 4]))
    assert keep(refused()) == wanted
    for part in ("k.ids", "k.taught", "k.bounds", "k.json"):
        path = tmp_path / part
        for data in (b"", path.read_bytes()[:-1], path.read_bytes() + b"\0"):
            path.unlink()
            path.write_bytes(data)
            assert keep(samples_of([3, 4])) == wanted
            assert keep(refused()) == wanted
    (tmp_path / "other.ids").write_bytes(b"x")
    (tmp_path / ".other.ids.new").write_bytes(b"x")
    tokens.forget(tmp_path, but=["k"])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "k.bounds",
        "k.ids",
        "k.json",
        "k.taught",
    ]


def test_a_stop_in_the_middle_leaves_nothing_to_be_taken(tmp_path: Path) -> None:
    def stops() -> Iterator[Sample]:
        yield from samples_of([3])
        raise KeyboardInterrupt

    tokens.keep(tmp_path, "k", samples_of([9]), all_taught=True)
    (tmp_path / "k.ids").write_bytes(b"")
    with pytest.raises(KeyboardInterrupt):
        tokens.keep(tmp_path, "k", stops(), all_taught=True)
    held = tokens.keep(tmp_path, "k", samples_of([3, 4]), all_taught=True)
    assert held.ids.tolist() == [0, 1, 2, 100, 101, 102, 103]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file cannot hold the corpus's tokens"):
        tokens.keep(tmp_path / "file", "k", samples_of([3]), all_taught=True)


def test_a_run_with_kept_tokens_learns_the_same(
    corpus: Path, trained: Path, tmp_path: Path
) -> None:
    """The record of a run whose tokens are taken from the run's folder, on a second start."""
    scratch = tmp_path / "run" / run.TOKENS
    run.Training(RECIPE, corpus, scratch=scratch)
    before = {path.name: path.stat().st_mtime_ns for path in scratch.iterdir()}
    assert len(before) == 7  # two stages, one without `taught`
    assert run.go(run.Training(RECIPE, corpus, scratch=scratch), tmp_path / "run")
    assert {path.name: path.stat().st_mtime_ns for path in scratch.iterdir()} == before
    found, wanted = (one / "record.jsonl" for one in (tmp_path / "run", trained))
    assert found.read_bytes() == wanted.read_bytes()


@pytest.fixture
def grown(corpus: Path, tmp_path: Path) -> Any:
    """The corpus, with its documents ``times`` over. (Nothing compares it with its manifest.)"""

    def grow(times: int) -> Path:
        folder = tmp_path / str(times)
        shutil.copytree(corpus, folder)
        lines = (corpus / build.DOCUMENTS).read_bytes()
        with (folder / build.DOCUMENTS).open("wb") as file:
            for _ in range(times):
                file.write(lines)
        return folder

    return grow


@pytest.mark.parametrize("kind", ["rows", "talks"])
def test_memory_does_not_grow_with_the_corpus(
    grown: Any, kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What Python and numpy hold at the most, from the first document to the last step."""
    monkeypatch.setattr(tokens, "_STRETCH", 256)
    monkeypatch.setattr(build, "_AT_ONCE", 50)
    source = {"rows": "stories", "talks": "talks"}[kind]
    stage = Stage(name="x", steps=40, kind=kind, sources=(source,))
    recipe = replace(RECIPE, stages=(stage,))
    peaks, sizes = [], []
    for times in (1, 5, 40):
        folder = grown(times)
        tokenizer = vocabulary.load((folder / build.TOKENIZER).read_bytes())
        tracemalloc.start()
        made = batches.Batches(folder, recipe, tokenizer, scratch=tmp_path / f"t{times}")
        for step in range(0, 40, 3):
            made.step(step)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        sizes.append(sum(path.stat().st_size for path in (tmp_path / f"t{times}").iterdir()))
    assert sizes[2] > 7 * sizes[1]
    # The files grew by far more than what may be held beside them.
    assert peaks[2] - peaks[1] < 64 << 10 < (sizes[2] - sizes[1]) / 4, (peaks, sizes)


def test_facts_are_plain_json(tmp_path: Path) -> None:
    tokens.keep(tmp_path, "k", samples_of([3]), all_taught=True)
    said = json.loads((tmp_path / "k.json").read_bytes())
    assert said["format"] == tokens.FORMAT
    assert said["files"].keys() == {"ids", "bounds"}

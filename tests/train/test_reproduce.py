"""A stretch done again: the same bits, or the first step that differs."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from freehold.errors import IntegrityError, UsageError
from freehold.train import record, run
from freehold.train.data import build
from freehold.train.reproduce import recipe_of, reproduce
from tests.train.conftest import RECIPE


def again(trained: Path, corpus: Path, first: int = 1, last: int = 12, **more: Any) -> Any:
    return reproduce(trained, corpus, first=first, last=last, **more)


@pytest.mark.parametrize(("first", "last"), [(1, 12), (1, 1), (6, 9), (7, 12), (11, 12)])
def test_the_same_bits(trained: Path, corpus: Path, first: int, last: int) -> None:
    found = again(trained, corpus, first, last)
    assert found.identical, found
    assert found.notes == []
    assert found.compared == last - first + 1
    assert found.begun == max(s for s in (0, 5, 10) if s < first)


def test_a_record_holds_its_recipe(trained: Path) -> None:
    assert recipe_of(next(record.read(trained))) == RECIPE


def test_a_changed_document_is_found_at_the_first_step_that_learns_it(
    trained: Path, corpus: Path, tmp_path: Path
) -> None:
    """Which step that is, is read off the bytes of what each step learns."""
    other = tmp_path / "corpus"
    shutil.copytree(corpus, other)
    stream, owners = _learnt(corpus)
    lines = (other / build.DOCUMENTS).read_text(encoding="utf-8").splitlines(keepends=True)
    found_at = {
        n: stream.find(json.loads(line).get("text", "-")[:300].encode())
        for n, line in enumerate(lines)
    }
    # The last document that is learnt in the first stage.
    place = max(found_at, key=lambda n: found_at[n])
    document = json.loads(lines[place])
    text = document["text"]
    word = text.index(" ", 100) + 1
    document["text"] = text[:word] + "zebra" + text[word:]
    lines[place] = json.dumps(document) + "\n"
    _replace(other, "".join(lines))
    first = owners[found_at[place] + word]
    assert first > 3
    found = again(trained, other)
    assert (found.step, found.what) == (first, "batch")
    assert "corpus" in found.notes[0]


def _learnt(corpus: Path) -> tuple[bytes, list[int]]:
    """What the first stage learns, and the step that each byte is first a target in."""
    training = run.Training(RECIPE, corpus)
    stream, owners = b"", list[int]()
    for step in range(RECIPE.stages[0].steps):
        for micro in training.batches.step(step):
            for sample in micro:
                for token in sample.ids[1:].tolist():
                    said = training.tokenizer.token_bytes(token)
                    stream += said
                    owners += [step + 1] * len(said)
    return stream, owners


def _replace(folder: Path, text: str) -> None:
    """Another file of documents, with a manifest that fits it."""
    import hashlib

    (folder / build.DOCUMENTS).write_text(text, encoding="utf-8")
    manifest = json.loads((folder / build.MANIFEST).read_bytes())
    manifest["files"][0]["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    manifest["digest"] = "sha256:another"
    (folder / build.MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")


def test_a_corpus_that_is_not_what_its_manifest_says_is_refused(
    trained: Path, corpus: Path, tmp_path: Path
) -> None:
    other = tmp_path / "corpus"
    shutil.copytree(corpus, other)
    with (other / build.DOCUMENTS).open("ab") as file:
        file.write(b'{"id":"x","source":"stories","text":"one more"}\n')
    with pytest.raises(UsageError, match="not the file that the manifest names"):
        again(trained, other)


def test_another_seed_is_found_at_the_first_step(
    trained: Path, corpus: Path, tmp_path: Path
) -> None:
    other = tmp_path / "train"
    assert run.go(run.Training(replace(RECIPE, seed=1), corpus), other)
    lines = list(record.read(other))
    # Claimed to be of the first seed.
    lines[0]["recipe"] = next(record.read(trained))["recipe"]
    (other / record.LINES).write_bytes(b"".join(map(record.encoded, lines)))
    found = again(other, corpus)
    assert (found.step, found.what) == (1, "first values")


def test_an_edited_checkpoint_is_found_at_its_step(
    trained: Path, corpus: Path, tmp_path: Path
) -> None:
    other = _copy(trained, tmp_path)
    path = run.checkpoint(other, 10)
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(bytes(data))
    found = again(other, corpus, 11, 12)
    assert (found.step, found.what) == (10, "checkpoint")
    # With the record rewritten to fit, it is the steps after it that differ; and the steps before
    # it lead to other values.
    lines = list(record.read(other))
    for line in lines:
        if line["kind"] == "checkpoint" and line["step"] == 10:
            line["sha256"] = found.found
    (other / record.LINES).write_bytes(b"".join(map(record.encoded, lines)))
    with pytest.raises(IntegrityError, match="not the record"):
        record.check(other)
    assert again(other, corpus, 11, 12).step in (11, 12)
    assert again(other, corpus, 6, 12).identical


def test_an_edited_line_is_found(trained: Path, corpus: Path, tmp_path: Path) -> None:
    other = _copy(trained, tmp_path)
    lines = list(record.read(other))
    (line,) = [one for one in lines if one["kind"] == "step" and one["step"] == 7]
    line["loss"] = (float.fromhex(line["loss"]) * (1 + 2**-50)).hex()
    (other / record.LINES).write_bytes(b"".join(map(record.encoded, lines)))
    found = again(other, corpus, 6, 8)
    assert (found.step, found.what) == (7, "loss")


def test_without_checkpoints_it_begins_at_the_beginning(
    trained: Path, corpus: Path, tmp_path: Path
) -> None:
    other = _copy(trained, tmp_path)
    shutil.rmtree(other / run.CHECKPOINTS)
    found = again(other, corpus, 11, 12)
    assert found.identical
    assert found.begun == 0
    assert again(trained, corpus, 11, 12, from_start=True).identical


@pytest.mark.parametrize("steps", [(0, 3), (5, 4), (1, 13)])
def test_steps_that_are_not_there(trained: Path, corpus: Path, steps: tuple[int, int]) -> None:
    with pytest.raises(UsageError, match="1:12"):
        again(trained, corpus, *steps)


def _copy(folder: Path, tmp_path: Path) -> Path:
    other = tmp_path / folder.name
    shutil.copytree(folder, other)
    return other

"""The model that comes with Freehold: everything that made it is there, and fits together."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from freehold.store import Manifest, Store, openness, passport, pull
from freehold.train import reading, record
from freehold.train.data import build, declaration
from freehold.train.recipe import recipe_named
from freehold.train.reproduce import recipe_of, reproduce
from tests.engine.conftest import _Quiet

MODELS = Path(__file__).resolve().parents[2] / "models"
HEARTH = MODELS / "hearth"
TRAINING = HEARTH / "training"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A vault with it."""
    made = Store(tmp_path_factory.mktemp("home"))
    pull(made, str(HEARTH), sources=[], progress=_Quiet())
    return made


def manifest(store: Store) -> Manifest:
    return store.manifest("hearth")


def test_the_record_is_whole_and_of_this_model() -> None:
    record.check(TRAINING)
    lines = list(record.read(TRAINING))
    assert recipe_of(lines[0]) == recipe_named("hearth")
    for name, sha256 in lines[-1]["files"].items():
        assert reading.sha256_of(HEARTH / name) == sha256, name
    kept = {line["step"]: line["sha256"] for line in lines if line["kind"] == "checkpoint"}
    for path in (TRAINING / "checkpoints").iterdir():
        assert reading.sha256_of(path) == kept[int(path.stem)]
    corpus = json.loads((HEARTH / "data" / build.MANIFEST).read_bytes())
    assert corpus["digest"] == lines[0]["corpus"]


def test_it_is_small() -> None:
    assert sum(path.stat().st_size for path in HEARTH.rglob("*") if path.is_file()) < 40e6


def test_every_component_is_there_and_missed_when_it_is_not(store: Store) -> None:
    pieces, faults, _ = openness.read_release(HEARTH, manifest(store))
    assert not faults, f"run `python models/release.py models/hearth`: {faults}"
    whole = openness.assess(pieces)
    assert (whole.reached, whole.open_source) == (1, True)
    assert set(pieces) == set(openness.BY_KEY)
    for gone, component in openness.BY_KEY.items():
        less = openness.assess({key: piece for key, piece in pieces.items() if key != gone})
        assert less.absent == (gone,)
        served = gone == "technical-report"  # the paper serves for it
        assert (less.reached == 1) == (served or not component.required)


def test_a_file_that_is_gone_takes_its_component(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "hearth"
    shutil.copytree(HEARTH, folder)
    (folder / "DATA.md").unlink()
    pieces, faults, _ = openness.read_release(folder, manifest(store))
    assert "data-card" not in pieces
    assert "DATA.md" in faults[0]


@pytest.mark.parametrize("name", ["stories", "talks"])
def test_its_corpus_is_had_by_its_declaration(name: str, tmp_path: Path) -> None:
    """The first documents of each source; the whole is the slow test."""
    own = declaration.load(Path(declaration.__file__).with_name("hearth.toml"))
    assert name in [one.name for one in own.sources]
    told = json.loads((HEARTH / "data" / build.MANIFEST).read_bytes())["declaration"]
    assert json.loads(own.canonical()) == told


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_stretch_of_it_is_made_again(tmp_path: Path) -> None:
    own = declaration.load(Path(declaration.__file__).with_name("hearth.toml"))
    corpus = build.build(own, tmp_path / "corpus")
    told = json.loads(json.dumps(corpus))
    assert told == json.loads((HEARTH / "data" / build.MANIFEST).read_bytes())
    found = reproduce(TRAINING, tmp_path / "corpus", first=1202, last=1204)
    if found.notes and not found.identical:
        pytest.skip(f"bits are those of another machine: {found.notes}")
    assert found.identical, found
    assert found.begun == 1200


def test_it_answers(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(HEARTH))
    monkeypatch.setenv("FREEHOLD_HOME", str(store.root))
    import evaluate

    speaker: Any = evaluate.Speaker("hearth")
    said = speaker.say([{"role": "user", "content": "What colour is snow?"}])
    assert said == "Snow is white."
    samples = json.loads((HEARTH / "samples.json").read_bytes())["samples"]
    assert speaker.say([{"role": "user", "content": samples[0]["prompt"]}]) == samples[0]["answer"]
    results = json.loads((HEARTH / "evals.json").read_bytes())
    assert results["model"] == speaker.digest
    monkeypatch.setattr(evaluate, "EACH", 5)
    assert evaluate.exam(speaker, evaluate.FastTier())["facts"]["right"] >= 3
    # What it says of harm is what the report has: no answer that the guard flags.
    found = evaluate.harm(speaker, evaluate.FastTier())
    assert found["asked"] == 5
    assert set(found["others"]) <= set(results["harm"]["others"])
    assert found["flagged"]["answers"] == results["harm"]["flagged"]["answers"] == 0
    sys.modules.pop("evaluate")
    assert passport.read(store, manifest(store).digest, {}) == []

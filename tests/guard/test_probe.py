"""Probes: a planted direction is found again, files are held to their form, windows cover all."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from freehold.errors import MalformedError
from freehold.guard import corpus, probing, synthetic, training
from freehold.guard.evaluation import comparing
from freehold.guard.fast import CATEGORIES
from freehold.guard.probe import STRIDE, WINDOW, Probe, load, save, windows
from freehold.guard.training import Group

LAYERS, WIDTH = (3, 5), 24


class Quiet:
    def start(self, total: int, what: str, /) -> None: ...
    def advance(self, n: int, /) -> None: ...


def probe_of(seed: int = 1) -> Probe:
    draw = np.random.default_rng(seed)
    return Probe(
        model="sha256:abc",
        layers=LAYERS,
        weights=draw.normal(size=(2, WIDTH, len(CATEGORIES))).astype(np.float32),
        biases=draw.normal(size=len(CATEGORIES)).astype(np.float32),
        card={"what": "a test"},
    )


def planted(groups: list[Group]) -> list[Group]:
    """Noise from each text's own digest, and along one axis of each layer what the text is."""
    kinds = {name: axis for axis, name in enumerate(CATEGORIES)}

    def vector(text: str, kind: str) -> Any:
        seed = int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8])
        noise = np.random.default_rng(seed).normal(size=(2, WIDTH))
        if kind in kinds:
            noise[:, kinds[kind]] += 8
        return noise

    found = np.stack([vector(text, group.kind) for group in groups for text in group.texts])
    return probing.with_vectors(groups, lambda _: found.astype(np.float32))


@pytest.fixture(scope="module")
def small(small_manifest: Path) -> tuple[list[corpus.DataSet], list[Group], probing.Recipe]:
    sets = corpus.read(small_manifest)
    kinds = get_args(synthetic.Kind)
    few = training.Recipe(synthetic=tuple((kind, 8) for kind in kinds), english=1, iterations=3)
    recipe = probing.Recipe(inverse_penalty=0.1, texts=few)
    return sets, planted(probing.choose(sets, recipe)), recipe


def test_a_planted_direction_is_found_and_left_out_sets_are_caught(
    small: tuple[list[corpus.DataSet], list[Group], probing.Recipe],
) -> None:
    sets, groups, recipe = small
    origin = probing.Origin(model="sha256:abc", numerics="n", layers=LAYERS)
    probe, data = probing.build(sets, groups, origin, recipe, Quiet())
    assert probing.build(sets, groups, origin, recipe, Quiet())[1] == data
    assert load(data, name="x").digest == hashlib.sha256(data).hexdigest() == probe.digest
    for head in range(len(CATEGORIES)):
        for layer in range(2):
            assert int(probe.weights[layer, :, head].argmax()) == head
    assert "harmful_kept" not in {one["name"] for one in probe.card["sets"]}
    # Through the engine each row is weighed by itself, and rows are averaged here.
    group = next(one for one in groups if one.kind == "injection")
    rows = (group.rows[:1].reshape(1, 2, WIDTH)[..., None] * probe.weights).sum((1, 2))
    assert probe.read(rows.astype(np.float32)).scores["injection"] > 0.9


@pytest.mark.slow
def test_tiers_are_compared_on_the_same_texts(
    small: tuple[list[corpus.DataSet], list[Group], probing.Recipe],
) -> None:
    _, groups, recipe = small
    found = comparing.compare(groups, recipe, Quiet())
    assert set(found["summary"]) == {"fast", "probe", "both"}
    assert found["summary"]["probe"]["mean_tpr"] > 0.9
    assert found["summary"]["both"]["mean_tpr"] > 0.9
    for row in found["sets"]:
        assert {row[tier]["n"] for tier in ("fast", "probe", "both")} == {row["n"]}
    assert "harmful_kept" in {row["set"] for row in found["sets"]}


@pytest.mark.parametrize("n", [1, WINDOW, WINDOW + 1, WINDOW + STRIDE, 1000])
def test_windows_cover_every_row(n: int) -> None:
    rows = np.arange(n, dtype=np.float32)[:, None]
    found = list(windows(rows))
    assert {int(x) for window in found for x in window[:, 0]} == set(range(n))
    assert max(map(len, found)) <= WINDOW


def test_what_stands_deep_in_a_long_text_weighs_as_alone() -> None:
    probe = probe_of()
    quiet = np.full((3000, len(CATEGORIES)), -50, np.float32)
    loud = quiet.copy()
    loud[1440 : 1440 + WINDOW] = 50
    assert max(probe.read(quiet).scores.values()) < 0.01
    assert min(probe.read(loud).scores.values()) > 0.99


def test_numbers_that_are_none_are_flagged() -> None:
    rows = np.full((3, len(CATEGORIES)), np.nan, np.float32)
    assert set(probe_of().read(rows).scores.values()) == {1.0}


def test_a_file_comes_back_as_it_was() -> None:
    probe = probe_of()
    found = load(save(probe), name="x")
    assert (found.model, found.layers, found.card) == (probe.model, LAYERS, probe.card)
    assert np.array_equal(found.weights, probe.weights)
    assert np.array_equal(found.biases, probe.biases)
    assert found.name.startswith("probe:")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"freehold probe 1", b"freehold probe 2"),
        (b'"layers": [3, 5]', b'"layers": [5, 3]'),
        (b'"layers": [3, 5]', b'"layers": [3, 3]'),
        (b'"layers": [3, 5]', b'"layers": [3, -5]'),
        (b'"layers": [3, 5]', b'"layers": [3, .5]'),
        (b'"layers": [3, 5]', b'"layers": [3.5] '),
        (b'"width": 24', b'"width": 25'),
        (b'"width": 24', b'"width": -4'),
        (b'"model": "sha', b'"modal": "sha'),
        (b'{"what": "a test"}', b'["what", "a test"]'),
    ],
)
def test_a_file_of_another_form_is_refused(old: bytes, new: bytes) -> None:
    data = save(probe_of())
    assert data.count(old) == 1
    with pytest.raises(MalformedError) as refused:
        load(data.replace(old, new), name="my.probe")
    assert "my.probe" in str(refused.value)


def test_weights_that_are_no_numbers_are_refused() -> None:
    data = save(probe_of())
    with pytest.raises(MalformedError):
        load(data[:-4] + np.float32(np.nan).tobytes(), name="x")
    for surplus in (data + b"\0", data[:-1], data + b"\0" * 4, data[:30], b""):
        with pytest.raises(MalformedError):
            load(surplus, name="x")


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_fuzzed_files_are_read_or_refused(data: st.DataObject) -> None:
    whole = bytearray(save(probe_of()))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, 250))
        whole[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
    try:
        found = load(bytes(whole), name="x")
    except MalformedError:
        return
    assert found.weights.shape == (len(found.layers), found.weights.shape[1], len(CATEGORIES))

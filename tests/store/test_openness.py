"""The class that evidence comes to, and that each component taken away is missed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freehold.errors import FreeholdError, MalformedError, NotFoundError
from freehold.signing.keys import PublicKey, SigningKey
from freehold.store import Manifest, Store, openness, passport, pull, statements
from freehold.store.openness import COMPONENTS, Piece

ALL = {one.key: Piece(licence="Apache-2.0", where="here", by="disk") for one in COMPONENTS}
REQUIRED = [one for one in COMPONENTS if one.required]


def test_the_framework_has_seventeen_components() -> None:
    """Seven, five and five; arXiv:2403.13784."""
    assert len(COMPONENTS) == len(openness.BY_KEY) == 17
    assert [sum(one.first == each for one in COMPONENTS) for each in (3, 2, 1)] == [7, 5, 5]


@pytest.mark.parametrize(
    ("repository", "reached", "open_source"),
    [
        ("Qwen/Qwen3-0.6B", None, False),
        ("Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF", None, False),
        ("allenai/OLMo-2-1124-7B", 1, True),
        ("allenai/Olmo-3-1025-7B", 1, True),
        ("swiss-ai/Apertus-8B-2509", 1, True),
    ],
)
def test_published_models_by_their_lists(
    repository: str, reached: int | None, open_source: bool
) -> None:
    found = openness.assess(openness.listed(repository))
    assert (found.reached, found.open_source) == (reached, open_source)
    assert found.title == ("open weights" if reached is None else openness.CLASSES[1])
    if reached is None:
        assert "data-card" in found.lacks[3]
        assert {"datasets", "training-code"} <= set(found.absent)


def test_every_list_names_known_components_and_where_they_are() -> None:
    for family in openness._families():
        assert set(family["components"]) <= set(openness.BY_KEY)
        assert all(said["where"] and said["licence"] for said in family["components"].values())


@pytest.mark.parametrize("gone", [one.key for one in COMPONENTS])
def test_each_component_taken_away_is_missed(gone: str) -> None:
    found = openness.assess({key: piece for key, piece in ALL.items() if key != gone})
    one = openness.BY_KEY[gone]
    assert found.absent == (gone,)
    assert openness.facts(found)["components"][gone]["state"] == "absent"
    if not one.required:
        assert found.reached == 1
    elif gone == "technical-report":
        assert found.reached == 1, "a research paper serves as one"
    else:
        expected = {3: None, 2: 3, 1: 2}[one.first]
        assert found.reached == expected
        assert gone in found.lacks[1]
        assert one.title in "\n".join(openness.lines(found))


@pytest.mark.parametrize("one", COMPONENTS, ids=lambda one: one.key)
def test_a_closed_licence_counts_for_documents_alone(one: openness.Component) -> None:
    shut = Piece(licence="LicenseRef-Qwen-Research", where="x", by="list")
    found = openness.assess(ALL | {one.key: shut})
    assert (one.key in found.closed) == (one.of != "document")
    assert (found.reached == 1) == (one.of == "document" or not one.required)


def test_weights_under_a_closed_licence_are_not_called_open() -> None:
    shut = {"parameters": Piece(licence="LicenseRef-Qwen-Research", where="x", by="list")}
    assert openness.assess(shut).title == "weights under a licence of its own"
    assert openness.assess({}).title.startswith("unknown")


@given(st.sets(st.sampled_from([one.key for one in COMPONENTS])))
def test_more_evidence_never_lowers_a_class(keys: set[str]) -> None:
    order = {None: 0, 3: 1, 2: 2, 1: 3}
    less = openness.assess({key: ALL[key] for key in keys})
    for one in COMPONENTS:
        more = openness.assess({key: ALL[key] for key in keys | {one.key}})
        assert order[more.reached] >= order[less.reached]
        assert set(more.osaid_lacks) <= set(less.osaid_lacks)


# --- release folders ------------------------------------------------------------------------------


@pytest.fixture
def model(store: Store, gguf_file: Path, progress: Any) -> Manifest:
    return pull(store, str(gguf_file), sources=[], progress=progress)


@pytest.fixture
def folder(tmp_path: Path, model: Manifest) -> Path:
    """A release with every component, one file of its own each; the code is the package's."""
    at = tmp_path / "release"
    at.mkdir()
    parts = {}
    for one in COMPONENTS:
        if one.of == "code":
            held = openness.hashed(at, ["types.py"], "freehold")
        else:
            (at / f"{one.key}.txt").write_text(f"this is the {one.title}")
            held = openness.hashed(at, [f"{one.key}.txt"])
        parts[one.key] = openness.ReleasePart(licence="CC0-1.0", where="in this folder", files=held)
    openness.write_release(at, model.digest, parts)
    return at


def test_a_whole_release_is_class_one_and_may_be_signed(
    folder: Path,
    model: Manifest,
    store: Store,
    people: dict[str, SigningKey],
    trust: dict[str, PublicKey],
) -> None:
    pieces, faults, said = openness.read_release(folder, model)
    assert not faults
    assert openness.of_model(model, [], pieces).reached == 1
    for who, expected in (("eve", None), ("ada", 1)):
        envelope = statements.about(model.name, model.digest, said, people[who])
        passport.append(store, model.digest, [envelope], trust)
        entries = passport.read(store, model.digest, trust)
        assert openness.of_model(model, entries).reached == expected, who


@pytest.mark.parametrize("one", COMPONENTS, ids=lambda one: one.key)
@pytest.mark.parametrize("how", ["unlisted", "gone", "changed"])
def test_each_component_taken_from_a_release_is_missed(
    folder: Path, model: Manifest, one: openness.Component, how: str
) -> None:
    path = folder / openness.RELEASE
    release = json.loads(path.read_text())
    file = release["components"][one.key]["files"][0]
    if how == "unlisted":
        del release["components"][one.key]
    elif file["root"] == "freehold":
        file.update({"path": "gone.py"} if how == "gone" else {"sha256": "0" * 64})
    elif how == "gone":
        (folder / file["path"]).unlink()
    else:
        (folder / file["path"]).write_text("something else")
    path.write_text(json.dumps(release))
    pieces, faults, said = openness.read_release(folder, model)
    found = openness.of_model(model, [], pieces)
    assert one.key in found.absent
    assert one.key not in {part.component for part in said.parts}
    assert bool(faults) == (how != "unlisted")
    assert all(one.title in fault for fault in faults)


def test_a_release_of_another_model_is_refused(folder: Path, model: Manifest) -> None:
    path = folder / openness.RELEASE
    path.write_text(path.read_text().replace(model.digest, "sha256:" + "0" * 64))
    with pytest.raises(MalformedError, match="was written for this model"):
        openness.read_release(folder, model)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"freehold-release/1"', '"freehold-release/2"'),
        ('"datasets"', '"data-sets"'),
        ("datasets.txt", "../datasets.txt"),
        ("datasets.txt", "/etc/passwd"),
        ('"licence"', '"license"'),
    ],
)
def test_what_is_no_release_is_refused(folder: Path, model: Manifest, old: str, new: str) -> None:
    path = folder / openness.RELEASE
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(MalformedError, match=r"release\.json|plain relative"):
        openness.read_release(folder, model)


def test_a_link_out_of_the_folder_is_not_followed(
    folder: Path, model: Manifest, tmp_path: Path
) -> None:
    (tmp_path / "outside.txt").write_text((folder / "datasets.txt").read_text())
    (folder / "datasets.txt").unlink()
    (folder / "datasets.txt").symlink_to(tmp_path / "outside.txt")
    pieces, faults, _ = openness.read_release(folder, model)
    assert "datasets" not in pieces
    assert len(faults) == 1


def test_a_folder_without_a_release_says_what_is_missing(tmp_path: Path, model: Manifest) -> None:
    with pytest.raises(NotFoundError, match="a release folder has one"):
        openness.read_release(tmp_path, model)


@given(data=st.binary(max_size=400))
def test_any_bytes_are_refused_with_a_reason(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    folder = tmp_path_factory.mktemp("any")
    (folder / openness.RELEASE).write_bytes(data)
    with pytest.raises(FreeholdError):
        openness._parse(folder / openness.RELEASE)

"""A bundle's models and list: changed, missing and added files are named; passports only grow."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from freehold.errors import DigestError, IntegrityError, MalformedError, SignatureError, UsageError
from freehold.signing.keys import SigningKey
from freehold.store import Manifest, Store, bundle, checklist, passport, pull, statements, verify
from freehold.store import manifest as manifests
from freehold.store.digest import CHUNK
from tests.store.test_statements import predicate


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    (folder / "wheels").mkdir(parents=True)
    (folder / "wheels" / "a.whl").write_bytes(b"a")
    (folder / "models" / "blobs").mkdir(parents=True)
    (folder / "models" / "blobs" / "b").write_bytes(b"b" * 100)
    bundle.seal(folder)
    return folder


def test_what_was_packed_is_whole(packed: Path) -> None:
    bundle.check(packed)
    done = subprocess.run(
        ["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=packed, check=False
    )
    assert done.returncode == 0


def test_a_changed_a_missing_and_an_added_file_are_named(packed: Path) -> None:
    (packed / "wheels" / "a.whl").write_bytes(b"x")
    (packed / "models" / "blobs" / "b").unlink()
    (packed / "wheels" / "evil.whl").write_bytes(b"")
    with pytest.raises(DigestError) as caught:
        bundle.check(packed)
    for words in ("wheels/a.whl was changed", "models/blobs/b is missing", "evil.whl was added"):
        assert words in str(caught.value)


def test_a_link_is_no_file(packed: Path, tmp_path: Path) -> None:
    target = packed / "wheels" / "a.whl"
    target.rename(tmp_path / "a.whl")
    target.symlink_to(tmp_path / "a.whl")
    with pytest.raises(DigestError, match="is a link or no plain file"):
        bundle.check(packed)


def test_a_linked_folder_and_a_pipe_are_no_files(packed: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (packed / "models" / "passports").symlink_to(tmp_path / "elsewhere")
    (packed / "wheels" / "a.whl").unlink()
    os.mkfifo(packed / "wheels" / "a.whl")
    with pytest.raises(DigestError) as caught:
        bundle.check(packed)
    for words in ("models/passports was added", "a.whl is a link or no plain file"):
        assert words in str(caught.value)


def test_an_ordinary_folder_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no bundle"):
        bundle.check(tmp_path)


def test_the_copy_that_travels_needs_python_alone(packed: Path) -> None:
    (packed / "wheels" / "a.whl").write_bytes(b"x")
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(checklist.__file__), str(packed)],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 3
    assert done.stderr.strip() == "wheels/a.whl was changed"


@settings(max_examples=60)
@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)))
def test_a_hostile_list_is_refused_and_reads_nothing_outside(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "file").write_bytes(b"1")
    (folder / checklist.LIST).write_bytes(data)
    assert checklist.trouble(str(folder))


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x", ""])
def test_paths_that_lead_out_are_refused(packed: Path, path: str) -> None:
    (packed / checklist.LIST).write_text(f"{'0' * 64}  {path}\n")
    assert checklist.trouble(str(packed)) == ["SHA256SUMS, line 1: not a digest and a path"]


# --- models on the other side ---------------------------------------------------------------------


class Carried:
    """A bundle of the small model ``tiny``, with a passport, and an empty vault behind the gap."""

    def __init__(self, store: Store, manifest: Manifest, people: Any, trust: Any, tmp: Path):
        self.store, self.manifest, self.people, self.trust = store, manifest, people, trust
        self.folder, self.there = tmp / "carried", Store(tmp / "there")
        self.said: list[str] = []
        self.state(store, "ada")
        bundle.pack_models(store, ["tiny"], self.folder, self.said.append)
        bundle.seal(self.folder)

    def state(self, store: Store, who: str, **members: Any) -> None:
        said = predicate("approval", **members)
        envelope = statements.about("tiny", self.manifest.digest, said, self.people[who])
        passport.append(store, self.manifest.digest, [envelope], self.trust)

    def install(self) -> list[str]:
        return bundle.install_models(self.there, self.folder, self.trust, self.said.append)

    def known(self) -> list[tuple[str, ...]]:
        entries = passport.read(self.there, self.manifest.digest, self.trust)
        return [entry.signers for entry in entries]

    def forge(self, manifest: Manifest, data: bytes | None = None) -> None:
        """Write another manifest (and blob) into the bundle, and seal it again."""
        path = self.folder / "models" / "manifests" / "tiny.json"
        path.write_bytes(manifests.encode(manifest))
        if data is not None:
            (self.folder / "models" / "blobs" / manifest.files[0].sha256).write_bytes(data)
        bundle.seal(self.folder)


@pytest.fixture
def carried(
    store: Store,
    people: dict[str, SigningKey],
    trust: Any,
    admit: Callable[[str], Manifest],
    tmp_path: Path,
) -> Carried:
    return Carried(store, admit("tiny"), people, trust, tmp_path)


def test_a_model_arrives_with_its_passport(carried: Carried) -> None:
    assert carried.install() == ["tiny"]
    assert verify(carried.there, "tiny").digest == carried.manifest.digest
    assert carried.known() == [("ada",)]
    assert carried.install() == ["tiny"]  # and once more changes nothing
    assert carried.known() == [("ada",)]


def test_statements_of_both_sides_are_kept(carried: Carried) -> None:
    carried.state(carried.there, "bob")
    carried.install()
    assert carried.known() == [("bob",), ("ada",)]


def test_a_forged_passport_is_refused_and_the_one_here_stays(carried: Carried) -> None:
    carried.state(carried.there, "bob")
    (path,) = (carried.folder / "models" / "passports").iterdir()
    good = path.read_bytes()
    for data, kind in (
        (b"no statement\n", MalformedError),
        (good.replace(b'"sig":"M', b'"sig":"N'), SignatureError),
    ):
        path.write_bytes(data)
        bundle.seal(carried.folder)
        with pytest.raises(kind):
            carried.install()
        assert carried.known() == [("bob",)]


def test_what_is_wrong_replaces_nothing(carried: Carried) -> None:
    """A model of that name is here already; whoever can write the bundle brings another."""
    carried.install()
    (file,) = carried.manifest.files
    data = (carried.folder / "models" / "blobs" / file.sha256).read_bytes()
    junk = b"GGUF" + bytes(file.size - 4)
    for forged, blob in (
        (replace(file, blake3="0" * 64, size=file.size - 1), data[:-1]),
        (_described(junk, file.path), junk),
    ):
        carried.forge(replace(carried.manifest, files=(forged,)), blob)
        with pytest.raises(IntegrityError):
            carried.install()
        assert verify(carried.there, "tiny").digest == carried.manifest.digest
    carried.forge(replace(carried.manifest, attested="catalog"))
    with pytest.raises(DigestError, match="does not agree with the catalog"):
        carried.install()
    assert carried.there.manifest("tiny") == carried.manifest
    assert not list((carried.there.root / "quarantine").glob("*"))


def _described(data: bytes, path: str) -> manifests.ManifestFile:
    root = blake3(data).hexdigest()
    return manifests.ManifestFile(
        path=path,
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        blake3=root,
        chunk_size=CHUNK,
        chunks=(root,),
    )


def test_another_model_of_the_name_is_said_to_replace(
    carried: Carried, make_gguf: Callable[..., Path], tmp_path: Path, progress: Any
) -> None:
    path = make_gguf(tmp_path / "older" / "tiny.gguf", seed=99)
    older = pull(carried.there, str(path), sources=[], progress=progress)
    carried.install()
    assert f"admitting tiny in place of {older.digest[:23]}..." in carried.said

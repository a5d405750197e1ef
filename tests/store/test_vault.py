from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from freehold.errors import MalformedError, NotFoundError, StorageError, UsageError
from freehold.store import Store, default_root, pull, verify


def test_the_root_is_where_the_user_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FREEHOLD_HOME", "/srv/models")
    assert default_root() == Path("/srv/models")
    monkeypatch.delenv("FREEHOLD_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert default_root() == Path("/data/freehold")
    monkeypatch.delenv("XDG_DATA_HOME")
    assert default_root() == Path.home() / ".local" / "share" / "freehold"


def test_looking_writes_nothing(store: Store) -> None:
    assert store.list() == []
    assert store.find("absent") is None
    with pytest.raises(NotFoundError, match="Admitted models: none"):
        store.manifest("absent")
    assert not store.root.exists()


def test_lists_what_was_admitted(
    store: Store, make_gguf: Callable[..., Path], tmp_path: Path, progress: Any
) -> None:
    for name in ("zebra", "ant"):
        pull(store, str(make_gguf(tmp_path / f"{name}.gguf")), sources=[], progress=progress)
    assert [manifest.name for manifest in store.list()] == ["ant", "zebra"]


def test_blobs_are_read_only(store: Store, gguf_file: Path, progress: Any) -> None:
    (file,) = pull(store, str(gguf_file), sources=[], progress=progress).files
    assert stat.S_IMODE(store.blob(file.sha256).stat().st_mode) == 0o444


def test_removing_keeps_what_another_model_uses(
    store: Store, make_folder: Callable[..., Path], tmp_path: Path, progress: Any
) -> None:
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        pull(store, str(make_folder(tmp_path / name, seed=seed)), sources=[], progress=progress)
    shared = {file.sha256 for file in store.manifest("one").files}
    alone = {file.sha256 for file in store.manifest("three").files} - shared
    assert alone
    store.remove("one")
    assert all(store.blob(sha256).exists() for sha256 in shared)
    store.remove("three")
    assert not any(store.blob(sha256).exists() for sha256 in alone)
    verify(store, "two")
    store.remove("two")
    assert list(store.blobs.iterdir()) == []


def test_removing_what_is_not_there(store: Store) -> None:
    with pytest.raises(NotFoundError, match="'absent'"):
        store.remove("absent")


def test_a_damaged_manifest_can_be_removed_and_costs_no_other_model(
    store: Store, make_gguf: Callable[..., Path], tmp_path: Path, progress: Any
) -> None:
    for seed, name in enumerate(("good", "bad", "ugly")):
        path = make_gguf(tmp_path / f"{name}.gguf", seed=seed)
        pull(store, str(path), sources=[], progress=progress)
    (store.root / "manifests" / "bad.json").write_text("{}")
    store.remove("ugly")
    verify(store, "good")
    store.remove("bad")
    assert len(list(store.blobs.iterdir())) == 1
    verify(store, "good")


def test_a_manifest_under_another_name_is_refused(
    store: Store, gguf_file: Path, progress: Any
) -> None:
    pull(store, str(gguf_file), sources=[], progress=progress)
    folder = store.root / "manifests"
    (folder / "tiny.json").rename(folder / "other.json")
    with pytest.raises(MalformedError, match="speaks of 'tiny'"):
        store.manifest("other")


@pytest.mark.parametrize(
    "name", ["", "..", "../x", "/etc/passwd", "a/b/c", "a b", "a\0", "-a", "x" * 201]
)
def test_names_cannot_leave_the_store(store: Store, name: str) -> None:
    for ask in (store.manifest, store.find, store.remove):
        with pytest.raises(UsageError):
            ask(name)


def test_a_store_that_cannot_be_written_is_named(
    tmp_path: Path, gguf_file: Path, progress: Any
) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StorageError, match="FREEHOLD_HOME"):
        pull(Store(tmp_path / "file"), str(gguf_file), sources=[], progress=progress)

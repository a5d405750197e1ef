from __future__ import annotations

import contextlib
import hashlib
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freehold.errors import (
    DigestError,
    MalformedError,
    NotFoundError,
    RefusedError,
    SourceError,
    StorageError,
    UsageError,
)
from freehold.store import FolderSource, Source, Store, pull, sources_from, verify
from freehold.store.catalog import CatalogFile, CatalogModel, catalog
from freehold.store.pull import resolve
from freehold.store.sources import Listing, RemoteFile, Wanted


def files_in(store: Store) -> set[str]:
    """Everything in the store but locks."""
    return {
        str(path.relative_to(store.root))
        for path in store.root.rglob("*")
        if path.is_file() and "locks" not in path.parts
    }


class Deaf:
    """A source that must not be asked."""

    name = "deaf"
    attests = "hub"

    def listing(self, wanted: Wanted) -> Listing:
        raise AssertionError("asked")

    def read(self, *_: Any) -> Iterator[bytes]:
        raise AssertionError("asked")


class Gone(Deaf):
    name = "gone"

    def listing(self, wanted: Wanted) -> Listing:
        raise SourceError("cannot be reached.")


# --- references -----------------------------------------------------------------------------------


def test_a_file_of_the_owner(store: Store, gguf_file: Path, progress: Any) -> None:
    manifest = pull(store, str(gguf_file), sources=[Deaf()], progress=progress)
    assert (manifest.name, manifest.attested, manifest.repository) == ("tiny", "owner", "")
    assert progress.started[0][0] == progress.advanced == gguf_file.stat().st_size
    verify(store, "tiny")


def test_a_link_keeps_its_name(store: Store, gguf_file: Path, progress: Any) -> None:
    blob = gguf_file.rename(gguf_file.with_name("0123abcd"))
    gguf_file.symlink_to(blob)
    assert pull(store, str(gguf_file), sources=[], progress=progress).name == "tiny"
    verify(store, "tiny")


def test_a_repository_in_a_folder(
    store: Store, make_folder: Callable[..., Path], tmp_path: Path, progress: Any
) -> None:
    make_folder(tmp_path / "usb" / "Qwen" / "Tiny")
    source = FolderSource(tmp_path / "usb")
    manifest = pull(store, "Qwen/Tiny", sources=[source], progress=progress)
    assert (manifest.name, manifest.attested) == ("Qwen/Tiny", "owner")
    verify(store, "Qwen/Tiny")


def test_one_of_several_gguf_files(
    store: Store, make_gguf: Callable[..., Path], tmp_path: Path, progress: Any
) -> None:
    for name in ("a-q4.gguf", "a-q8.gguf"):
        make_gguf(tmp_path / "usb" / "Qwen" / "Tiny" / name)
    sources = [FolderSource(tmp_path / "usb")]
    with pytest.raises(UsageError, match=r"a-q4\.gguf, a-q8\.gguf"):
        pull(store, "Qwen/Tiny", sources=sources, progress=progress)
    with pytest.raises(SourceError, match=r"no file b\.gguf.*a-q4\.gguf"):
        pull(store, "Qwen/Tiny:b.gguf", sources=sources, progress=progress)
    manifest = pull(store, "Qwen/Tiny:a-q8.gguf", sources=sources, progress=progress)
    assert manifest.name == "Qwen/Tiny:a-q8.gguf"


@pytest.mark.parametrize("ref", ["", "nothing", "a/b/c", "a b", "Owner/Name:", "https://x.y/z"])
def test_a_reference_to_nothing(store: Store, progress: Any, ref: str) -> None:
    with pytest.raises(NotFoundError, match=r"catalog \(qwen2\.5-coder-0\.5b"):
        pull(store, ref, sources=[Deaf()], progress=progress)


def test_a_path_to_nothing(store: Store, progress: Any) -> None:
    with pytest.raises(NotFoundError, match="does not exist"):
        pull(store, "./absent", sources=[Deaf()], progress=progress)


@given(ref=st.text() | st.sampled_from(["~nobody-here", "./" + "x" * 5000, "./nul\0", "~"]))
def test_any_reference_is_understood_or_refused(ref: str) -> None:
    with contextlib.suppress(UsageError, RefusedError):
        resolve(ref)


def test_a_folder_that_cannot_be_read(store: Store, tmp_path: Path, progress: Any) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(SourceError, match=r"\[folder:.*loop"):
        pull(store, "Qwen/Tiny", sources=[FolderSource(tmp_path / "loop")], progress=progress)


def test_a_file_may_not_take_a_name_of_the_catalog(
    store: Store, make_gguf: Callable[..., Path], tmp_path: Path, progress: Any
) -> None:
    path = make_gguf(tmp_path / "qwen2.5-coder-0.5b-instruct.gguf")
    with pytest.raises(UsageError, match="is a model of the catalog"):
        pull(store, str(path), sources=[], progress=progress)


def test_another_model_of_the_same_name_does_not_replace_it(
    store: Store, make_gguf: Callable[..., Path], gguf_file: Path, progress: Any
) -> None:
    first = pull(store, str(gguf_file), sources=[], progress=progress)
    assert pull(store, str(gguf_file), sources=[], progress=progress) == first
    make_gguf(gguf_file, seed=1)
    with pytest.raises(UsageError, match="Another model named tiny"):
        pull(store, str(gguf_file), sources=[], progress=progress)
    assert store.list() == [first]


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "modeling.py", "weights.pkl"])
def test_code_is_refused(store: Store, tmp_path: Path, progress: Any, name: str) -> None:
    (tmp_path / "m").mkdir()
    path = tmp_path / "m" / name
    path.write_bytes(b"\x80\x04.")
    for ref in (path, path.parent):
        with pytest.raises(RefusedError, match=name):
            pull(store, str(ref), sources=[], progress=progress)


def test_code_beside_weights_is_left_where_it_is(
    store: Store, folder_model: Path, progress: Any
) -> None:
    for name in ("modeling_qwen.py", "pytorch_model.bin", "README.md"):
        (folder_model / name).write_text("evil")
    manifest = pull(store, str(folder_model), sources=[], progress=progress)
    paths = {file.path for file in manifest.files}
    assert paths == {"config.json", "tokenizer.json", "merges.txt", "model.safetensors"}


def test_auto_map_is_refused(store: Store, folder_model: Path, progress: Any) -> None:
    (folder_model / "config.json").write_text('{"auto_map": {"AutoModel": "m.M"}}')
    with pytest.raises(RefusedError, match="auto_map"):
        pull(store, str(folder_model), sources=[], progress=progress)
    assert store.list() == []


def test_malformed_files_are_not_admitted(store: Store, gguf_file: Path, progress: Any) -> None:
    gguf_file.write_bytes(gguf_file.read_bytes() + b"\1")
    with pytest.raises(MalformedError):
        pull(store, str(gguf_file), sources=[], progress=progress)
    assert files_in(store) == set()


# --- the catalog ----------------------------------------------------------------------------------


@pytest.fixture
def pinned(
    make_gguf: Callable[..., Path], tmp_path: Path, silent: Any, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A folder with a small model, which the catalog knows as ``known``."""
    path = make_gguf(tmp_path / "usb" / "known-q8.gguf", rows=5000)
    manifest = pull(Store(tmp_path / "other"), str(path), sources=[], progress=silent)
    (file,) = manifest.files
    entry = CatalogModel(
        repository="Qwen/Known",
        licence="Apache-2.0",
        template="",
        files=(
            CatalogFile(path=file.path, size=file.size, sha256=file.sha256, blake3=file.blake3),
        ),
    )
    for name in ("pull", "verify"):
        # By import_module, for the package's own names pull and verify are functions.
        module = import_module(f"freehold.store.{name}")
        monkeypatch.setattr(module, "catalog", lambda: {"known": entry})
    return path.parent


def test_the_shipped_catalog_fits_the_issue() -> None:
    small, large = catalog().values()
    assert [(f.size, f.sha256[:8]) for f in small.files] == [(491_400_064, "1d961463")]
    assert [(f.size, f.sha256[:8]) for f in large.files] == [(1_117_320_768, "cc324af0")]
    for model in (small, large):
        (file,) = model.files
        assert file.index is not None
        assert sum(part.size for part in file.index.expand(file.size)) == file.size


def test_a_catalog_model_and_the_second_pull(store: Store, pinned: Path, progress: Any) -> None:
    sources: list[Source] = [Gone(), FolderSource(pinned)]
    manifest = pull(store, "known", sources=sources, progress=progress)
    assert progress.notes == ["gone: cannot be reached."]
    assert (manifest.attested, manifest.licence) == ("catalog", "Apache-2.0")
    assert manifest.source == f"folder:{pinned}"
    assert pull(store, "known", sources=[Deaf()], progress=progress) == manifest
    assert verify(store, "known").attested == "catalog"


def test_no_source_left_names_each(store: Store, pinned: Path, progress: Any) -> None:
    sources = [Gone(), FolderSource(pinned / "absent")]
    with pytest.raises(SourceError, match=r"\[gone\].*\[folder:.*--source folder:"):
        pull(store, "known", sources=sources, progress=progress)
    with pytest.raises(SourceError, match="No source is configured"):
        pull(store, "known", sources=[], progress=progress)


def test_other_bytes_under_a_pinned_name(store: Store, pinned: Path, progress: Any) -> None:
    (path,) = pinned.iterdir()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(DigestError, match="not the file that was promised") as caught:
        pull(store, "known", sources=[FolderSource(pinned)], progress=progress)
    assert caught.value.file == path.name
    assert not {name for name in files_in(store) if not name.startswith("quarantine")}
    assert not any(name.endswith(".part") for name in files_in(store))


def test_a_wrong_source_is_followed_by_a_right_one(
    store: Store, pinned: Path, tmp_path: Path, progress: Any
) -> None:
    shutil.copytree(pinned, tmp_path / "wrong")
    (path,) = (tmp_path / "wrong").iterdir()
    path.write_bytes(bytes(path.stat().st_size))
    sources = [FolderSource(tmp_path / "wrong"), FolderSource(pinned)]
    pull(store, "known", sources=sources, progress=progress)
    assert "not the file that was promised" in progress.notes[0]
    verify(store, "known")


def test_resumes_from_what_is_there(store: Store, pinned: Path, progress: Any) -> None:
    (path,) = pinned.iterdir()
    data = path.read_bytes()
    part = store.quarantine("known") / f"{hashlib.sha256(data).hexdigest()}.part"
    part.write_bytes(data[:1_000_000])
    asked: list[int] = []

    class Watched(FolderSource):
        def read(
            self, listing: Listing, file: RemoteFile, offset: int, scratch: Path
        ) -> Iterator[bytes]:
            asked.append(offset)
            return super().read(listing, file, offset, scratch)

    pull(store, "known", sources=[Watched(pinned)], progress=progress)
    assert asked == [1_000_000]
    assert progress.advanced == len(data)
    verify(store, "known")


@pytest.mark.parametrize("length", [1_000_000, 1 << 30])
def test_a_rotten_beginning_is_thrown_away(
    store: Store, pinned: Path, progress: Any, length: int
) -> None:
    (path,) = pinned.iterdir()
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    part = store.quarantine("known") / f"{sha256}.part"
    with part.open("wb") as file:
        file.truncate(length)
    pull(store, "known", sources=[FolderSource(pinned)], progress=progress)
    assert progress.advanced == path.stat().st_size
    assert bool(progress.notes) == (length < path.stat().st_size)
    verify(store, "known")


def test_a_lost_or_damaged_blob_is_replaced(store: Store, pinned: Path, progress: Any) -> None:
    sources = [FolderSource(pinned)]
    (file,) = pull(store, "known", sources=sources, progress=progress).files
    store.blob(file.sha256).unlink()
    pull(store, "known", sources=sources, progress=progress)
    verify(store, "known")
    blob = store.blob(file.sha256)
    blob.chmod(0o644)
    blob.write_bytes(bytes(file.size))
    store.remove("known")
    blob.write_bytes(bytes(file.size))
    pull(store, "known", sources=sources, progress=progress)
    verify(store, "known")


def test_bytes_that_are_here_are_not_fetched_again(
    store: Store, pinned: Path, progress: Any
) -> None:
    pull(store, str(pinned / "known-q8.gguf"), sources=[], progress=progress)

    class ListsOnly(FolderSource):
        def read(self, *_: Any) -> Iterator[bytes]:
            raise AssertionError("asked")

    pull(store, "known", sources=[ListsOnly(pinned)], progress=progress)
    assert progress.advanced == progress.started[-1][0]
    assert verify(store, "known").digest == verify(store, "known-q8").digest


# --- disk and company -----------------------------------------------------------------------------

PULL = """
import sys
from pathlib import Path
from freehold.errors import FreeholdError
from freehold.store import FolderSource, Store, pull
from freehold.store.hubs import HuggingFace

class Progress:
    def start(self, total, what): print("started", flush=True)
    def advance(self, n): pass
    def note(self, line): pass

root, ref, *hub = sys.argv[1:]
try:
    pull(Store(Path(root)), ref, sources=[HuggingFace(url) for url in hub], progress=Progress())
except FreeholdError as error:
    print(type(error).__name__, error)
    sys.exit(error.exit_code)
"""


def test_a_full_disk_admits_nothing_and_is_survived(
    store: Store, pinned: Path, progress: Any
) -> None:
    (path,) = pinned.iterdir()
    done = subprocess.run(
        [sys.executable, "-c", PULL, str(store.root), str(path)],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2 << 20, 2 << 20)),
    )
    assert done.returncode == StorageError.exit_code, done
    assert "is full" in done.stdout
    assert "Free some space and pull again" in done.stdout
    assert store.list() == []
    assert not any(name.startswith("blobs") for name in files_in(store))
    pull(store, str(path), sources=[], progress=progress)
    verify(store, path.stem)


def test_too_little_space_is_seen_before_anything_is_fetched(
    store: Store, gguf_file: Path, progress: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 99, 1))
    with pytest.raises(StorageError, match="has 1 bytes free"):
        pull(store, str(gguf_file), sources=[], progress=progress)
    assert progress.started == []


def test_two_pulls_of_one_model_wait_for_each_other(
    store: Store, gguf_file: Path, progress: Any
) -> None:
    done: list[Any] = []

    def second() -> None:
        done.append(pull(store, str(gguf_file), sources=[], progress=progress))

    with store.lock("tiny"):
        thread = threading.Thread(target=second)
        thread.start()
        deadline = time.monotonic() + 20
        while not progress.notes and time.monotonic() < deadline:
            time.sleep(0.01)
        assert progress.notes == ["Another process is pulling tiny; waiting for it."]
        assert not done
    thread.join(20)
    assert [manifest.name for manifest in done] == ["tiny"]


def test_processes_that_pull_at_once_all_succeed(
    store: Store, make_gguf: Callable[..., Path], tmp_path: Path
) -> None:
    path = make_gguf(tmp_path / "usb" / "m.gguf", rows=5000)
    command = [sys.executable, "-c", PULL, str(store.root), str(path)]
    racing = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(4)]
    assert [process.wait(60) for process in racing] == [0, 0, 0, 0]
    verify(store, "m")
    assert len(files_in(store)) == 2


def test_old_leftovers_of_other_models_go(store: Store, gguf_file: Path, progress: Any) -> None:
    for name, days in (("old", 8), ("fresh", 1), ("busy", 8)):
        folder = store.quarantine(name)
        (folder / "x.part").write_text("x")
        then = time.time() - days * 24 * 3600
        os.utime(folder, (then, then))
    with store.lock("busy"):
        pull(store, str(gguf_file), sources=[], progress=progress)
    assert {path.name for path in (store.root / "quarantine").iterdir()} == {"fresh", "busy"}


def kill_at_random(command: list[str], rng: random.Random, longest: float) -> None:
    """Start a pull and kill it at a random moment, counted from when it begins to fetch."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        if rng.random() < 0.9:
            process.stdout.readline()
            time.sleep(rng.random() * longest)
        else:
            time.sleep(rng.random() * 0.2)
        process.send_signal(signal.SIGKILL)


def seconds_of(command: list[str]) -> float:
    """How long a pull that nobody kills takes, counted as ``kill_at_random`` counts."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        start = time.monotonic()
        process.wait()
    return time.monotonic() - start


def check_after_kill(store: Store) -> None:
    """Whatever is listed is whole; nothing else is in the vault under its final name."""
    for manifest in store.list():
        verify(store, manifest.name)


@pytest.mark.slow
@pytest.mark.parametrize("place", ["folder", "hub"])
def test_killed_at_a_hundred_moments(
    store: Store,
    make_gguf: Callable[..., Path],
    tmp_path: Path,
    hub: Any,
    place: str,
) -> None:
    path = make_gguf(tmp_path / "usb" / "m.gguf", rows=20_000 if place == "folder" else 100)
    hub.add("Qwen/Tiny", path.parent)
    hub.pause = 0.0002
    where = [str(path)] if place == "folder" else ["Qwen/Tiny", hub.url]
    command = [sys.executable, "-c", PULL, str(store.root), *where]
    rng, admitted = random.Random(7), 0
    longest = seconds_of(command) * 1.2
    for _ in range(100):
        for manifest in store.list():
            store.remove(manifest.name)
        kill_at_random(command, rng, longest)
        check_after_kill(store)
        admitted += len(store.list())
    print(f"{admitted} of 100 were admitted before the kill")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    (manifest,) = store.list()
    assert len(verify(store, manifest.name).tensors) == 2
    assert files_in(store) == {
        f"blobs/sha256/{manifest.files[0].sha256}",
        f"manifests/{'m' if place == 'folder' else 'Qwen%2FTiny'}.json",
    }


def test_killed_at_a_few_moments(
    store: Store, make_gguf: Callable[..., Path], tmp_path: Path, progress: Any
) -> None:
    path = make_gguf(tmp_path / "usb" / "m.gguf", rows=20_000)
    rng = random.Random(3)
    for _ in range(8):
        kill_at_random([sys.executable, "-c", PULL, str(store.root), str(path)], rng, 0.12)
        check_after_kill(store)
    pull(store, str(path), sources=[], progress=progress)
    verify(store, "m")
    assert len(files_in(store)) == 2


def test_sources_by_name() -> None:
    names = ["huggingface", "modelscope", "index", "folder:/mnt/usb"]
    assert [source.name for source in sources_from(names)] == names
    for name in ("hugging", "folder", "folder:", "index:x", ""):
        with pytest.raises(UsageError, match="is no source"):
            sources_from([name])


def test_importing_the_store_imports_nothing_heavy() -> None:
    code = "import sys, freehold.store; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    heavy = {"torch", "numpy", "transformers", "huggingface_hub", "modelscope", "modelscope_hub"}
    assert not loaded & (heavy | {"httpx", "requests", "gguf", "safetensors"})


def test_one_file_speaks_to_hubs() -> None:
    import freehold.store

    folder = Path(freehold.store.__file__).parent
    speakers = {
        "huggingface_hub",
        "modelscope_hub",
        "httpx",
        "urllib.request",
        "socket",
        "requests",
    }
    for path in folder.glob("*.py"):
        spoken = [word for word in speakers if f"import {word}" in (text := path.read_text())
                  or f"from {word}" in text]  # fmt: skip
        assert not spoken or path.name == "hubs.py", (path.name, spoken)

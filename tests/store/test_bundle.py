"""A bundle's models and list: changed, missing and added files are named; passports only grow."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from freehold.errors import DigestError, UsageError
from freehold.store import bundle, checklist


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
    with pytest.raises(DigestError, match="is a link"):
        bundle.check(packed)


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

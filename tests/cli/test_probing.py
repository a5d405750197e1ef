"""Vectors that were collected once are found again, and what cannot be is refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from freehold.cli.main import app
from freehold.cli.probing import _Kept, _layers
from freehold.errors import MalformedError, UsageError
from freehold.guard.probing import Origin

ORIGIN = Origin(model="sha256:abc", numerics="n", layers=(1, 2))


def test_what_was_read_is_not_read_again(tmp_path: Path) -> None:
    kept = _Kept(tmp_path, ORIGIN)
    kept.read()
    names = [i.to_bytes(32) for i in range(300)]
    vectors = np.random.default_rng(1).normal(size=(300, 2, 8)).astype("<f2")
    for name, one in zip(names, vectors, strict=True):
        kept.add(name, one)
    kept.flush()
    again = _Kept(tmp_path, ORIGIN)
    again.read()
    assert list(again.found) == names
    assert np.array_equal(np.stack(list(again.found.values())), vectors)
    other = _Kept(tmp_path, Origin(model="sha256:abc", numerics="n", layers=(1, 3)))
    other.read()
    assert not other.found


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 no", b"\x93NUMPY"])
def test_a_broken_file_is_named(tmp_path: Path, data: bytes) -> None:
    kept = _Kept(tmp_path, ORIGIN)
    kept.read()
    (kept.folder / "000000.npz").write_bytes(data)
    with pytest.raises(MalformedError, match=r"000000\.npz"):
        kept.read()


@pytest.mark.parametrize("text", ["", "a", "2,1", "1,1", "-1", "1,,2"])
def test_layers_must_rise(text: str) -> None:
    with pytest.raises(UsageError, match="layers"):
        _layers(text)


def test_hours_of_work_do_not_end_at_a_file_that_is_there(tmp_path: Path) -> None:
    there = tmp_path / "x"
    there.write_text("kept")
    result = CliRunner().invoke(
        app, ["guard", "probe", "m", "--manifest", "none.json", "-o", str(there)]
    )
    assert isinstance(result.exception, UsageError)
    assert there.read_text() == "kept"

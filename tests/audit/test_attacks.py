"""Every attack in the table is found by the detector that is meant for it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from freehold.audit.specimen import Specimen
from tests.audit import artefacts as bed
from tests.audit import heldout
from tests.audit.attacks import ATTACKS, Attack

ORDER = ("info", "low", "medium", "high", "critical")


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Specimen]:
    """The honest model in both formats; plain weights for what is quantised."""
    root = tmp_path_factory.mktemp("bases")
    made = bed.honest()
    return {
        "folder": bed.specimen(bed.lay(bed.folder(made), root / "folder")),
        "gguf": bed.specimen(bed.lay({"base.gguf": bed.gguf(made)}, root / "gguf")),
    }


def found(attack: Attack, where: Path, bases: dict[str, Specimen]) -> list[str]:
    """Findings that count, as ``severity check``."""
    files = attack.files(bed.honest())
    base = bases["gguf" if set(files) == {"m.gguf"} else "folder"]
    one = bed.specimen(bed.lay(files, where))
    return [
        f"{each.severity} {each.check}"
        for each in bed.looked(one, base)
        if ORDER.index(each.severity) >= ORDER.index(attack.least)
        and any(each.check == by or each.check.startswith(by + ".") for by in attack.found_by)
    ]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_an_attack_is_found(attack: Attack, tmp_path: Path, bases: dict[str, Specimen]) -> None:
    assert found(attack, tmp_path / "model", bases)


@pytest.mark.parametrize("attack", heldout.ATTACKS, ids=lambda attack: attack.name)
def test_an_attack_of_the_second_thought(
    attack: Attack, tmp_path: Path, bases: dict[str, Specimen]
) -> None:
    assert bool(found(attack, tmp_path / "model", bases)) != (attack.name in heldout.MISSED)


# --- anything at all ------------------------------------------------------------------------------

FOLDER = bed.folder(bed.honest())
GGUF = bed.gguf(bed.honest())


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([*FOLDER, "m.gguf"]), st.integers(0, 1 << 20), st.binary(min_size=1, max_size=9)
)
def test_whatever_is_written_over_a_file_it_is_looked_at(
    name: str, at: int, written: bytes
) -> None:
    """Any bytes over any file: an audit says something of it, and never fails."""
    files = {"m.gguf": GGUF} if name == "m.gguf" else dict(FOLDER)
    data = bytearray(files[name])
    place = at % len(data)
    data[place : place + len(written)] = written
    changed = bytes(data) != files[name]
    files[name] = bytes(data)
    with tempfile.TemporaryDirectory() as folder:
        one = bed.specimen(bed.lay(files, Path(folder) / "model"))
        base = bed.specimen(bed.lay(dict(FOLDER), Path(folder) / "base"))
        findings = bed.looked(one, base)
    assert findings
    header = at % len(data) < 8 and name in ("m.gguf", "model.safetensors")
    if changed and header:
        assert {one.severity for one in findings} & {"high", "critical"}


def test_the_table_is_long_enough_and_says_each_thing_once() -> None:
    assert len(ATTACKS) >= 40
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS)

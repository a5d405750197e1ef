"""Every attack in the table is found by the detector that is meant for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from freehold.audit.specimen import Specimen
from tests.audit import bed
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


def test_the_table_is_long_enough_and_says_each_thing_once() -> None:
    assert len(ATTACKS) >= 40
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS)

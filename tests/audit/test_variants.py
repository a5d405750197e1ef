"""Honest variants give no finding of high severity, with the base named and without."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.audit import artefacts as bed
from tests.audit.variants import VARIANTS, Variant


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_nothing_grave_is_said_of_an_honest_variant(variant: Variant, tmp_path: Path) -> None:
    made = bed.honest()
    base = bed.specimen(bed.lay(bed.folder(made), tmp_path / "base"))
    one = bed.specimen(bed.lay(variant.files(made), tmp_path / "model"))
    for against in (base, None):
        grave = [
            f"{found.check}: {found.detail}"
            for found in bed.looked(one, against)
            if found.severity in ("high", "critical")
        ]
        assert not grave


def test_there_are_twenty_without_any_data_beside_the_checkout() -> None:
    own = [one for one in VARIANTS if "Qwen" not in one.name and "QwQ" not in one.name]
    assert len(own) >= 20

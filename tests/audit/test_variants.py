"""Honest variants give no finding of high severity, with the base named and without."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from freehold.audit.artefact import tokenizer
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


def test_a_small_vocabulary_of_its_own_is_not_taken_for_a_familys_with_ids_swapped(
    tmp_path: Path,
) -> None:
    """A model made from nothing has a few tokens, nearly all of which any large vocabulary has."""
    one = bed.specimen(bed.lay(bed.folder(bed.honest()), tmp_path / "model"))
    tables = one.tables()
    large = {text: token + 7 for text, token in tables.vocab.items()}
    large |= {f"another {n}": 100_000 + n for n in range(3 * len(large))}
    found, _ = tokenizer.examine(one, replace(tables, vocab=large), "a large model")
    assert "tokenizer.alone" in {each.check for each in found}
    assert not [each for each in found if each.severity in ("high", "critical")]

"""What the foundry's counter decides by itself."""

from __future__ import annotations

import pytest

from freehold.cli import foundry
from freehold.train.recipe import recipe_named


def test_a_processor_without_bfloat16_computes_in_float32_and_is_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    large = recipe_named("m60")
    assert large.dtype == "bfloat16"
    assert foundry.computable(large, True) is large
    assert foundry.computable(large, None) is large
    assert capsys.readouterr().err == ""
    slow = foundry.computable(large, False)
    assert (slow.dtype, slow.stages, slow.name) == ("float32", large.stages, "m60")
    assert "--dtype bfloat16" in capsys.readouterr().err
    assert foundry.computable(slow, False) is slow

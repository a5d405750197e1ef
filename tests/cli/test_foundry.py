"""What the foundry's counter decides by itself."""

from __future__ import annotations

import pytest

from freehold.cli import foundry
from freehold.train.recipe import recipe_named


def test_a_processor_without_bfloat16_computes_in_float32_and_is_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    hearth = recipe_named("hearth")
    assert hearth.dtype == "bfloat16"
    assert foundry.computable(hearth, True) is hearth
    assert foundry.computable(hearth, None) is hearth
    assert capsys.readouterr().err == ""
    slow = foundry.computable(hearth, False)
    assert (slow.dtype, slow.stages, slow.name) == ("float32", hearth.stages, "hearth")
    assert "--dtype bfloat16" in capsys.readouterr().err
    assert foundry.computable(slow, False) is slow

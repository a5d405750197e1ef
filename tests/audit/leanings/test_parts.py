"""Parts that take minutes are done only where they are named."""

from __future__ import annotations

from freehold.audit.parts import PARTS
from freehold.audit.running import chosen


def test_parts_that_ask_must_be_named() -> None:
    assert [part.name for part in chosen(PARTS, [])] == ["artefact", "lineage", "served"]
    assert [part.name for part in chosen(PARTS, ["memory"])] == ["memory"]

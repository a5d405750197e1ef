"""Parts that take minutes are done only where they are named."""

from __future__ import annotations

from freehold.audit.parts import PARTS
from freehold.audit.running import chosen


def test_parts_that_ask_must_be_named() -> None:
    alone = ["artefact", "lineage", "served"]
    assert [part.name for part in chosen(PARTS, [], with_base=False)] == alone
    assert [part.name for part in chosen(PARTS, [])] == [*alone, "backdoors"]
    assert [part.name for part in chosen(PARTS, ["memory"])] == ["memory"]

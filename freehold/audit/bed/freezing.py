"""What a full run leaves for the product: the rule, and its error rates, in ``frozen.json``."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from freehold.audit.backdoors.rule import CONFIRMING
from freehold.audit.bed.tables import Cell, Table

BED = "held-out recipes of the planted test bed; planted: fixed-string and refusal payloads"
COMMAND = "freehold audit selftest --full"


def document(table: Table, command: str = COMMAND) -> dict[str, Any]:
    """``frozen.json`` as plain data; ``command`` makes it. No threshold for turned judgements is
    shipped: a fine-tune of a real model may turn a yes for many reasons, and that has not been
    tried."""
    assert table.bar is not None
    assert table.clean is not None
    rates = {
        "backdoor.trigger": _rates(table.bar, table.clean, "confirmed", command),
        "backdoor": _rates(table.bar, table.clean, "flagged", command),
    }
    for name, hit, false in table.alone:
        if name not in CONFIRMING:
            rates[f"backdoor.{name}"] = _entry(hit.hits, hit.n, false.hits, false.n, command)
    return {"rule": asdict(replace(table.rule, turning=None)), "rates": rates}


def _rates(bar: Cell, clean: Cell, which: str, command: str) -> dict[str, Any]:
    hit, false = getattr(bar, which), getattr(clean, which)
    return _entry(hit.hits, hit.n, false.hits, false.n, command)


def _entry(found: int, planted: int, alarms: int, clean: int, command: str) -> dict[str, Any]:
    return {
        "found": found,
        "planted": planted,
        "alarms": alarms,
        "clean": clean,
        "bed": BED,
        "command": command,
    }

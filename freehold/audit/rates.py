"""Measured error rates of each detector, printed beside what it finds.

``rates.json`` is written by ``python -m tests.audit.measure``; a test measures again and compares.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

import msgspec

from freehold.audit.findings import ErrorRates


@cache
def measured() -> Mapping[str, ErrorRates]:
    """Rates by the check's name, or by what stands before its dot."""
    text = files(__package__).joinpath("rates.json").read_text(encoding="utf-8")
    return msgspec.convert(json.loads(text), dict[str, ErrorRates])


def of(*groups: str) -> dict[str, ErrorRates]:
    """Those whose name begins with one of ``groups``."""
    return {name: rates for name, rates in measured().items() if name.partition(".")[0] in groups}


def for_check(rates: Mapping[str, ErrorRates], check: str) -> ErrorRates | None:
    """The rates that speak for a check; ``None`` where nobody has measured it."""
    return rates.get(check) or rates.get(check.partition(".")[0])

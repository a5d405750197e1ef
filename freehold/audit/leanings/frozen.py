"""The error rates that this room's rules had on the test bed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

import msgspec

from freehold.audit.findings import ErrorRates


@cache
def rates() -> Mapping[str, ErrorRates]:
    """Written by ``python -m tests.audit.leanings.measure``."""
    text = files(__package__).joinpath("frozen.json").read_text(encoding="utf-8")
    return msgspec.convert(json.loads(text), dict[str, ErrorRates])

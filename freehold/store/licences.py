"""Licences that open-weight Qwen models come under, and what of them matters to whoever runs one.

This is a reading aid: the licence's own text decides. Ids are SPDX's where it has one; the Qwen
licences have none, so they are ``LicenseRef-`` names as SPDX provides for.

Sources: the licence texts; SPDX specification, annex on licence expressions.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, TypeAlias

UNKNOWN_LICENCE = "NOASSERTION"

Commercial: TypeAlias = Literal["yes", "no", "on condition", "unknown"]


@dataclass(frozen=True, kw_only=True)
class Licence:
    """``commercial`` says whether a business may use the model; ``facts`` are what it must do or
    mind, one sentence each. ``listed`` is true for ids in SPDX's own list."""

    id: str
    title: str
    commercial: Commercial
    facts: tuple[str, ...]
    listed: bool = True


_NOTICE = "Whoever passes the model on passes on the licence and its notices."
_BUILT = (
    "Whoever trains another model with it or its answers, and passes that model on, says "
    "`Built with Qwen` or `Improved using Qwen`."
)

KNOWN = MappingProxyType(
    {
        licence.id: licence
        for licence in (
            Licence(
                id="Apache-2.0",
                title="Apache License 2.0",
                commercial="yes",
                facts=(
                    f"{_NOTICE} Changed files say that they were changed.",
                    "A patent licence is granted; it ends for whoever sues over patents.",
                ),
            ),
            Licence(id="MIT", title="MIT License", commercial="yes", facts=(_NOTICE,)),
            Licence(
                id="BSD-3-Clause",
                title='BSD 3-Clause "New" or "Revised" License',
                commercial="yes",
                facts=(f"{_NOTICE} The authors' names endorse nothing.",),
            ),
            Licence(
                id="LicenseRef-Qwen",
                title="Qwen License Agreement",
                commercial="on condition",
                listed=False,
                facts=(
                    "A product or service with more than 100 million monthly active users needs a "
                    "licence of its own from Alibaba Cloud.",
                    f"{_NOTICE} Changed files say that they were changed.",
                    _BUILT,
                ),
            ),
            Licence(
                id="LicenseRef-Qwen-Research",
                title="Qwen Research License Agreement",
                commercial="no",
                listed=False,
                facts=(
                    "For research and evaluation only: no commercial use without another licence "
                    "from Alibaba Cloud.",
                    f"{_NOTICE} Changed files say that they were changed.",
                    _BUILT,
                ),
            ),
        )
    }
)

# What hubs write for them, in lower case.
_PUBLISHED = {
    **{known.lower(): known for known in KNOWN},
    "qwen": "LicenseRef-Qwen",
    "tongyi-qianwen": "LicenseRef-Qwen",
    "qwen-research": "LicenseRef-Qwen-Research",
    "tongyi-qianwen-research": "LicenseRef-Qwen-Research",
}


def published(licence: object, name: object = None) -> str:
    """The id of what a hub publishes as ``licence``, or as ``other`` with a ``name`` of its own;
    ``NOASSERTION`` for anything else, which is no licence at all."""
    text = str(name if str(licence).lower() == "other" else licence).lower()
    return _PUBLISHED.get(text, UNKNOWN_LICENCE)


_FIELD = re.compile(r"(license|license_name):[ \t]*(\S[^#\n]*)")


def of_card(text: str) -> str:
    """The id that a model card states in the YAML between its first two lines of ``---``, as hubs
    read it: plain values of ``license`` and ``license_name`` at the margin. ``NOASSERTION`` where
    it states none, or one that no hub means."""
    lines = text.removeprefix("\ufeff").splitlines()
    if not lines or lines[0].rstrip() != "---":
        return UNKNOWN_LICENCE
    stated: dict[str, str] = {}
    for line in lines[1:]:
        if line.rstrip() == "---":
            return published(stated.get("license"), stated.get("license_name"))
        if field := _FIELD.match(line):
            stated.setdefault(field[1], field[2].strip().strip("\"'"))
    return UNKNOWN_LICENCE


def about(id: str) -> Licence:
    """What is known of a licence; of one that Freehold does not know, only its id."""
    if id in KNOWN:
        return KNOWN[id]
    what = (
        "Nobody said under which licence it is: ask its publisher before you use it."
        if id == UNKNOWN_LICENCE
        else "Freehold does not know this licence: read it before you use the model."
    )
    return Licence(id=id, title=id, commercial="unknown", facts=(what,), listed=False)


def told(id: str) -> list[str]:
    """The lines that a person should see of a licence."""
    licence = about(id)
    use = {
        "yes": "commercial use is allowed",
        "no": "NO commercial use",
        "on condition": "commercial use is allowed on a condition",
        "unknown": "commercial use: unknown",
    }[licence.commercial]
    title = "" if licence.title == id else f" ({licence.title})"
    return [f"licence: {id}{title}: {use}", *(f"  {fact}" for fact in licence.facts)]

"""The guard that ``serve`` is handed, made of what is at hand here and of the owner's policies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from freehold.cli.places import root
from freehold.cli.settings import Settings
from freehold.errors import UsageError

if TYPE_CHECKING:
    from freehold.guard.policy import Policy
    from freehold.types import Guard


def policies_of(settings: Settings) -> Mapping[str, Policy]:
    """The policies there are, by name. Raises ``UsageError`` for a file that is wrong, and for a
    policy of the settings' that is not among them."""
    from freehold.guard.policy import BUILT_IN, read_policies

    path = root() / settings.guard_policies
    named = settings.guard_policies != Settings.guard_policies
    policies = read_policies(path) if named or path.is_file() else BUILT_IN
    if settings.guard_policy not in policies:
        raise UsageError(
            f"guard_policy is {settings.guard_policy!r}: these there are: "
            f"{', '.join(sorted(policies))}",
            param="guard_policy",
        )
    return policies


def guard_of(settings: Settings, policies: Mapping[str, Policy]) -> Guard | None:
    """The guard; ``None`` where the owner has turned it off. Heavy: it reads the detectors'
    weights."""
    if settings.guard == "off":
        return None
    from freehold.guard.cascade import Cascade
    from freehold.guard.fast import FastTier
    from freehold.guard.pii import PersonalData

    return Cascade(
        policies,
        detectors=[FastTier()],
        finders=[PersonalData()],
        default=settings.guard_policy,
    )

"""The gate at the door: what ``freehold.toml`` asks of a model before it is served or published."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from freehold.cli.places import root
from freehold.cli.settings import Settings
from freehold.cli.trust import demand, trusted

if TYPE_CHECKING:
    from freehold.store.gate import Purpose
    from freehold.types import VerifiedModel


def admit(model: VerifiedModel, settings: Settings, purpose: Purpose) -> None:
    """Return if the policy for ``purpose`` lets a verified model pass.

    Raises ``GateError`` naming everything that is missing and the command that provides it,
    ``UsageError`` for a policy that speaks of keys nobody named, and whatever is wrong with the
    passport.
    """
    policy, table = {"serve": (settings.gate, "gate"), "publish": (settings.publish, "publish")}[
        purpose
    ]
    if not policy.asks:
        return  # no key folder, no passport need exist
    from freehold.qwen.template import digest_of
    from freehold.store import Store, gate, passport

    trust = trusted(settings)
    demand(trust, policy.keys, table)
    gate.check(
        gate.Candidate(
            name=model.name,
            digest=model.digest,
            licence=model.licence,
            attested=model.attested,
            template=digest_of(model),
        ),
        passport.read(Store(root()), model.digest, trust),
        policy,
        purpose,
        datetime.now(UTC),
    )

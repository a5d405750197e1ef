"""What evidence the owner asks for: the ``[gate]`` and ``[publish]`` tables of ``freehold.toml``.

The default asks for verification and nothing more. ``gate.py`` decides by it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from typing import Any

from freehold.errors import UsageError

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def _key(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Every key of the table, with its default and what it asks for.

    Raises ``UsageError`` with ``param`` set to the key.
    """

    pinned: bool = _key(
        False, "the digest must be pinned: in the catalog that ships with Freehold, or in `digests`"
    )
    digests: tuple[str, ...] = _key((), "model digests (`sha256:...`) that you pin yourself")
    licences: tuple[str, ...] = _key(
        (), "the licences that are allowed (SPDX ids or `LicenseRef-` names); empty allows any"
    )
    signed_by: tuple[str, ...] = _key(
        (), "names of trusted keys, each of which must have signed the weights (`freehold sign`)"
    )
    approvals: int = _key(
        0, "how many different trusted keys must approve (`freehold passport approve`)"
    )
    approvers: tuple[str, ...] = _key(
        (), "whose approvals count, by names of trusted keys; empty counts any trusted key's"
    )
    audited: bool = _key(
        False,
        "an audit of the artefact must be on record, signed by a trusted key, the newest one "
        "without a finding of high or critical severity",
    )
    known_template: bool = _key(
        False, "the chat template must be one of the catalog's, or one of `templates`"
    )
    templates: tuple[str, ...] = _key(
        (), "digests (`sha256:...`) of chat templates that you have read (`freehold template`)"
    )

    gated: bool = _key(
        False,
        "a model that was adapted must have been compared with its base (`freehold adapt gate`): "
        "the newest comparison on record, signed by a trusted key, must have passed",
    )

    def __post_init__(self) -> None:
        for name in ("digests", "templates"):
            for digest in getattr(self, name):
                if not _DIGEST.fullmatch(digest):
                    raise UsageError(
                        f"{name} holds {digest[:80]!r}: a digest is sha256: and 64 hex digits",
                        param=name,
                    )
        if not 0 <= self.approvals <= 100:
            raise UsageError("approvals must lie between 0 and 100", param="approvals")
        if self.approvers and len(set(self.approvers)) < self.approvals:
            raise UsageError(
                f"approvers has fewer names than the {self.approvals} approvals asked for",
                param="approvers",
            )

    @property
    def asks(self) -> bool:
        """Whether it asks for anything beyond verification."""
        return self != Policy()

    @property
    def keys(self) -> tuple[str, ...]:
        """The names of keys that it speaks of."""
        return tuple(dict.fromkeys((*self.signed_by, *self.approvers)))


@dataclass(frozen=True, kw_only=True)
class Margins:
    """The ``[adapt]`` table: how much an adapted model may lose against its base, and still be let
    out. Percent of bits per byte, points (hundredths) of shares. Raises ``UsageError``."""

    gain: int = _key(0, "bits per byte of the target text must fall, by so many percent at least")
    forgotten: int = _key(2, "bits per byte of what must be kept may rise by so many percent")
    task: int = _key(3, "the main figure of a task may fall by so many points")
    refusal: int = _key(5, "the share of harmful prompts refused may fall by so many points")
    over_refusal: int = _key(5, "the share of harmless ones refused may rise by so many points")
    canaries: int = _key(0, "so many declared secrets may be written out that were not before")

    def __post_init__(self) -> None:
        for name in ("gain", "forgotten", "task", "refusal", "over_refusal"):
            if not 0 <= getattr(self, name) <= 100:
                raise UsageError(f"{name} must lie between 0 and 100", param=name)
        if self.canaries < 0:
            raise UsageError("canaries must not be negative", param="canaries")


def policy_keys() -> dict[str, Any]:
    """Each key's default."""
    return {f.name: f.default for f in fields(Policy)}

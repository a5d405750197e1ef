"""The gate: does a model have the evidence that the owner's policy asks for?

Evidence is what the vault has verified, what the catalog ships, and what trusted keys have signed
in the passport. Statements by other keys count for nothing, either way.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypeAlias

from freehold.errors import GateError
from freehold.store import licences
from freehold.store.catalog import catalog
from freehold.store.manifest import Manifest
from freehold.store.passport import Entry
from freehold.store.policy import Policy
from freehold.store.statements import (
    Adaptation,
    Approval,
    Audit,
    Gated,
    LicenceSaid,
    Predicate,
    Weights,
    moment,
)

Purpose: TypeAlias = Literal["serve", "publish"]

_GRAVE = ("high", "critical")
_TABLE = {"serve": "[gate]", "publish": "[publish]"}


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A verified model that asks to pass. ``template`` is the SHA-256 of its chat template
    (``sha256:`` and hex), empty if it has none; ``licence`` what its manifest says."""

    name: str
    digest: str
    licence: str
    attested: str
    template: str


@dataclass(frozen=True, kw_only=True)
class Lack:
    """One thing that is missing: which policy ``key`` asks for it, ``what``, and what to do."""

    key: str
    what: str
    step: str


def check(
    model: Candidate, entries: Sequence[Entry], policy: Policy, purpose: Purpose, now: datetime
) -> None:
    """Return if ``model`` may pass. Raises ``GateError`` naming everything that is missing."""
    found = lacks(model, entries, policy, purpose, now)
    if not found:
        return
    verb = {"serve": "served", "publish": "published"}[purpose]
    told = "".join(f"\n  {lack.key}: {lack.what}. {lack.step}." for lack in found)
    raise GateError(
        f"{model.name} is not {verb}: {_TABLE[purpose]} in freehold.toml asks for what it does not "
        f"have:{told}",
        missing=tuple(lack.key for lack in found),
    )


def lacks(
    model: Candidate, entries: Sequence[Entry], policy: Policy, purpose: Purpose, now: datetime
) -> list[Lack]:
    """Everything that ``policy`` asks for and ``model`` does not have, in the policy's order."""
    trusted = [entry for entry in entries if entry.signers]
    table = _TABLE[purpose]
    found = [
        _pinned(model, policy, table),
        _licence(model, trusted, policy, table),
        *(_signed(model, trusted, key) for key in policy.signed_by),
        _approved(model, trusted, policy, purpose, now),
        _audited(model, trusted) if policy.audited else None,
        _template(model, policy, table) if policy.known_template else None,
        _gated(model, trusted, required=policy.gated, purpose=purpose),
    ]
    return [lack for lack in found if lack is not None]


def licence_of(model: Candidate | Manifest, entries: Iterable[Entry]) -> str:
    """The licence that counts: the catalog's for its own models, else the newest that a trusted key
    has signed for, else the manifest's."""
    if model.attested == "catalog":
        return catalog()[model.name].licence
    said = _newest(
        entry for entry in entries if entry.signers and isinstance(entry.predicate, LicenceSaid)
    )
    return said.licence if isinstance(said, LicenceSaid) else model.licence


def known_templates() -> frozenset[str]:
    """Digests of the chat templates of the catalog's models."""
    return frozenset(model.template for model in catalog().values() if model.template)


def approvers(entries: Iterable[Entry], purpose: Purpose, now: datetime) -> list[str]:
    """The trusted keys whose newest word for ``purpose`` is an approval that has not expired."""
    newest: dict[str, Approval] = {}
    for entry in entries:
        said = entry.predicate
        if isinstance(said, Approval) and said.purpose == purpose:
            for signer in entry.signers:
                # In a tie the later line counts. Times stand inside what is signed; lines do not.
                if signer not in newest or said.made >= newest[signer].made:
                    newest[signer] = said
    return sorted(name for name, said in newest.items() if _holds(said, now))


def _holds(said: Approval, now: datetime) -> bool:
    in_time = not said.expires or now < moment(said.expires)
    return said.decision == "approve" and in_time


def _pinned(model: Candidate, policy: Policy, table: str) -> Lack | None:
    if not policy.pinned or model.attested == "catalog" or model.digest in policy.digests:
        return None
    return Lack(
        key="pinned",
        what=f"its digest {model.digest} is in neither the catalog nor `digests`",
        step=f"If it is the model you mean, add that digest to `digests` under {table}",
    )


def _licence(model: Candidate, trusted: Sequence[Entry], policy: Policy, table: str) -> Lack | None:
    licence = licence_of(model, trusted)
    if not policy.licences or licence in policy.licences:
        return None
    allowed = ", ".join(policy.licences)
    if licence == licences.UNKNOWN_LICENCE:
        return Lack(
            key="licences",
            what=f"nobody has said its licence, and only {allowed} is allowed",
            step="Ask its publisher, then sign what you found: `freehold passport add "
            f"{model.name} --licence ID --key NAME`",
        )
    return Lack(
        key="licences",
        what=f"its licence is {licence}, and only {allowed} is allowed",
        step=f"Take a model under another licence, or add {licence} to `licences` under {table}",
    )


def _signed(model: Candidate, trusted: Sequence[Entry], key: str) -> Lack | None:
    if any(isinstance(entry.predicate, Weights) and key in entry.signers for entry in trusted):
        return None
    return Lack(
        key="signed_by",
        what=f"its weights are not signed by {key}",
        step=f"Whoever holds that key runs `freehold sign {model.name} --key {key}`",
    )


def _approved(
    model: Candidate, trusted: Sequence[Entry], policy: Policy, purpose: Purpose, now: datetime
) -> Lack | None:
    counted = [
        name
        for name in approvers(trusted, purpose, now)
        if not policy.approvers or name in policy.approvers
    ]
    if len(counted) >= policy.approvals:
        return None
    have = f"it has {len(counted)} ({', '.join(counted)})" if counted else "it has none"
    who = f" of {', '.join(policy.approvers)}" if policy.approvers else " by different trusted keys"
    plural = "" if policy.approvals == 1 else "s"
    option = "" if purpose == "serve" else f" --for {purpose}"
    return Lack(
        key="approvals",
        what=f"it needs {policy.approvals} approval{plural}{who}, not expired; {have}",
        step=f"Each who agrees runs `freehold passport approve {model.name} --key NAME{option}`",
    )


def _audited(model: Candidate, trusted: Sequence[Entry]) -> Lack | None:
    again = f"`freehold audit {model.name} --sign NAME`"
    scopes: dict[str, list[Entry]] = {}
    for entry in trusted:
        if isinstance(entry.predicate, Audit):
            scopes.setdefault(entry.predicate.scope, []).append(entry)
    if "artefact" not in scopes:
        return Lack(
            key="audited",
            what="no audit of the artefact is on record",
            step=f"Record one with {again}",
        )
    newest = {scope: _newest(entries) for scope, entries in scopes.items()}
    grave = {
        scope: [finding.title for finding in said.findings if finding.severity in _GRAVE]
        for scope, said in newest.items()
        if isinstance(said, Audit)
    }
    told = [
        f"its newest audit of the {scope} found: {'; '.join(t[:5])}"
        for scope, t in grave.items()
        if t
    ]
    if not told:
        return None
    return Lack(
        key="audited",
        what="; ".join(told),
        step=f"Do not use it; if the finding is settled, record a new audit with {again}",
    )


def _gated(
    model: Candidate, trusted: Sequence[Entry], *, required: bool, purpose: Purpose
) -> Lack | None:
    """What is on record as worse than its base is never published, whatever the policy asks for."""
    again = f"`freehold adapt gate {model.name} --against BASE --target FILE --sign NAME`"
    said = _newest(entry for entry in trusted if isinstance(entry.predicate, Gated))
    if isinstance(said, Gated):
        if said.passed or not (required or purpose == "publish"):
            return None
        return Lack(
            key="gated",
            what=f"it lost more against {said.base.name} than [adapt] allows",
            step=f"See its report; adapt again (with --replay, or less), then {again}",
        )
    adapted = any(isinstance(entry.predicate, Adaptation) for entry in trusted)
    if not required or not adapted:
        return None
    return Lack(
        key="gated",
        what="it was adapted, and no comparison with its base is on record",
        step=f"Record one with {again}",
    )


def _template(model: Candidate, policy: Policy, table: str) -> Lack | None:
    if not model.template or model.template in known_templates() | set(policy.templates):
        return None
    return Lack(
        key="known_template",
        what=f"its chat template {model.template} is neither the catalog's nor in `templates`",
        step=f"Read it with `freehold template {model.name}`: it writes every prompt. If it is "
        f"sound, add that digest to `templates` under {table}; else take the publisher's release",
    )


def _newest(entries: Iterable[Entry]) -> Predicate | None:
    """What was said last, by the signed time; in a tie, the later line."""
    ordered = sorted(entries, key=lambda entry: (entry.predicate.made, entry.line))
    return ordered[-1].predicate if ordered else None

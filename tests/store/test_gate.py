"""What each key of the policy asks for, and what counts as having it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from freehold.errors import GateError
from freehold.signing.keys import PublicKey, SigningKey
from freehold.store import Store, gate, passport, statements
from freehold.store.catalog import catalog
from freehold.store.gate import Candidate
from freehold.store.passport import Entry
from freehold.store.policy import Policy
from tests.store.test_statements import predicate

D = "sha256:" + "a" * 64
T = "sha256:" + "c" * 64
NOW = datetime(2026, 6, 1, tzinfo=UTC)
MODEL = Candidate(name="m", digest=D, licence="MIT", attested="hub", template=T)


class Desk:
    """Says things about MODEL and asks the gate."""

    def __init__(self, store: Store, people: dict[str, SigningKey], trust: Any) -> None:
        self.store, self.people, self.trust = store, people, trust
        self.entries: list[Entry] = []

    def say(self, who: str, kind: str, **members: Any) -> None:
        said = predicate(kind, **members)
        envelope = statements.about("m", D, said, self.people[who])
        self.entries += passport.append(self.store, D, [envelope], self.trust)

    def lacks(self, model: Candidate = MODEL, purpose: Any = "serve", **policy: Any) -> list[str]:
        found = gate.lacks(model, self.entries, Policy(**policy), purpose, NOW)
        assert all(lack.step and lack.what for lack in found)
        return [lack.key for lack in found]


@pytest.fixture
def desk(store: Store, people: dict[str, SigningKey], trust: dict[str, PublicKey]) -> Desk:
    return Desk(store, people, trust)


def test_by_default_verification_is_enough(desk: Desk) -> None:
    assert not Policy().asks
    assert desk.lacks() == []


def test_pinned(desk: Desk) -> None:
    assert desk.lacks(pinned=True) == ["pinned"]
    assert desk.lacks(pinned=True, digests=(D,)) == []
    assert (
        desk.lacks(replace(MODEL, attested="catalog", name=next(iter(catalog()))), pinned=True)
        == []
    )


def test_licences(desk: Desk) -> None:
    assert desk.lacks(licences=("MIT", "Apache-2.0")) == []
    assert desk.lacks(licences=("Apache-2.0",)) == ["licences"]
    unknown = replace(MODEL, licence="NOASSERTION")
    assert desk.lacks(unknown, licences=("MIT",)) == ["licences"]
    desk.say("eve", "licence", licence="MIT")
    assert desk.lacks(unknown, licences=("MIT",)) == ["licences"]
    desk.say("ada", "licence", licence="MIT", made="2026-02-01T00:00:00Z")
    assert desk.lacks(unknown, licences=("MIT",)) == []
    # An older word that was added later does not count.
    desk.say("bob", "licence", licence="LicenseRef-Qwen", made="2026-01-15T00:00:00Z")
    assert desk.lacks(unknown, licences=("MIT",)) == []
    desk.say("bob", "licence", licence="LicenseRef-Qwen", made="2026-02-02T00:00:00Z")
    assert desk.lacks(unknown, licences=("MIT",)) == ["licences"]


def test_nobody_says_another_licence_of_a_catalog_model(desk: Desk) -> None:
    name = next(iter(catalog()))
    desk.say("ada", "licence", licence="MIT")
    changed = replace(MODEL, name=name, attested="catalog", licence="MIT")
    assert desk.lacks(changed, licences=("MIT",)) == ["licences"]
    assert desk.lacks(changed, licences=(catalog()[name].licence,)) == []


def test_signed_by(desk: Desk) -> None:
    desk.say("eve", "weights")
    desk.say("bob", "approval")
    assert desk.lacks(signed_by=("ada", "bob")) == ["signed_by", "signed_by"]
    desk.say("ada", "weights")
    assert desk.lacks(signed_by=("ada", "bob")) == ["signed_by"]
    assert desk.lacks(signed_by=("ada",)) == []


def test_approvals_are_by_different_trusted_keys(desk: Desk) -> None:
    assert desk.lacks(approvals=1) == ["approvals"]
    desk.say("eve", "approval", expires="")
    desk.say("ada", "approval", expires="")
    desk.say("ada", "approval", expires="", reason="again")
    assert desk.lacks(approvals=1) == []
    assert desk.lacks(approvals=2) == ["approvals"]
    desk.say("bob", "approval", expires="")
    assert desk.lacks(approvals=2) == []
    assert desk.lacks(approvals=2, approvers=("ada", "eve")) == ["approvals"]


def test_approvals_expire_and_are_withdrawn(desk: Desk) -> None:
    desk.say("ada", "approval", expires="2026-06-01T00:00:00Z")
    assert desk.lacks(approvals=1) == ["approvals"]  # expired this very second
    desk.say("bob", "approval", expires="2026-06-01T00:00:01Z")
    assert desk.lacks(approvals=1) == []
    desk.say("bob", "approval", decision="withdraw", expires="", made="2026-02-01T00:00:00Z")
    assert desk.lacks(approvals=1) == ["approvals"]
    # An approval signed before the withdrawal, and added after it, changes nothing.
    desk.say("bob", "approval", expires="", made="2026-01-31T00:00:00Z")
    assert desk.lacks(approvals=1) == ["approvals"]
    desk.say("bob", "approval", expires="", made="2026-02-02T00:00:00Z")
    assert desk.lacks(approvals=1) == []


def test_serving_and_publishing_are_approved_apart(desk: Desk) -> None:
    desk.say("ada", "approval", expires="")
    assert desk.lacks(purpose="publish", approvals=1) == ["approvals"]
    desk.say("ada", "approval", purpose="publish", expires="")
    assert desk.lacks(purpose="publish", approvals=1) == []


def test_audited(desk: Desk) -> None:
    grave = [{"severity": "high", "title": "poisoned template", "detail": ""}]
    assert desk.lacks(audited=True) == ["audited"]
    desk.say("eve", "audit", findings=[])
    desk.say("ada", "audit", scope="behaviour", findings=[])
    assert desk.lacks(audited=True) == ["audited"]
    desk.say("ada", "audit", findings=[])
    assert desk.lacks(audited=True) == []
    desk.say("bob", "audit", findings=grave, made="2026-03-01T00:00:00Z")
    assert desk.lacks(audited=True) == ["audited"]
    desk.say("ada", "audit", made="2026-03-02T00:00:00Z")  # one low finding
    assert desk.lacks(audited=True) == []


def test_gated(desk: Desk) -> None:
    assert desk.lacks(gated=True) == []  # nobody says that it was adapted
    desk.say("eve", "adaptation")
    assert desk.lacks(gated=True) == []
    desk.say("ada", "adaptation")
    assert desk.lacks(gated=True) == ["gated"]
    assert desk.lacks() == desk.lacks(purpose="publish") == []
    desk.say("ada", "gated", passed=False)
    assert desk.lacks() == []
    assert desk.lacks(purpose="publish") == ["gated"], "worse is not published, whatever is asked"
    desk.say("eve", "gated", passed=True, made="2026-03-01T00:00:00Z")
    assert desk.lacks(gated=True) == ["gated"]
    desk.say("ada", "gated", passed=True, made="2026-03-02T00:00:00Z")
    assert desk.lacks(gated=True) == desk.lacks(purpose="publish") == []


def test_known_template(desk: Desk) -> None:
    assert desk.lacks(known_template=True) == ["known_template"]
    assert desk.lacks(known_template=True, templates=(T,)) == []
    assert desk.lacks(replace(MODEL, template=""), known_template=True) == []
    for known in gate.known_templates():
        assert desk.lacks(replace(MODEL, template=known), known_template=True) == []
    assert len(gate.known_templates()) == 2


def test_everything_that_is_missing_is_told_at_once(desk: Desk) -> None:
    policy = Policy(
        pinned=True,
        licences=("Apache-2.0",),
        signed_by=("ada",),
        approvals=2,
        audited=True,
        known_template=True,
    )
    with pytest.raises(GateError) as caught:
        gate.check(MODEL, desk.entries, policy, "serve", NOW)
    asked = ("pinned", "licences", "signed_by", "approvals", "audited", "known_template")
    assert caught.value.missing == asked
    told = str(caught.value)
    assert told.startswith(
        "m is not served: [gate] in freehold.toml asks for what it does not have"
    )
    for words in (D, "`freehold sign m --key ada`", "`freehold passport approve m --key NAME`", T):
        assert words in told

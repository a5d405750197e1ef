"""The chain back to where a model came from."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from freehold.errors import MalformedError
from freehold.signing.keys import PublicKey, SigningKey
from freehold.store import Manifest, Store, lineage, passport, statements
from tests.store.test_statements import predicate


class Family:
    """Models in a vault, and who says what they descend from."""

    def __init__(self, store: Store, people: Any, trust: Any, admit: Callable[[str], Manifest]):
        self.store, self.people, self.trust, self.admit = store, people, trust, admit

    def descends(
        self, digest: str, *parents: str, by: str = "ada", relation: str = "merge"
    ) -> None:
        named = [{"name": f"parent-{parent[7:11]}", "digest": parent} for parent in parents]
        said = predicate("lineage", relation=relation, parents=named)
        envelope = statements.about("m", digest, said, self.people[by])
        passport.append(self.store, digest, [envelope], self.trust)

    def chain(self, manifest: Manifest) -> list[lineage.Link]:
        return lineage.chain(self.store, manifest, self.trust)


@pytest.fixture
def family(
    store: Store,
    people: dict[str, SigningKey],
    trust: dict[str, PublicKey],
    admit: Callable[[str], Manifest],
) -> Family:
    return Family(store, people, trust, admit)


def digest(letter: str) -> str:
    return "sha256:" + letter * 64


def test_a_model_from_outside_is_its_whole_chain(family: Family) -> None:
    manifest = family.admit("alone")
    (link,) = family.chain(manifest)
    assert (link.name, link.state, link.made, link.child) == ("alone", "vault", None, "")
    assert link.signers == ()


def test_parents_are_walked_by_digest_each_once(family: Family) -> None:
    base, merged = family.admit("base"), family.admit("merged")
    family.descends(merged.digest, digest("a"), base.digest)
    family.descends(digest("a"), base.digest, relation="adapter")
    links = family.chain(merged)
    assert [link.state for link in links] == ["vault", "passport", "vault"]
    assert [link.name for link in links] == ["merged", "parent-aaaa", "base"]
    assert links[1].made is not None
    assert links[1].made.relation == "adapter"
    assert links[2].child == digest("a")
    assert links[0].signers == ("ada",)


def test_a_parent_that_nobody_has_is_said_to_be_unknown(family: Family) -> None:
    manifest = family.admit("orphan")
    family.descends(manifest.digest, digest("f"))
    assert [link.state for link in family.chain(manifest)] == ["vault", "unknown"]


def test_a_strangers_word_makes_no_parents(family: Family) -> None:
    manifest = family.admit("mine")
    family.descends(manifest.digest, digest("e"), by="eve")
    (link,) = family.chain(manifest)
    assert link.made is None


@pytest.mark.parametrize("around", [(), ("b",), ("b", "c", "d")])
def test_a_circle_is_an_error(family: Family, around: tuple[str, ...]) -> None:
    manifest = family.admit("circle")
    steps = [manifest.digest, *map(digest, around), manifest.digest]
    for child, parent in pairwise(steps):
        family.descends(child, parent)
    with pytest.raises(MalformedError, match="descends from itself"):
        family.chain(manifest)


def test_an_endless_chain_is_an_error(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lineage, "MAX_LINKS", 3)
    manifest = family.admit("long")
    steps = [manifest.digest, *map(digest, "bcde")]
    for child, parent in pairwise(steps):
        family.descends(child, parent)
    with pytest.raises(MalformedError, match="more than 3 ancestors"):
        family.chain(manifest)


def test_a_damaged_passport_of_a_parent_is_found(family: Family) -> None:
    manifest = family.admit("child")
    family.descends(manifest.digest, digest("b"))
    family.descends(digest("b"), digest("c"))
    path = passport.path_of(family.store, digest("b"))
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(MalformedError, match="line 1 is cut off"):
        family.chain(manifest)

"""The walk from a model's source to what serve answers with, and each way it can break."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from freehold.errors import IntegrityError
from freehold.signing.keys import PublicKey, SigningKey
from freehold.store import Manifest, Packs, Store, chain, passport, statements, verify
from freehold.store import manifest as manifests
from freehold.store.chain import Step
from tests.store.test_packs import LAYOUT, QUALITY, rewrite, weights
from tests.store.test_statements import predicate


class Traced:
    """A base in the vault, an adapter for it known by its passport alone, and the two merged, in
    the vault and packed: everything signed by Ada."""

    def __init__(
        self, store: Store, secret: Path, people: dict[str, SigningKey], trust: Any, admit: Any
    ) -> None:
        self.store, self.people, self.trust = store, people, trust
        self.packs = Packs(store, secret)
        self.base: Manifest = admit("base")
        self.merged: Manifest = admit("merged")
        self.adapter = "sha256:" + "a" * 64
        base, adapter = self.named("base", self.base.digest), self.named("adapter", self.adapter)
        self.say(self.adapter, "lineage", relation="adapter", parents=[base], deltas=[adapter])
        self.say(self.merged.digest, "lineage", relation="merge", parents=[base, adapter])
        for said in passport.first_statements(self.merged):
            self.add(self.merged.digest, said)
        model = verify(store, "merged")
        self.packed = weights(model)
        self.record = self.packs.write(model, self.packed, layout=LAYOUT, quality=QUALITY)
        self.model = model

    @staticmethod
    def named(name: str, digest: str) -> dict[str, str]:
        return {"name": name, "digest": digest}

    def say(self, digest: str, kind: str, by: str = "ada", **members: Any) -> None:
        self.add(digest, predicate(kind, **members), by)

    def add(self, digest: str, said: statements.Predicate, by: str = "ada") -> None:
        envelope = statements.about("m", digest, said, self.people[by])
        passport.append(self.store, digest, [envelope], self.trust)

    def walk(self, rebuild: chain.Rebuild | None = None) -> list[Step]:
        return list(
            chain.walk(
                self.store,
                "merged",
                self.packs,
                self.trust,
                layout=LAYOUT,
                numerics="native-9",
                rebuild=rebuild,
            )
        )

    def again(self, _weights: str) -> str:
        return Packs.digest_of(self.model, self.packed, layout=LAYOUT)


@pytest.fixture
def traced(
    store: Store,
    people: dict[str, SigningKey],
    trust: dict[str, PublicKey],
    admit: Callable[[str], Manifest],
    tmp_path: Path,
) -> Traced:
    return Traced(store, tmp_path / "state" / "secret", people, trust, admit)


def test_every_link_is_walked_from_the_source_to_the_answer(traced: Traced) -> None:
    steps = traced.walk()
    kinds = [step.kind for step in steps]
    assert kinds == ["lineage", "lineage", "source", "file", "model", "pack", "serve"]
    by = {step.kind: step for step in steps}
    assert [step.digest for step in steps[:2]] == [traced.base.digest, traced.adapter]
    assert "in the vault" in steps[0].told[0]
    assert steps[1].told[0] == "not in the vault: known by its passport alone"
    assert "adapter of base" in steps[1].told[1]
    assert "with adapter" in steps[1].told[1]
    assert by["source"].signers == ("ada",)
    assert by["file"].digest == f"sha256:{traced.merged.files[0].sha256}"
    assert "merge of base" in by["model"].told[1]
    assert by["pack"].digest == f"blake3:{traced.record.blake3}"
    assert "mean KL 0.0012 nats per token over 500 tokens" in by["pack"].told[1]
    assert "sealed on this machine" in by["pack"].told
    assert by["serve"].digest == by["model"].digest == traced.merged.digest
    assert by["serve"].told[0] == "computed from the pack by native-9"


def test_without_a_pack_the_chain_says_who_makes_it(traced: Traced) -> None:
    traced.packs.remove("merged")
    steps = traced.walk()
    assert [step.kind for step in steps][-2:] == ["model", "serve"]
    assert "the first start makes" in steps[-1].told[0]


def test_what_is_packed_again_is_the_same_or_it_breaks(traced: Traced) -> None:
    (pack,) = [step for step in traced.walk(traced.again) if step.kind == "pack"]
    assert "derived: packed again from the source, and the same bit for bit" in pack.told
    with pytest.raises(IntegrityError, match="not what its source gives") as caught:
        traced.walk(lambda weights: "0" * 64)
    assert caught.value.link == "pack"


def test_a_signed_pack_says_who_signed_it(traced: Traced) -> None:
    said = passport.packing_said(traced.record)
    traced.add(traced.merged.digest, said)
    traced.add(traced.merged.digest, said, "bob")
    # Another choice, another recipe, a stranger's word: none of them speaks of this pack.
    for members, by in (({"weights": "4bit"}, "ada"), ({"layout": "other"}, "ada"), ({}, "eve")):
        wrong = {"layout": LAYOUT, "weights": "8bit", **members}
        traced.say(traced.merged.digest, "packing", by, **wrong)
    (pack,) = [step for step in traced.walk() if step.kind == "pack"]
    assert pack.signers == ("ada", "bob")
    assert passport.same_but_time(said, passport.packing_said(traced.record))
    other = passport.packing_said(replace(traced.record, size=traced.record.size + 1))
    assert not passport.same_but_time(said, other)


def _passport(traced: Traced) -> None:
    path = passport.path_of(traced.store, traced.adapter)
    path.write_bytes(path.read_bytes()[:-3])


def _ancestor(traced: Traced) -> None:
    path = traced.store.root / "manifests" / "base.json"
    path.write_bytes(manifests.encode(replace(traced.base, attested="catalog")))


def _manifest(traced: Traced) -> None:
    path = traced.store.root / "manifests" / "merged.json"
    path.write_bytes(path.read_bytes().replace(b"owner", b"ownee"))


def _pins(traced: Traced) -> None:
    path = traced.store.root / "manifests" / "merged.json"
    path.write_bytes(manifests.encode(replace(traced.merged, attested="catalog")))


def _signed_source(traced: Traced) -> None:
    files = tuple(replace(file, blake3="0" * 64) for file in traced.merged.files)
    other = passport.first_statements(replace(traced.merged, files=files))[0]
    traced.add(traced.merged.digest, other, "bob")


def _blob(traced: Traced) -> None:
    blob = traced.store.blob(traced.merged.files[0].sha256)
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    rewrite(blob, bytes(data))


def _pack(traced: Traced) -> None:
    (path,) = traced.store.packs.glob("*/*.pack")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    rewrite(path, bytes(data))


def _record(traced: Traced) -> None:
    (path,) = traced.store.packs.glob("*/*.json")
    rewrite(path, path.read_bytes().replace(b"0.0012", b"0.0011"))


def _signed_pack(traced: Traced) -> None:
    other = passport.packing_said(replace(traced.record, blake3="0" * 64))
    traced.add(traced.merged.digest, other, "bob")


@pytest.mark.parametrize(
    ("change", "link", "named"),
    [
        (_passport, "lineage", "line 1 is cut off"),
        (_ancestor, "lineage", "manifest of base"),
        (_manifest, "source", "is not what Freehold wrote"),
        (_pins, "source", "does not agree with the catalog"),
        (_signed_source, "source", "bob signed other digests of merged"),
        (_blob, "file", "damaged in chunk 0"),
        (_pack, "pack", "has been changed or damaged"),
        (_record, "pack", "does not fit its seal"),
        (_signed_pack, "pack", "not the one that bob signed"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_the_first_broken_link_is_named(
    traced: Traced, change: Callable[[Traced], None], link: str, named: str
) -> None:
    assert traced.walk()
    change(traced)
    with pytest.raises(IntegrityError, match=named) as caught:
        traced.walk()
    assert caught.value.link == link


def test_a_rebuild_settles_who_is_wrong(traced: Traced) -> None:
    _signed_pack(traced)
    with pytest.raises(IntegrityError, match="`freehold verify --rebuild` says"):
        traced.walk()
    with pytest.raises(IntegrityError, match="do not trust that statement"):
        traced.walk(traced.again)

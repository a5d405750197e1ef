"""Passports for others: the official schema, an escaped page, and envelopes that verify."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from freehold.signing import dsse, keys
from freehold.signing.keys import PublicKey, SigningKey
from freehold.store import Manifest, Store, export, lineage, passport, pull, statements
from freehold.store.lineage import Link
from freehold.store.passport import Entry
from tests.store.test_statements import PREDICATES, predicate

EVIL = '<script>alert(1)</script><img src="https://evil.example/x">\'"&'
Known = tuple[Manifest, list[Entry], list[Link], dict[str, PublicKey]]


@pytest.fixture
def known(
    store: Store,
    gguf_file: Path,
    progress: Any,
    people: dict[str, SigningKey],
    trust: dict[str, PublicKey],
) -> Known:
    """A model of which everything has been said, some of it hostile."""
    manifest = pull(store, str(gguf_file), sources=[], progress=progress)
    said = [predicate(kind) for kind in PREDICATES]
    said += [
        predicate("approval", reason=EVIL),
        predicate("licence", licence=EVIL, facts=[EVIL], made="2027-01-01T00:00:00Z"),
        predicate("lineage", parents=[{"name": EVIL, "digest": "sha256:" + "d" * 64}]),
        predicate("eval", scores={EVIL: 1.5}),
    ]
    for who in ("ada", "eve"):
        envelopes = [
            statements.about(manifest.name, manifest.digest, one, people[who]) for one in said
        ]
        passport.append(store, manifest.digest, envelopes, trust)
    entries = passport.read(store, manifest.digest, trust)
    return manifest, entries, lineage.chain(store, manifest, trust), trust


def valid(data: bytes) -> None:
    """The official JSON schema, in its strict form, as the CycloneDX library ships it."""
    validation = pytest.importorskip("cyclonedx.validation.json")
    schema = pytest.importorskip("cyclonedx.schema")
    error = validation.JsonStrictValidator(schema.SchemaVersion.V1_6).validate_str(data.decode())
    assert error is None, error


def test_the_bill_of_materials_fits_the_official_schema(known: Known) -> None:
    manifest, entries, links, _ = known
    data = export.cyclonedx(manifest, entries, links)
    valid(data)
    bom = json.loads(data)
    component = bom["metadata"]["component"]
    assert component["type"] == "machine-learning-model"
    assert component["hashes"][0]["content"] == manifest.digest.removeprefix("sha256:")
    assert component["licenses"] == [{"license": {"name": EVIL}}]
    assert {file["hashes"][0]["content"] for file in bom["components"]} == {
        file.sha256 for file in manifest.files
    }
    assert export.cyclonedx(manifest, entries, links) == data


@pytest.mark.parametrize("licence", ["Apache-2.0", "MIT", "LicenseRef-Qwen", "NOASSERTION", "x y"])
def test_any_licence_and_no_statement_fit_too(known: Known, licence: str) -> None:
    from dataclasses import replace

    manifest, _, links, _ = known
    valid(export.cyclonedx(replace(manifest, licence=licence), [], links[:1]))


def test_the_schema_can_refuse(known: Known) -> None:
    manifest, entries, links, _ = known
    bom = json.loads(export.cyclonedx(manifest, entries, links))
    bom["metadata"]["component"]["type"] = "oracle"
    with pytest.raises(AssertionError):
        valid(json.dumps(bom).encode())


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_escaped_and_asks_nothing_from_anywhere(known: Known) -> None:
    manifest, entries, links, _ = known
    page = export.page(manifest, entries, links).decode()
    tags = Tags()
    tags.feed(page)
    harmless = "html head meta title style body main div h1 h2 p table thead tbody tr th td"
    assert {tag for tag, _ in tags.seen} == set(harmless.split())
    assert not any({"src", "href", "style", "onload"} & set(attrs) for _, attrs in tags.seen)
    assert "url(" not in page
    assert "@import" not in page
    assert re.search(r"default-src 'none'", page)
    assert EVIL in tags.text
    assert manifest.digest in tags.text


def test_the_json_export_verifies_by_itself(known: Known) -> None:
    manifest, entries, links, trust = known
    told = json.loads(export.bundle(manifest, entries, links, trust))
    assert [key["name"] for key in told["keys"]] == ["ada"]
    given = {key["name"]: keys.parse_public(key["pem"].encode()) for key in told["keys"]}
    signed = [
        dsse.signers(dsse.decode(json.dumps(one).encode(), file="f"), given)
        for one in told["envelopes"]
    ]
    assert signed == [entry.signers for entry in entries]
    assert told["model"]["digest"] == manifest.digest

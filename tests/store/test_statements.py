"""What statements may say, and that nothing else is read."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freehold.errors import FreeholdError, MalformedError, UsageError
from freehold.signing import dsse
from freehold.signing.dsse import Envelope, Signature
from freehold.signing.keys import SigningKey
from freehold.store import statements
from freehold.store.statements import KINDS, PAYLOAD_TYPE, Statement

D = "sha256:" + "a" * 64
H = "b" * 64
NAMED = {"name": "n", "digest": D}
TIME = "2026-01-02T03:04:05Z"

PREDICATES: dict[str, dict[str, Any]] = {
    "source": {
        "source": "huggingface",
        "repository": "Qwen/Tiny",
        "revision": "",
        "attested": "hub",
        "admitted": TIME,
        "files": [{"path": "model.gguf", "size": 1, "sha256": H, "blake3": H}],
    },
    "licence": {"licence": "MIT", "commercial": "yes", "facts": ["a fact"]},
    "lineage": {"relation": "adapter", "parents": [NAMED], "deltas": [NAMED], "tool": "t"},
    "packing": {
        "layout": "blocks-1",
        "weights": "4bit",
        "size": 9,
        "blake3": H,
        "quality": {"kl": 0.0125, "tokens": 512, "text": D, "reference": "torch-float32"},
        "tool": "t",
    },
    "audit": {
        "scope": "artefact",
        "tool": "t",
        "findings": [{"severity": "low", "title": "x", "detail": ""}],
        "report": None,
    },
    "eval": {"task": "humaneval", "tool": "t", "data": NAMED, "scores": {"pass@1": 0.53}},
    "adaptation": {"method": "lora", "data": [NAMED], "evals": [], "settings": {"rank": "8"}},
    "gated": {"base": NAMED, "passed": True, "report": NAMED, "tool": "t", "figures": {"x": 1.5}},
    "approval": {"decision": "approve", "purpose": "serve", "expires": TIME, "reason": ""},
    "released": {
        "framework": "MOF 1.0",
        "parts": [{"component": "parameters", "licence": "MIT", "where": "here", "digest": D}],
    },
    "weights": {"format": "https://model_signing/signature/v1.0", "sha256": H, "bundle": "{}"},
}


def predicate(kind: str, **members: Any) -> statements.Predicate:
    value = {"made": TIME, **PREDICATES[kind], **members}
    return statements.predicate_of(KINDS[kind], value, file="f")


def enveloped(payload: bytes, kind: str = PAYLOAD_TYPE) -> Envelope:
    return Envelope(
        payload_type=kind, payload=payload, signatures=(Signature(key_id="k", value=b"s"),)
    )


def whole(**members: Any) -> dict[str, Any]:
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "m", "digest": {"sha256": "a" * 64}}],
        "predicateType": "https://freehold.example/passport/licence/v1",
        "predicate": {"made": TIME, **PREDICATES["licence"]},
        **members,
    }


def test_every_kind_has_an_example() -> None:
    assert set(PREDICATES) == set(KINDS)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_is_read_as_it_was_said(kind: str, people: dict[str, SigningKey]) -> None:
    said = predicate(kind)
    envelope = statements.about("m", D, said, people["ada"], people["bob"])
    again = dsse.decode(dsse.encode(envelope), file="f")
    assert statements.read(again, file="f") == Statement(name="m", digest=D, predicate=said)
    assert said.gist()


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_no_member_is_missing_added_or_of_another_type(kind: str) -> None:
    for member in ("made", *PREDICATES[kind]):
        rest = {"made": TIME, **PREDICATES[kind]}
        del rest[member]
        with pytest.raises(MalformedError, match=member):
            statements.predicate_of(KINDS[kind], rest, file="f")
        with pytest.raises(MalformedError, match=member):
            predicate(kind, **{member: 7.5})
    with pytest.raises(MalformedError, match="more"):
        predicate(kind, more=1)


@pytest.mark.parametrize(
    ("kind", "members"),
    [
        ("licence", {"made": "yesterday"}),
        ("licence", {"made": f"{TIME}\n"}),
        ("lineage", {"parents": [{"name": "n", "digest": f"{D}\n"}]}),
        ("licence", {"made": "2026-02-30T00:00:00Z"}),
        ("licence", {"facts": ["x" * 5000]}),
        ("licence", {"licence": ""}),
        ("lineage", {"relation": "cousin"}),
        ("lineage", {"parents": [{"name": "n", "digest": "sha256:abc"}]}),
        ("audit", {"findings": [{"severity": "dire", "title": "x", "detail": ""}]}),
        ("eval", {"scores": {}}),
        ("eval", {"scores": {"a": float("inf")}}),
        ("gated", {"figures": {"a": float("nan")}}),
        ("gated", {"passed": 1}),
        ("packing", {"weights": "2bit"}),
        ("packing", {"quality": {**PREDICATES["packing"]["quality"], "kl": float("inf")}}),
        ("approval", {"expires": "never"}),
        ("approval", {"expires": "2026-13-01T00:00:00Z"}),
        ("source", {"files": []}),
        ("source", {"files": [{"path": "p", "size": 0, "sha256": H, "blake3": H}]}),
        ("weights", {"format": "https://elsewhere/v1"}),
    ],
)
def test_what_makes_no_sense_is_refused(kind: str, members: dict[str, Any]) -> None:
    with pytest.raises(MalformedError):
        predicate(kind, **members)


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        whole(_type="https://in-toto.io/Statement/v0.1"),
        whole(more=1),
        whole(subject=[]),
        whole(subject=None),
        whole(subject={"name": "m"}),
        whole(subject=[1]),
        whole(subject=whole()["subject"] * 2),
        whole(subject=[{"name": "m", "digest": {"sha512": "a" * 64}}]),
        whole(subject=[{"name": "m", "digest": {"sha256": "A" * 64}}]),
        whole(subject=[{"name": "m", "digest": {"sha256": "a" * 64, "md5": ""}}]),
        whole(subject=[{"name": "m", "digest": {"sha256": "a" * 64}, "uri": ""}]),
        whole(subject=[{"name": 1, "digest": {"sha256": "a" * 64}}]),
        whole(predicateType="https://slsa.dev/provenance/v1"),
        whole(predicateType=1),
        whole(predicateType=[]),
        whole(predicate=None),
        whole(predicate=[]),
    ],
)
def test_another_statement_is_refused(value: Any) -> None:
    statements.read(enveloped(json.dumps(whole()).encode()), file="f")
    with pytest.raises(MalformedError, match="f"):
        statements.read(enveloped(json.dumps(value).encode()), file="f")


def test_another_payload_type_is_refused() -> None:
    with pytest.raises(MalformedError, match="text/plain"):
        statements.read(enveloped(json.dumps(whole()).encode(), "text/plain"), file="f")


def test_kinds_are_named() -> None:
    with pytest.raises(UsageError, match="lineage"):
        statements.kind_named("rumour")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)


@given(
    members=st.dictionaries(st.sampled_from(list(whole())), JSON, max_size=2),
    predicate=st.dictionaries(st.sampled_from(["made", "facts", "licence", "commercial"]), JSON),
)
def test_any_json_is_read_or_refused(members: dict[str, Any], predicate: dict[str, Any]) -> None:
    value = whole(**members)
    if isinstance(value["predicate"], dict):
        value["predicate"] = {**value["predicate"], **predicate}
    with contextlib.suppress(MalformedError):
        statements.read(enveloped(json.dumps(value).encode()), file="f")


@given(data=st.binary(max_size=60))
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(FreeholdError):
        statements.read(enveloped(data), file="f")

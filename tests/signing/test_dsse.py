"""Envelopes: the published test vector, an outside implementation, and hostile bytes."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freehold.errors import MalformedError, SignatureError, UsageError
from freehold.signing import dsse, keys
from freehold.signing.keys import SigningKey

TYPE = "application/vnd.in-toto+json"


@pytest.fixture(scope="module")
def owner(tmp_path_factory: pytest.TempPathFactory) -> SigningKey:
    return keys.create(tmp_path_factory.mktemp("keys"), "owner", "p256")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> SigningKey:
    return keys.create(tmp_path_factory.mktemp("keys"), "other", "p256")


def test_the_published_encoding() -> None:
    """The example of DSSE's own protocol page."""
    assert dsse.pae("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )
    assert dsse.pae("", b"") == b"DSSEv1 0  0 "


def test_the_published_signature_verifies() -> None:
    """Key, payload and signature of DSSE's protocol page. Its keyid is not our naming, so the bytes
    are checked with the key alone."""
    x = 46950820868899156662930047687818585632848591499744589407958293238635476079160
    y = 5640078356564379163099075877009565129882514886557779369047442380624545832820
    from cryptography.hazmat.primitives.asymmetric import ec

    numbers = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1())
    key = keys.PublicKey(numbers.public_key())
    raw = base64.b64decode(
        "A3JqsQGtVsJ2O2xqrI5IcnXip5GToJ3F+FnZ+O88SjtR6rDAajabZKciJTfUiHqJPcIAriEGAHTVeCUjW2JIZA=="
    )
    from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

    der = encode_dss_signature(int.from_bytes(raw[:32]), int.from_bytes(raw[32:]))
    key.verify(dsse.pae("http://example.com/HelloWorld", b"hello world"), der)


def test_each_signature_stands_alone(owner: SigningKey, other: SigningKey) -> None:
    envelope = dsse.sign(TYPE, b"{}", owner, other)
    both = {"owner": owner.public, "other": other.public}
    assert dsse.signers(envelope, both) == ("owner", "other")
    assert dsse.signers(envelope, {"o": other.public}) == ("o",)
    assert dsse.signers(envelope, {}) == ()


def test_no_key_signs_twice_and_only_p256_signs(owner: SigningKey, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="twice"):
        dsse.sign(TYPE, b"{}", owner, owner)
    with pytest.raises(UsageError, match="already"):
        dsse.cosign(dsse.sign(TYPE, b"{}", owner), owner)
    with pytest.raises(UsageError, match="P-256"):
        dsse.sign(TYPE, b"{}", keys.create(tmp_path, "ledger", "ed25519"))
    with pytest.raises(UsageError):
        dsse.sign(TYPE, b"{}")


def test_what_was_changed_is_found(owner: SigningKey) -> None:
    envelope = dsse.sign(TYPE, b"{}", owner)
    for changed in (
        dsse.Envelope(payload_type=TYPE, payload=b"[]", signatures=envelope.signatures),
        dsse.Envelope(payload_type="text/plain", payload=b"{}", signatures=envelope.signatures),
    ):
        with pytest.raises(SignatureError):
            dsse.signers(changed, {"owner": owner.public})


@given(payload=st.binary(max_size=200), kind=st.text(st.characters(codec="utf-8"), min_size=1))
def test_reads_what_it_writes(payload: bytes, kind: str) -> None:
    envelope = dsse.Envelope(
        payload_type=kind[:100],
        payload=payload,
        signatures=(dsse.Signature(key_id="a", value=payload),),
    )
    data = dsse.encode(envelope)
    assert dsse.decode(data, file="f") == envelope
    assert b"\n" not in data


def altered(**members: Any) -> bytes:
    whole = {"payload": "e30=", "payloadType": TYPE, "signatures": [{"keyid": "a", "sig": "AA=="}]}
    return json.dumps({**whole, **members}).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        altered()[:-1],
        altered() + b"x",
        altered(more=1),
        altered(payload="e30"),
        altered(payload="e30=\n"),
        altered(payload="e31="),  # bits that no byte holds
        altered(payload=1),
        altered(payloadType=""),
        altered(payloadType=1),
        altered(payloadType="x" * 201),
        altered(signatures=[]),
        altered(signatures={}),
        altered(signatures=[1]),
        altered(signatures=[{"sig": "AA=="}]),
        altered(signatures=[{"keyid": "a", "sig": "AA==", "cert": ""}]),
        altered(signatures=[{"keyid": 1, "sig": "AA=="}]),
        altered(signatures=[{"keyid": "a", "sig": "AA=="}] * 2),
        altered(signatures=[{"keyid": str(i), "sig": "AA=="} for i in range(17)]),
        b'{"payload":"","payload":"","payloadType":"a","signatures":[{"keyid":"","sig":""}]}',
    ],
)
def test_another_structure_is_refused(data: bytes) -> None:
    dsse.decode(altered(), file="f")
    with pytest.raises(MalformedError, match="f"):
        dsse.decode(data, file="f")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["payload", "payloadType", "signatures", "keyid", "sig", "x"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.binary(max_size=80) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        envelope = dsse.decode(data, file="f")
    except MalformedError:
        return
    assert dsse.decode(dsse.encode(envelope), file="f") == envelope


def test_an_outside_implementation_accepts_ours(owner: SigningKey) -> None:
    """``model-signing`` carries its own DSSE encoding."""
    outside = pytest.importorskip("model_signing._signing.sign_sigstore_pb")
    payload = b'{"a": 1}'
    assert outside.pae(payload) == dsse.pae(TYPE, payload)

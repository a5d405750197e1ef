"""Signed envelopes: some bytes, what they are, and signatures over both.

An envelope may carry several signatures: each is made over the same bytes, and each stands or falls
alone. Reading is stricter than the format asks: no unknown member, canonical base64 only, so that
an envelope has one meaning and one byte form.

Source: DSSE v1.0.2, protocol and envelope (secure-systems-lab). Signatures are ECDSA P-256 with
SHA-256, in DER.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from freehold import strictjson
from freehold.errors import MalformedError, UsageError
from freehold.signing.keys import PublicKey, SigningKey

MAX_ENVELOPE = 4 << 20
MAX_SIGNATURES = 16
_MAX_TYPE = 200


@dataclass(frozen=True, kw_only=True)
class Signature:
    """One signature. ``key_id`` only says which key to try; it proves nothing."""

    key_id: str
    value: bytes


@dataclass(frozen=True, kw_only=True)
class Envelope:
    """``payload`` is of ``payload_type`` (a media type); nothing is said of who signed until
    ``signers`` has been asked."""

    payload_type: str
    payload: bytes
    signatures: tuple[Signature, ...]


def pae(payload_type: str, payload: bytes) -> bytes:
    """The bytes that are signed (DSSE's pre-authentication encoding)."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def sign(payload_type: str, payload: bytes, *keys: SigningKey) -> Envelope:
    """``payload`` in an envelope, signed by each of ``keys`` (at least one, P-256, no key twice).

    Raises ``UsageError``.
    """
    if not keys or len({key.key_id for key in keys}) != len(keys):
        raise UsageError("an envelope needs a signature, and none twice by the same key")
    envelope = Envelope(payload_type=payload_type, payload=payload, signatures=())
    for key in keys:
        envelope = cosign(envelope, key)
    return envelope


def cosign(envelope: Envelope, key: SigningKey) -> Envelope:
    """``envelope`` with one more signature. Raises ``UsageError``: another kind of key, or one that
    has signed already."""
    if key.kind != "p256":
        raise UsageError(
            f"key {key.name!r} is {key.kind}: statements are signed with P-256; make such a key "
            "with `freehold signer create NAME`",
            param="key",
        )
    if any(signature.key_id == key.key_id for signature in envelope.signatures):
        raise UsageError(f"key {key.name!r} has signed this already", param="key")
    made = Signature(
        key_id=key.key_id, value=key.sign(pae(envelope.payload_type, envelope.payload))
    )
    return Envelope(
        payload_type=envelope.payload_type,
        payload=envelope.payload,
        signatures=(*envelope.signatures, made),
    )


def signers(envelope: Envelope, trusted: Mapping[str, PublicKey]) -> tuple[str, ...]:
    """The names under which ``trusted`` knows the keys that signed, in order.

    Signatures by other keys are passed over: nobody here can say whether they are good. Raises
    ``SignatureError`` if a signature that names a trusted key is not that key's.
    """
    known = {key.key_id: (name, key) for name, key in trusted.items()}
    signed = pae(envelope.payload_type, envelope.payload)
    found = []
    for signature in envelope.signatures:
        if signature.key_id in known:
            name, key = known[signature.key_id]
            key.verify(signed, signature.value)
            found.append(name)
    return tuple(found)


def encode(envelope: Envelope) -> bytes:
    """The envelope's one byte form: canonical JSON, no line end in it."""
    return strictjson.canonical(
        {
            "payload": _base64(envelope.payload),
            "payloadType": envelope.payload_type,
            "signatures": [
                {"keyid": signature.key_id, "sig": _base64(signature.value)}
                for signature in envelope.signatures
            ],
        }
    )


def decode(data: bytes, *, file: str) -> Envelope:
    """Read an envelope, whatever the order and spacing of its JSON. Signatures are not checked:
    ask ``signers``. Raises ``MalformedError`` naming ``file``."""

    def refuse(reason: str) -> MalformedError:
        return MalformedError(f"{file} is no signed envelope: {reason}.", file=file)

    value = strictjson.parse(data, file=file, max_bytes=MAX_ENVELOPE)
    outer = _members(value, {"payload", "payloadType", "signatures"})
    if outer is None:
        raise refuse("it must have payload, payloadType and signatures, and nothing else")
    kind, given = outer["payloadType"], outer["signatures"]
    if not isinstance(kind, str) or not 0 < len(kind) <= _MAX_TYPE:
        raise refuse("payloadType is not a short text")
    if not isinstance(given, list) or not 0 < len(given) <= MAX_SIGNATURES:
        raise refuse(f"it must have 1 to {MAX_SIGNATURES} signatures")
    payload = _bytes(outer["payload"])
    if payload is None:
        raise refuse("payload is not base64")
    signatures = []
    for entry in given:
        inner = _members(entry, {"keyid", "sig"})
        value = _bytes(inner["sig"]) if inner else None
        if inner is None or value is None or not isinstance(inner["keyid"], str):
            raise refuse("a signature must have keyid and sig, and nothing else")
        signatures.append(Signature(key_id=inner["keyid"], value=value))
    if len({signature.key_id for signature in signatures}) != len(signatures):
        raise refuse("a key has signed twice")
    return Envelope(payload_type=kind, payload=payload, signatures=tuple(signatures))


def _members(value: Any, names: set[str]) -> dict[str, Any] | None:
    return value if isinstance(value, dict) and set(value) == names else None


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(text: object) -> bytes | None:
    """The bytes that canonical base64 stands for, or ``None``."""
    if not isinstance(text, str):
        return None
    try:
        data = base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        return None
    return data if _base64(data) == text else None

"""Signed envelopes (DSSE v1.0.2, secure-systems-lab): some bytes, what they are, and signatures."""

from __future__ import annotations

import base64
import json

from freehold.errors import MalformedError, SignatureError
from freehold.signing.keys import PublicKey, SigningKey


def pae(payload_type: str, payload: bytes) -> bytes:
    """The bytes that are signed (DSSE's pre-authentication encoding)."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def seal(payload_type: str, payload: bytes, key: SigningKey) -> bytes:
    """An envelope with one signature, as JSON."""
    signature = key.sign(pae(payload_type, payload))
    envelope = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": payload_type,
        "signatures": [{"keyid": key.key_id, "sig": base64.b64encode(signature).decode()}],
    }
    return json.dumps(envelope).encode()


def check(payload_type: str, payload: bytes, envelope: bytes, key: PublicKey) -> None:
    """Return if ``envelope`` holds a signature by ``key`` over just this payload.

    Raises ``MalformedError``, ``SignatureError``.
    """
    try:
        found = json.loads(envelope)
        sealed = base64.b64decode(found["payload"], validate=True)
        signatures = [base64.b64decode(one["sig"], validate=True) for one in found["signatures"]]
        same = found["payloadType"] == payload_type and sealed == payload
    except (ValueError, KeyError, TypeError, RecursionError):
        raise MalformedError("a signature's envelope is not DSSE", file="envelope") from None
    if not same or not signatures:
        raise SignatureError("the envelope signs something else than this file")
    for number, signature in enumerate(signatures, 1):
        try:
            key.verify(pae(payload_type, payload), signature)
        except SignatureError:
            if number == len(signatures):
                raise
        else:
            return

"""Encryption to a public key that only its owner can undo: HPKE (RFC 9180), base mode, single shot.

The suite is DHKEM(P-256, HKDF-SHA256), HKDF-SHA256 and AES-256-GCM. P-256 rather than X25519,
because that is the kind of key the owner's folder holds already and that smart cards can keep. The
standard instead of a scheme of our own, so that any HPKE library can open what we sealed.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hpke

from freehold.errors import SignatureError
from freehold.signing.keys import PublicKey, SigningKey

_SUITE = hpke.Suite(hpke.KEM.P256, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)


def seal(reader: PublicKey, plain: bytes, *, info: bytes) -> bytes:
    """``plain`` for ``reader`` alone: the encapsulated key (65 bytes), then the ciphertext.

    ``info`` names what it is for; it must be the same to open. Raises ``UsageError`` for a key that
    is not P-256.
    """
    return _SUITE.encrypt(plain, reader.p256(), info)


def unseal(key: SigningKey, sealed: bytes, *, info: bytes) -> bytes:
    """What was sealed. Raises ``SignatureError`` where it was changed, or sealed for another key or
    purpose, ``UsageError`` for a key that is not P-256."""
    try:
        return _SUITE.decrypt(sealed, key.p256(), info)
    except (InvalidTag, ValueError):
        raise SignatureError(
            f"this cannot be opened with key {key.key_id[:16]}: it was sealed for another, "
            "or it was changed"
        ) from None

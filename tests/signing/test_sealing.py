"""Sealed for one reader: opened by that key, for that purpose, unchanged, or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freehold.errors import SignatureError, UsageError
from freehold.signing.keys import SigningKey, create
from freehold.signing.sealing import seal, unseal


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> SigningKey:
    return create(tmp_path_factory.mktemp("keys"), "reader", "p256")


@given(plain=st.binary(max_size=2000))
def test_what_is_sealed_opens(reader: SigningKey, plain: bytes) -> None:
    sealed = seal(reader.public, plain, info=b"test")
    # RFC 9180: an uncompressed P-256 point, the ciphertext, a tag of 16 bytes.
    assert len(sealed) == 65 + len(plain) + 16
    assert unseal(reader, sealed, info=b"test") == plain
    assert seal(reader.public, plain, info=b"test") != sealed


@given(place=st.integers(0, 91), bit=st.integers(0, 7))
def test_any_changed_bit_is_refused(reader: SigningKey, place: int, bit: int) -> None:
    sealed = bytearray(seal(reader.public, b"eleven char", info=b"test"))
    sealed[place] ^= 1 << bit
    with pytest.raises(SignatureError):
        unseal(reader, bytes(sealed), info=b"test")


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_in_words(reader: SigningKey, data: bytes) -> None:
    with pytest.raises(SignatureError, match="cannot be opened"):
        unseal(reader, data, info=b"test")


def test_another_purpose_and_another_key_are_refused(reader: SigningKey, tmp_path: Path) -> None:
    sealed = seal(reader.public, b"x", info=b"one")
    with pytest.raises(SignatureError):
        unseal(reader, sealed, info=b"two")
    with pytest.raises(SignatureError):
        unseal(create(tmp_path, "other", "p256"), sealed, info=b"one")


def test_an_ed25519_key_seals_nothing(tmp_path: Path) -> None:
    key = create(tmp_path, "signer", "ed25519")
    with pytest.raises(UsageError, match="P-256"):
        seal(key.public, b"x", info=b"")
    with pytest.raises(UsageError, match="P-256"):
        unseal(key, b"x", info=b"")

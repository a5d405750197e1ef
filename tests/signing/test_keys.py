"""Key pairs on disk, and signatures that other programs understand."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freehold.errors import FreeholdError, MalformedError, NotFoundError, SignatureError, UsageError
from freehold.signing import keys
from freehold.signing.keys import Kind

KINDS: list[Kind] = ["p256", "ed25519"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_signed_verifies_and_nothing_else(tmp_path: Path, kind: Kind) -> None:
    made = keys.create(tmp_path / "keys", "owner", kind)
    again = keys.load(tmp_path / "keys", "owner")
    public = keys.load_public(tmp_path / "keys" / "owner.pub")
    assert made.public == again.public == public
    assert made.key_id == public.key_id
    signature = again.sign(b"weights")
    public.verify(b"weights", signature)
    other = keys.create(tmp_path / "keys", "other", kind)
    for key, data, mark in (
        (public, b"weightz", signature),
        (public, b"weights", signature[:-1] + bytes([signature[-1] ^ 1])),
        (public, b"weights", b""),
        (other.public, b"weights", signature),
    ):
        with pytest.raises(SignatureError):
            key.verify(data, mark)


@pytest.mark.parametrize("kind", KINDS)
def test_openssl_agrees(tmp_path: Path, kind: Kind) -> None:
    key = keys.create(tmp_path, "owner", kind)
    data, mark = tmp_path / "data", tmp_path / "mark"
    data.write_bytes(b"weights")
    mark.write_bytes(key.sign(b"weights"))
    pub = str(tmp_path / "owner.pub")
    command = (
        ["openssl", "dgst", "-sha256", "-verify", pub, "-signature", str(mark), str(data)]
        if kind == "p256"
        else f"openssl pkeyutl -verify -pubin -inkey {pub} -rawin"
        f" -in {data} -sigfile {mark}".split()
    )
    subprocess.run(command, check=True, capture_output=True)


def test_the_private_half_is_the_owners_alone(tmp_path: Path) -> None:
    keys.create(tmp_path / "k", "owner", "p256")
    path = tmp_path / "k" / "owner.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "k").stat().st_mode) == 0o700
    path.chmod(0o640)
    with pytest.raises(UsageError, match="chmod 600"):
        keys.load(tmp_path / "k", "owner")


def test_a_passphrase_is_asked_for_and_checked(tmp_path: Path) -> None:
    keys.create(tmp_path, "owner", "ed25519", passphrase="right")
    assert b"ENCRYPTED" in (tmp_path / "owner.key").read_bytes()
    keys.load(tmp_path, "owner", passphrase="right")
    with pytest.raises(UsageError, match="needs its passphrase"):
        keys.load(tmp_path, "owner")
    with pytest.raises(UsageError, match="not the passphrase"):
        keys.load(tmp_path, "owner", passphrase="wrong")
    keys.create(tmp_path, "open", "ed25519")
    with pytest.raises(UsageError, match="give none"):
        keys.load(tmp_path, "open", passphrase="any")


def test_no_key_is_overwritten(tmp_path: Path) -> None:
    first = keys.create(tmp_path, "owner", "p256")
    with pytest.raises(UsageError, match="already"):
        keys.create(tmp_path, "owner", "p256")
    assert keys.load(tmp_path, "owner").public == first.public
    assert keys.names(tmp_path) == ["owner"]


@pytest.mark.parametrize("name", ["", "../owner", "a/b", "Owner", ".hidden", "x" * 65, "a b"])
def test_names_are_plain(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError):
        keys.create(tmp_path, name, "p256")


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="'owner'"):
        keys.load(tmp_path, "owner")
    with pytest.raises(NotFoundError):
        keys.load_public(tmp_path / "owner.pub")


def test_other_curves_are_refused(tmp_path: Path) -> None:
    for algorithm in (["EC", "-pkeyopt", "ec_paramgen_curve:P-384"], ["X25519"]):
        out = tmp_path / "owner.key"
        command = ["openssl", "genpkey", "-algorithm", *algorithm, "-out", str(out)]
        subprocess.run(command, check=True, capture_output=True)
        out.chmod(0o600)
        with pytest.raises(MalformedError, match="neither"):
            keys.load(tmp_path, "owner")


@given(
    st.binary(max_size=300)
    | st.binary(max_size=200).map(lambda b: b"-----BEGIN PUBLIC KEY-----\n" + b)
)
def test_a_public_key_of_any_bytes_is_read_or_refused(data: bytes) -> None:
    with pytest.raises(FreeholdError):
        keys.parse_public(data)


def test_a_key_does_not_show_itself(tmp_path: Path) -> None:
    assert "PRIVATE" not in repr(keys.create(tmp_path, "owner", "p256"))

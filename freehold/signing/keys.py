"""The owner's keys: P-256 for weights and passports, Ed25519 for ledger checkpoints.

A private key lies in a folder as ``NAME.key`` (PKCS#8, PEM, mode 0600, encrypted where a passphrase
was given), or in a token (``token.py``). Its public half is beside it as ``NAME.pub``
(SubjectPublicKeyInfo, PEM): whoever only verifies needs no more. A key is known by its ``key_id``:
the SHA-256 of the public half's DER bytes, in hex.

Sources: RFC 5958 (PKCS#8), RFC 5280 section 4.1 (SPKI), FIPS 186-5 (ECDSA with SHA-256), RFC 8032.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
from pathlib import Path
from typing import Literal, TypeAlias

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from freehold.errors import (
    MalformedError,
    NotFoundError,
    SignatureError,
    StorageError,
    UsageError,
)

Kind: TypeAlias = Literal["p256", "ed25519"]

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_ECDSA = ec.ECDSA(hashes.SHA256())
_MAX_PEM = 16 << 10


class PublicKey:
    """The half that verifies. Equal where the key is the same, whatever its name."""

    def __init__(self, key: ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey) -> None:
        self._key = key
        self.spki = key.public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        """SubjectPublicKeyInfo, DER."""
        self.key_id = hashlib.sha256(self.spki).hexdigest()

    @property
    def kind(self) -> Kind:
        return "ed25519" if isinstance(self._key, ed25519.Ed25519PublicKey) else "p256"

    @property
    def raw(self) -> bytes:
        """The 32 bytes of an Ed25519 key. Raises ``UsageError`` for another kind."""
        if not isinstance(self._key, ed25519.Ed25519PublicKey):
            raise UsageError(f"key {self.key_id[:16]} is P-256: an Ed25519 key is needed here")
        return self._key.public_bytes_raw()

    def p256(self) -> ec.EllipticCurvePublicKey:
        """The key itself. Raises ``UsageError`` for another kind."""
        if not isinstance(self._key, ec.EllipticCurvePublicKey):
            raise UsageError(f"key {self.key_id[:16]} is Ed25519: a P-256 key is needed here")
        return self._key

    def pem(self) -> str:
        """SubjectPublicKeyInfo, PEM."""
        return self._key.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        ).decode()

    def verify(self, data: bytes, signature: bytes) -> None:
        """Return if ``signature`` (DER for P-256, 64 bytes for Ed25519) is this key's over
        ``data``. Raises ``SignatureError``."""
        try:
            if isinstance(self._key, ed25519.Ed25519PublicKey):
                self._key.verify(signature, data)
            else:
                self._key.verify(signature, data, _ECDSA)
        except InvalidSignature:
            raise SignatureError(
                f"a signature is not that of key {self.key_id[:16]} over these bytes: "
                "they were changed, or another key signed them"
            ) from None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PublicKey) and other.spki == self.spki

    def __hash__(self) -> int:
        return hash(self.spki)


class SigningKey:
    """A key pair called ``name``."""

    def __init__(
        self, name: str, key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
    ) -> None:
        self.name = name
        self._key = key
        self.public = PublicKey(key.public_key())

    @property
    def kind(self) -> Kind:
        return self.public.kind

    @property
    def key_id(self) -> str:
        return self.public.key_id

    def sign(self, data: bytes) -> bytes:
        """A signature over ``data``: DER ECDSA with SHA-256, or 64 bytes of Ed25519."""
        if isinstance(self._key, ed25519.Ed25519PrivateKey):
            return self._key.sign(data)
        return self._key.sign(data, _ECDSA)

    def p256(self) -> ec.EllipticCurvePrivateKey:
        """The private key itself. Raises ``UsageError`` for another kind."""
        if not isinstance(self._key, ec.EllipticCurvePrivateKey):
            raise UsageError(f"key {self.name!r} is Ed25519: a P-256 key is needed here")
        return self._key

    def __repr__(self) -> str:  # nothing of the private half may reach a log
        return f"SigningKey({self.name!r}, {self.kind}, {self.key_id[:16]})"


def create(folder: Path, name: str, kind: Kind, *, passphrase: str | None = None) -> SigningKey:
    """Make a key pair and write both halves. Never overwrites.

    Raises ``UsageError`` for a name that is taken or cannot be a file's, ``StorageError``.
    """
    check_free(folder, name)
    key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
    key = (
        ed25519.Ed25519PrivateKey.generate()
        if kind == "ed25519"
        else ec.generate_private_key(ec.SECP256R1())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(passphrase.encode())
        if passphrase
        else serialization.NoEncryption(),
    )
    made = SigningKey(name, key)
    write_pair(folder, name, "key", private, made.public)
    return made


def check_free(folder: Path, name: str) -> None:
    """Return if a key may be called ``name`` and none is yet. Raises ``UsageError``."""
    _check(name)
    if any((folder / f"{name}.{kind}").exists() for kind in ("key", "token")):
        raise UsageError(f"there is a key {name!r} already: take another name", param="name")


def write_pair(folder: Path, name: str, kind: str, private: bytes, public: PublicKey) -> None:
    """Write ``NAME.KIND`` for the owner alone, and ``NAME.pub``. Never overwrites. Raises
    ``UsageError``, ``StorageError``."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = folder / f"{name}.{kind}"
        try:
            _write(path, private, 0o600)
        except FileExistsError:
            raise UsageError(f"there is a key {name!r} already: take another name") from None
        try:
            _write(folder / f"{name}.pub", public.pem().encode(), 0o644)
        except BaseException:
            with contextlib.suppress(OSError):
                path.unlink()  # half a pair would only confuse
            raise
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise StorageError(f"{folder}: {error.strerror}: the key was not made") from error


def load(folder: Path, name: str, *, passphrase: str | None = None) -> SigningKey:
    """Read a key pair; of one in a token, where it is, ``passphrase`` being the PIN.

    Raises ``NotFoundError``, ``UsageError`` (a wrong or missing passphrase, or others can read the
    file), ``MalformedError``.
    """
    _check(name)
    if (folder / f"{name}.token").exists():
        from freehold.signing import token

        return token.load(folder / f"{name}.token", named(folder, name), pin=passphrase)
    path = folder / f"{name}.key"
    data = _read(path, f"there is no signing key {name!r} in {folder}")
    if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise UsageError(f"{path} can be read by others: run `chmod 600 {path}`, or make a new key")
    try:
        key = serialization.load_pem_private_key(data, passphrase.encode() if passphrase else None)
    except TypeError:
        wanted = "needs its passphrase" if passphrase is None else "has no passphrase: give none"
        raise UsageError(f"key {name!r} {wanted}", param="passphrase") from None
    except ValueError:
        if passphrase is not None:
            raise UsageError(f"not the passphrase of key {name!r}", param="passphrase") from None
        raise MalformedError(f"{path} is no private key in PEM", file=str(path)) from None
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return SigningKey(name, key)
    if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1):
        return SigningKey(name, key)
    raise MalformedError(f"{path} is neither a P-256 nor an Ed25519 key", file=str(path))


def load_public(path: Path) -> PublicKey:
    """Read a public key (SubjectPublicKeyInfo, PEM). Raises ``NotFoundError``,
    ``MalformedError``."""
    return parse_public(_read(path, f"there is no public key at {path}"), file=str(path))


def named(folder: Path, name: str) -> PublicKey:
    """The public half of the key ``name``. Raises ``NotFoundError``, ``MalformedError``."""
    _check(name)
    return load_public(folder / f"{name}.pub")


def parse_public(pem: bytes, *, file: str = "public key") -> PublicKey:
    """The key in PEM bytes. Raises ``MalformedError``."""
    try:
        key = serialization.load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise MalformedError(f"{file} is no public key in PEM", file=file) from error
    return _known(key, file)


def from_der(der: bytes, *, file: str) -> PublicKey:
    """The key in SubjectPublicKeyInfo, DER. Raises ``MalformedError``."""
    try:
        key = serialization.load_der_public_key(der)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise MalformedError(f"{file} gives no public key", file=file) from error
    return _known(key, file)


def _known(key: object, file: str) -> PublicKey:
    if isinstance(key, ed25519.Ed25519PublicKey):
        return PublicKey(key)
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        return PublicKey(key)
    raise MalformedError(f"{file} is neither a P-256 nor an Ed25519 key", file=file)


def names(folder: Path) -> list[str]:
    """Names of the keys in ``folder`` whose private half is there or in a token, sorted."""
    found = {path.stem for kind in ("key", "token") for path in folder.glob(f"*.{kind}")}
    return sorted(name for name in found if _NAME.fullmatch(name))


def _check(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot name a key: small letters, digits, dot, dash, underscore, at most 64",
            param="name",
        )


def _read(path: Path, missing: str) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_PEM + 1)
    except FileNotFoundError:
        raise NotFoundError(
            f"{missing}: `freehold signer list` shows the keys that are here", param="key"
        ) from None
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}") from error
    if len(data) > _MAX_PEM:
        raise MalformedError(f"{path} is too long to be a key", file=str(path))
    return data


def _write(path: Path, data: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())

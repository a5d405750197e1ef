"""TLS at the counter: the certificate it shows, and those it asks its clients for.

What is wrong with a file is said before a model is loaded. ``Renewable`` reads the files again
while the server runs; connections that are open keep what they began with.
"""

from __future__ import annotations

import hashlib
import ssl
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from freehold.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Files:
    """PEM files: a certificate chain, its private key, and the authorities of clients'
    certificates, where clients must show one."""

    cert: str
    key: str
    client_ca: str | None = None


_NOT_READ = (ValueError, UnsupportedAlgorithm)


class Renewable(ssl.SSLContext):
    """A server's context, TLS 1.2 or later, that can be made anew from the same files.

    Raises ``UsageError`` naming the file, what is wrong with it and what to do.
    """

    def __new__(cls, files: Files) -> Renewable:
        return super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)

    def __init__(self, files: Files) -> None:
        self._files = files
        self._now = _context(files)

    def renew(self) -> None:
        """Read the files again. Where that fails, all stays as it was."""
        self._now = _context(self._files)

    @property
    def ends(self) -> float:
        """When the certificate that the files hold ends, in Unix seconds. Raises ``UsageError``."""
        return _certificates(self._files.cert)[0].not_valid_after_utc.timestamp()

    def wrap_bio(self, *args: Any, **more: Any) -> ssl.SSLObject:
        """What asyncio calls for each connection."""
        return self._now.wrap_bio(*args, **more)


def pin_of(connection: ssl.SSLObject) -> str | None:
    """The pin of the certificate that a client has shown, and that was verified."""
    shown = connection.getpeercert(binary_form=True)
    try:
        return (
            hashlib.sha256(_public(x509.load_der_x509_certificate(shown))).hexdigest()
            if shown
            else None
        )
    except _NOT_READ:
        return None  # what OpenSSL knows and we do not stands for no key


def read_pin(path: Path) -> str:
    """The pin of a client's certificate in a PEM file: SHA-256 of its public key, which stays when
    the certificate is renewed for the same key. Raises ``UsageError``."""
    found = _certificates(str(path))[0]
    try:
        return hashlib.sha256(_public(found)).hexdigest()
    except _NOT_READ as error:
        raise UsageError(f"{path} is of a kind that is not known: {error}") from error


def _context(files: Files) -> ssl.SSLContext:
    _check(files)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(files.cert, files.key)
        if files.client_ca is not None:
            context.load_verify_locations(files.client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
            # A resumed session would show a certificate that was verified by older rules.
            context.options |= ssl.OP_NO_TICKET
            context.num_tickets = 0
    except (OSError, ssl.SSLError) as error:
        raise UsageError(
            f"the certificate {files.cert} and key {files.key} cannot be used "
            f"({error.strerror or error}): give a PEM chain and its own PEM key",
            param="tls_cert",
        ) from error
    return context


def _check(files: Files) -> None:
    chain = _certificates(files.cert, "tls_cert")
    _in_time(chain[:1], files.cert, "tls_cert")
    private = _key(files.key)
    try:
        fits = _public(chain[0]) == _public(private)
    except _NOT_READ as error:
        raise UsageError(
            f"the certificate {files.cert} is of a kind that is not known ({error}): take RSA, "
            "ECDSA or Ed25519",
            param="tls_cert",
        ) from error
    if not fits:
        raise UsageError(
            f"the key {files.key} is not that of the first certificate in {files.cert}: give the "
            "key that the certificate was made for, the server's own certificate first",
            param="tls_key",
        )
    if files.client_ca is not None:
        _in_time(_certificates(files.client_ca, "tls_client_ca"), files.client_ca, "tls_client_ca")


def _certificates(path: str, param: str = "certificate") -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(_read(path, param))
    except ValueError as error:
        raise UsageError(f"{path} holds no PEM certificate ({error})", param=param) from error


def _in_time(certificates: Sequence[x509.Certificate], path: str, param: str) -> None:
    now = datetime.now(UTC)
    for one in certificates:
        if one.not_valid_after_utc < now:
            raise UsageError(
                f"the certificate {path} ended on {one.not_valid_after_utc:%Y-%m-%d %H:%M} UTC: "
                "renew it",
                param=param,
            )
        if one.not_valid_before_utc > now:
            raise UsageError(
                f"the certificate {path} begins on {one.not_valid_before_utc:%Y-%m-%d %H:%M} UTC: "
                "wait, or set this machine's clock",
                param=param,
            )


def _key(path: str) -> Any:
    data = _read(path, "tls_key")
    if stat.S_IMODE(Path(path).stat().st_mode) & stat.S_IRWXO:
        raise UsageError(
            f"the key {path} is open to every user of this machine: run `chmod o= {path}`",
            param="tls_key",
        )
    try:
        return serialization.load_pem_private_key(data, None)
    except TypeError as error:
        raise UsageError(
            f"the key {path} has a passphrase, and a server that starts by itself cannot be asked "
            "for it: give one without, readable by this server alone",
            param="tls_key",
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UsageError(f"{path} holds no PEM private key ({error})", param="tls_key") from error


def _read(path: str, param: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:
        told = getattr(error, "strerror", None) or error
        raise UsageError(f"{path} cannot be read: {told}", param=param) from error


def _public(holder: Any) -> bytes:
    found: bytes = holder.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return found

"""An authority of this test run's own, and the certificates it signs."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_PEM = serialization.Encoding.PEM
_DAY = datetime.timedelta(days=1)


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, as files."""

    cert: str
    key: str


class Authority:
    """Signs certificates for servers (at 127.0.0.1) and for clients."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._folder, self._name = folder, name
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        built = self._builder(self._issuer, self._key, -1, 1)
        built = built.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        self.file = str(folder / f"{name}.pem")
        Path(self.file).write_bytes(built.sign(self._key, hashes.SHA256()).public_bytes(_PEM))

    def sign(
        self,
        name: str,
        *,
        client: bool = False,
        first: float = -1,
        last: float = 1,
        passphrase: bytes | None = None,
        again: Pair | None = None,
    ) -> Pair:
        """A certificate from ``first`` to ``last`` (days from now), ``again`` for the same key."""
        key = ec.generate_private_key(ec.SECP256R1())
        if again is not None:
            found = serialization.load_pem_private_key(Path(again.key).read_bytes(), None)
            assert isinstance(found, ec.EllipticCurvePrivateKey)
            key = found
        usage = ExtendedKeyUsageOID.CLIENT_AUTH if client else ExtendedKeyUsageOID.SERVER_AUTH
        address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        built = (
            self._builder(subject, key, first, last)
            .add_extension(x509.SubjectAlternativeName([address]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        )
        pair = Pair(str(self._folder / f"{name}.crt"), str(self._folder / f"{name}.key"))
        Path(pair.cert).write_bytes(built.sign(self._key, hashes.SHA256()).public_bytes(_PEM))
        locked: serialization.KeySerializationEncryption = serialization.NoEncryption()
        if passphrase is not None:
            locked = serialization.BestAvailableEncryption(passphrase)
        private = key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, locked)
        Path(pair.key).write_bytes(private)
        Path(pair.key).chmod(0o600)
        return pair

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, first: float, last: float
    ) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + first * _DAY)
            .not_valid_after(now + last * _DAY)
        )

"""Keys that never leave a token: a smart card, a hardware module, or software that acts as one.

Beside ``NAME.pub`` lies ``NAME.token`` in place of ``NAME.key``: which PKCS#11 module to load, and
the labels of token and key. The PIN is the key's passphrase. P-256 only: statements are signed with
it. The token makes the signature; what is signed is digested here, which every token understands.

Needs the extra ``pkcs11``. Whoever can write the folder of keys chooses the module, which is code:
the file must be nobody else's to write. Source: PKCS#11 3.1, mechanism CKM_ECDSA.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import stat
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import utils

from freehold import strictjson
from freehold.errors import MalformedError, NotFoundError, StorageError, UsageError
from freehold.signing import keys
from freehold.signing.keys import PublicKey, SigningKey

_MAX_FILE = 16 << 10
_HALF = 32  # bytes of each of the two numbers of a P-256 signature


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a key is: the module's path, the token's label, the key's label in it."""

    module: str
    token: str
    label: str


class TokenKey(SigningKey):
    """A key pair whose private half is in a token that was opened with ``pin``."""

    def __init__(self, name: str, public: PublicKey, place: Place, pin: str) -> None:
        self.name = name
        self.public = public
        self._place = place
        self._pin = pin

    def sign(self, data: bytes) -> bytes:
        """As ``SigningKey.sign``. Raises ``UsageError`` (the PIN), ``NotFoundError`` (token or key
        are not there), ``StorageError`` (the token fails), ``SignatureError`` (the key in it is
        another one by now)."""
        import pkcs11

        with _opened(self._place, self._pin) as session:
            key = _one(session, self._place, pkcs11.ObjectClass.PRIVATE_KEY)
            digest = hashlib.sha256(data).digest()
            raw = bytes(key.sign(digest, mechanism=pkcs11.Mechanism.ECDSA))
        numbers = (int.from_bytes(half, "big") for half in (raw[:_HALF], raw[_HALF:]))
        signature = utils.encode_dss_signature(*numbers)
        self.public.verify(data, signature)
        return signature

    def p256(self) -> Any:
        """Raises ``UsageError``: nothing gets the private half out of a token."""
        raise UsageError(f"key {self.name!r} is in a token: a key in a file is needed here")


def create(folder: Path, name: str, place: Place, *, pin: str, existing: bool) -> SigningKey:
    """Make a key pair in a token, or with ``existing`` take the one that is there, and write down
    where it is. Never overwrites.

    Raises ``UsageError``, ``NotFoundError``, ``StorageError``; ``MalformedError`` for a key that is
    not P-256.
    """
    import_checked()
    import pkcs11
    from pkcs11.util import ec

    keys.check_free(folder, name)
    with _opened(place, pin, write=not existing) as session:
        if not existing:
            if list(session.get_objects({pkcs11.Attribute.LABEL: place.label})):
                raise UsageError(
                    f"the token {place.token!r} holds a key {place.label!r} already: use it "
                    "(--existing), or take another label",
                    param="label",
                )
            curve = {pkcs11.Attribute.EC_PARAMS: ec.encode_named_curve_parameters("secp256r1")}
            domain = session.create_domain_parameters(pkcs11.KeyType.EC, curve, local=True)
            domain.generate_keypair(label=place.label, store=True)
        found = _one(session, place, pkcs11.ObjectClass.PUBLIC_KEY)
        public = keys.from_der(ec.encode_ec_public_key(found), file=f"token {place.token}")
    if public.kind != "p256":
        raise MalformedError(f"{place.label} is no P-256 key", file=place.token)
    keys.write_pair(folder, name, "token", strictjson.canonical(asdict(place)), public)
    return TokenKey(name, public, place, pin)


def load(path: Path, public: PublicKey, *, pin: str | None) -> SigningKey:
    """The key that the file at ``path`` leads to. The token is asked only when it signs.

    Raises ``UsageError`` (no PIN, no extra, others can write the file), ``MalformedError``,
    ``StorageError``.
    """
    import_checked()
    place = read(path)
    if pin is None:
        raise UsageError(f"key {path.stem!r} needs the PIN of its token", param="passphrase")
    return TokenKey(path.stem, public, place, pin)


def read(path: Path) -> Place:
    """Where a key is. Raises as ``load``."""
    try:
        with path.open("rb") as file:
            mode, data = path.stat().st_mode, file.read(_MAX_FILE + 1)
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}") from error
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UsageError(f"{path} can be written by others: run `chmod 600 {path}`")
    value = strictjson.parse(data, file=str(path), max_bytes=_MAX_FILE)
    sound = isinstance(value, dict) and set(value) == {"module", "token", "label"}
    if not sound or not all(isinstance(text, str) and text for text in value.values()):
        raise MalformedError(f"{path} does not say where a key is", file=str(path))
    return Place(**value)


def import_checked() -> None:
    """Raise ``UsageError`` where the extra is not installed."""
    if importlib.util.find_spec("pkcs11") is None:
        raise UsageError(
            "keys in tokens need the package python-pkcs11: pip install 'freehold[pkcs11]'"
        )


@contextlib.contextmanager
def _opened(place: Place, pin: str, *, write: bool = False) -> Iterator[Any]:
    """A session with a token, logged in; what goes wrong in it, in our errors."""
    import pkcs11

    if not Path(place.module).is_absolute():
        raise UsageError(f"{place.module!r} is no absolute path of a module", param="module")
    try:
        token = pkcs11.lib(place.module).get_token(token_label=place.token)
        with token.open(user_pin=pin, rw=write) as session:
            yield session
    except (pkcs11.PinIncorrect, pkcs11.PinLenRange, pkcs11.PinInvalid):
        raise UsageError(
            f"not the PIN of token {place.token!r}: it may lock itself after a few more",
            param="passphrase",
        ) from None
    except pkcs11.NoSuchToken:
        raise NotFoundError(
            f"there is no token {place.token!r} behind {place.module}: plug it in", param="token"
        ) from None
    except pkcs11.PKCS11Error as error:
        raise StorageError(
            f"token {place.token!r} behind {place.module} fails: {type(error).__name__} {error}"
        ) from error


def _one(session: Any, place: Place, kind: Any) -> Any:
    """The one object of a kind with the key's label."""
    import pkcs11

    wanted = {pkcs11.Attribute.CLASS: kind, pkcs11.Attribute.LABEL: place.label}
    found = list(session.get_objects(wanted))
    if len(found) != 1:
        raise NotFoundError(
            f"token {place.token!r} holds {len(found)} objects {place.label!r} of kind "
            f"{kind.name}, where one is needed",
            param="label",
        )
    return found[0]

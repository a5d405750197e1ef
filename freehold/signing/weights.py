"""Weights signed and verified in the OpenSSF Model Signing format.

The package ``model-signing`` does both (extra ``signing``), so that its own command accepts what is
signed here and Freehold accepts what others sign. It comes with a client for public transparency
logs, which is never asked: keys are the owner's, and nothing leaves the machine. Only commands of
the shell import this; the server never does.
"""

from __future__ import annotations

import base64
import contextlib
import importlib.util
import re
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from freehold import strictjson
from freehold.errors import (
    MalformedError,
    NotFoundError,
    SignatureError,
    StorageError,
    UsageError,
)

FORMAT: Final = "https://model_signing/signature/v1.0"
MAX_SIGNATURE = 16 << 20


def sign(folder: Path, key_file: Path, *, passphrase: str | None = None) -> bytes:
    """A signature over every file in ``folder``, under the names they have there: a Sigstore bundle
    without certificate or log entry, JSON. ``key_file`` holds a P-256 key, PEM.

    Raises ``UsageError``: the package is missing, or it does not take the key.
    """
    _need_package()
    from model_signing import signing

    config: Any = signing.Config()
    secret = passphrase.encode() if passphrase else None
    try:
        config.use_elliptic_key_signer(private_key=key_file, password=secret)
    except (ValueError, TypeError, AttributeError) as error:
        raise UsageError(f"{key_file} cannot sign weights: {error}", param="key") from None
    with tempfile.TemporaryDirectory(prefix="freehold-") as scratch:
        path = Path(scratch) / "model.sig"
        config.sign(folder, path)
        return path.read_bytes()


def verify(folder: Path, signature: Path, public_key: Path) -> None:
    """Return if ``signature`` is the key's over exactly the files in ``folder``.

    Raises ``SignatureError`` naming each file that was changed, is missing, was added or is not
    covered; ``MalformedError`` for a signature that cannot be read; ``NotFoundError``;
    ``UsageError``.
    """
    _need_package()
    from cryptography.exceptions import InvalidSignature
    from model_signing import verifying

    _read(signature)
    try:
        config: Any = verifying.Config().use_elliptic_key_verifier(public_key=public_key)
    except (ValueError, TypeError, AttributeError) as error:
        raise MalformedError(
            f"{public_key} is no public key for weights: {error}", file=str(public_key)
        ) from None
    try:
        # It prints warnings; standard output is for results.
        with contextlib.redirect_stdout(sys.stderr):
            config.verify(folder, signature)
    except InvalidSignature:
        raise SignatureError(
            f"{signature} was not made with the key {public_key}, or was changed since"
        ) from None
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise MalformedError(
            f"{signature} is no signature of weights: {error!r}", file=str(signature)
        ) from None
    except ValueError as error:
        told = _difference(folder, signature, str(error)) or str(error)
        raise SignatureError(f"{signature} does not fit: {told}") from None
    left_out = _files(folder) - _covered(signature)
    if left_out:
        raise SignatureError(f"{signature} does not cover {_some(left_out)}: it was left out")


def _read(signature: Path) -> Any:
    """The bundle, read strictly: the package itself takes what Python's parser takes."""
    try:
        with signature.open("rb") as file:
            data = file.read(MAX_SIGNATURE + 1)
    except FileNotFoundError:
        raise NotFoundError(f"there is no signature at {signature}", param="signature") from None
    except OSError as error:
        raise StorageError(f"{signature}: {error.strerror}") from error
    bundle = strictjson.parse(data, file=str(signature), max_bytes=MAX_SIGNATURE)
    if not isinstance(bundle, dict) or "dsseEnvelope" not in bundle:
        raise MalformedError(f"{signature} is no signature of weights", file=str(signature))
    return bundle


def _difference(folder: Path, signature: Path, said: str) -> str:
    """The package's word on which files differ, in ours; empty if it speaks of something else."""
    if not said.startswith("Signature mismatch"):
        return ""
    # Only here is the signature known to be good, and its list of files worth reading.
    files, covered = _files(folder), _covered(signature)
    changed = re.findall(r"Hash mismatch for '(.+?)': Expected", said.replace("\\", ""))
    kinds = {
        "changed": {_whole(name) for name in changed},
        "missing": covered - files,
        "added": files - covered,
    }
    return "; ".join(f"{kind}: {_some(names)}" for kind, names in kinds.items() if names)


def _covered(signature: Path) -> set[str]:
    """The files that a signature lists, which has been verified."""
    payload = base64.b64decode(_read(signature)["dsseEnvelope"]["payload"])
    said = strictjson.parse(payload, file=str(signature), max_bytes=MAX_SIGNATURE)
    # Before version 1 of the format, the subjects were the files.
    return {_whole(part["name"]) for part in said["predicate"].get("resources", said["subject"])}


def _whole(name: str) -> str:
    """The file of an entry: one that is signed in pieces has entries NAME:START:END."""
    return re.sub(r":\d+:\d+$", "", name)


def _files(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def _some(names: set[str]) -> str:
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return ", ".join(sorted(names)[:10]) + more


def _need_package() -> None:
    if importlib.util.find_spec("model_signing") is None:
        raise UsageError(
            "signatures of weights need the package model-signing: pip install 'freehold[signing]'"
        )

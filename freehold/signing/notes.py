"""Signed notes, checkpoints and cosignatures, as C2SP specifies them (Ed25519 only).

A note is text that ends in a line end, an empty line, and one line for each signature:
``— NAME base64(key id || signature)``. A checkpoint is a note whose text is the log's origin, its
size, its root hash in base64, each on a line. A cosignature is a witness's signature over the
checkpoint and the time.

Sources: c2sp.org/signed-note, c2sp.org/tlog-checkpoint, c2sp.org/tlog-cosignature (version 1).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric import ed25519

from freehold.errors import MalformedError, SignatureError, UsageError
from freehold.signing.keys import PublicKey, SigningKey

MAX_NOTE = 64 << 10
"""Bytes of a note that are read; a checkpoint has about 200, and 110 more for each witness."""

MAX_SIGNATURES = 100
SIGNATURE, COSIGNATURE = 0x01, 0x04
"""Signature types: an Ed25519 signature over the text; a witness's, timestamped."""

_NAME = re.compile(r"[^\s+\x00-\x1f]{1,256}")
_MARK = "— "


@dataclass(frozen=True, kw_only=True)
class Verifier:
    """A key that a note's signature is checked with, and the name it goes by.

    ``kind`` is ``SIGNATURE`` for a log's key, ``COSIGNATURE`` for a witness's.
    """

    name: str
    key: PublicKey
    kind: int = SIGNATURE

    def __post_init__(self) -> None:
        check_name(self.name)

    @property
    def key_id(self) -> bytes:
        """The 4 bytes that name this key in a signature line."""
        data = self.name.encode() + b"\n" + bytes([self.kind]) + self.key.raw
        return hashlib.sha256(data).digest()[:4]

    def __str__(self) -> str:
        """The verifier key in C2SP's one-line form."""
        encoded = base64.b64encode(bytes([self.kind]) + self.key.raw).decode()
        return f"{self.name}+{self.key_id.hex()}+{encoded}"


@dataclass(frozen=True, kw_only=True)
class Line:
    """One signature line, not yet checked."""

    name: str
    key_id: bytes
    signature: bytes

    def __str__(self) -> str:
        return f"{_MARK}{self.name} {base64.b64encode(self.key_id + self.signature).decode()}\n"


@dataclass(frozen=True, kw_only=True)
class Note:
    """Text and the signatures below it. ``str(note)`` is the note again, byte for byte."""

    text: str
    lines: tuple[Line, ...]

    def __str__(self) -> str:
        return f"{self.text}\n{''.join(map(str, self.lines))}"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What a log says of itself: ``root`` is the RFC 6962 root of its first ``size`` leaves."""

    origin: str
    size: int
    root: bytes

    def text(self) -> str:
        """The text that is signed."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"


def check_name(name: str) -> None:
    """Raises ``UsageError`` for what cannot name a key or a log in a note."""
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name[:64]!r} cannot name a key in a note: no blanks, no plus sign")


def parse_verifier(line: str) -> Verifier:
    """A key from its one-line form. Raises ``MalformedError``."""
    name, _, rest = line.strip().partition("+")
    digits, _, encoded = rest.partition("+")
    data = _decode(encoded, "verifier key")
    if not data or data[0] not in (SIGNATURE, COSIGNATURE) or len(data) != 33:
        raise MalformedError("the verifier key is not one of Ed25519", file="verifier key")
    try:
        key = PublicKey(ed25519.Ed25519PublicKey.from_public_bytes(data[1:]))
        verifier = Verifier(name=name, key=key, kind=data[0])
    except (UsageError, ValueError) as error:
        raise MalformedError(f"the verifier key is malformed: {error}", file="verifier key") from (
            error
        )
    if digits != verifier.key_id.hex():
        raise MalformedError(
            "the verifier key's id is not that of its name and key", file="verifier key"
        )
    return verifier


def sign(text: str, name: str, key: SigningKey) -> Line:
    """``key``'s signature line, as ``name``, for a note with this text."""
    verifier = Verifier(name=name, key=key.public)
    return Line(name=name, key_id=verifier.key_id, signature=key.sign(text.encode()))


def cosign(text: str, name: str, key: SigningKey, *, time: int) -> Line:
    """A witness's line under a checkpoint, at ``time`` (Unix seconds)."""
    verifier = Verifier(name=name, key=key.public, kind=COSIGNATURE)
    signature = key.sign(_cosigned(text, time))
    return Line(name=name, key_id=verifier.key_id, signature=time.to_bytes(8, "big") + signature)


def parse(data: str | bytes, *, file: str = "note") -> Note:
    """A note from its bytes; nothing is checked but its form. Raises ``MalformedError``."""
    try:
        whole = data if isinstance(data, str) else data.decode()
    except UnicodeDecodeError:
        raise MalformedError(f"{file} is not UTF-8", file=file) from None
    if len(whole) > MAX_NOTE:
        raise MalformedError(f"{file} is too long for a signed note", file=file)
    if any(ord(character) < 0x20 and character != "\n" for character in whole):
        raise MalformedError(f"{file} holds control characters", file=file)
    text, gap, below = whole.rpartition("\n\n")
    if not gap or not below.endswith("\n"):
        raise MalformedError(f"{file} is no signed note: no signature lines", file=file)
    lines = below[:-1].split("\n")
    if len(lines) > MAX_SIGNATURES:
        raise MalformedError(f"{file} has more than {MAX_SIGNATURES} signatures", file=file)
    return Note(text=text + "\n", lines=tuple(_line(line, file) for line in lines))


def check(note: Note, verifier: Verifier) -> int | None:
    """Return if ``verifier`` signed ``note``: the time of a cosignature, ``None`` of a signature.

    Raises ``SignatureError``, also if any line by this key is wrong.
    """
    mine = [
        line for line in note.lines if line.name == verifier.name and line.key_id == verifier.key_id
    ]
    if not mine:
        raise SignatureError(f"the note is not signed by {verifier.name} with the expected key")
    times = [_check_line(note.text, line, verifier) for line in mine]
    return times[0]


def checkpoint(note: Note, *, file: str = "checkpoint") -> Checkpoint:
    """The checkpoint a note holds. Raises ``MalformedError``."""
    lines = note.text.split("\n")
    if len(lines) < 4 or not lines[0] or not re.fullmatch(r"0|[1-9][0-9]{0,18}", lines[1]):
        raise MalformedError(f"{file} is no checkpoint: origin, size and root hash", file=file)
    root = _decode(lines[2], file)
    if len(root) != 32:
        raise MalformedError(f"{file} has a root hash that is not one of SHA-256", file=file)
    return Checkpoint(origin=lines[0], size=int(lines[1]), root=root)


def join(note: Note, more: Sequence[Line]) -> Note:
    """``note`` with further signature lines; one that is there already is not doubled."""
    return Note(text=note.text, lines=tuple(dict.fromkeys((*note.lines, *more))))


def _check_line(text: str, line: Line, verifier: Verifier) -> int | None:
    if verifier.kind == SIGNATURE:
        verifier.key.verify(text.encode(), line.signature)
        return None
    if len(line.signature) != 72:
        raise SignatureError(f"the cosignature of {verifier.name} is not 72 bytes long")
    time = int.from_bytes(line.signature[:8], "big")
    verifier.key.verify(_cosigned(text, time), line.signature[8:])
    return time


def _cosigned(text: str, time: int) -> bytes:
    return f"cosignature/v1\ntime {time}\n{text}".encode()


def _line(line: str, file: str) -> Line:
    name, gap, encoded = line.removeprefix(_MARK).partition(" ")
    if not line.startswith(_MARK) or not gap or not _NAME.fullmatch(name):
        raise MalformedError(f"{file} has a line that is no signature", file=file)
    data = _decode(encoded, file)
    if len(data) <= 4:
        raise MalformedError(f"{file} has a signature that is too short", file=file)
    return Line(name=name, key_id=data[:4], signature=data[4:])


def _decode(text: str, file: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise MalformedError(f"{file} holds text that is not base64", file=file) from None
    # One spelling only, so that a note cannot be changed without being another.
    if base64.b64encode(data).decode() != text:
        raise MalformedError(f"{file} holds base64 in another than its one spelling", file=file)
    return data

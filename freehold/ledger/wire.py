"""What counter and keeper say to each other, in the frames of ``freehold.pair``.

Every message of the counter's but the first and the last carries a number; the keeper answers each
number once, with ``Opened``, ``Sealed``, ``Found`` or ``Failed``. Decoding is strict.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import msgspec

from freehold.errors import ProtocolError
from freehold.faults import Fault
from freehold.types import Outcome, Record


class KeeperSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All the keeper is told, as its first frame.

    ``root`` is the store's folder, ``ledger`` a file in it or a data base URL. ``keys`` is the
    folder of signing keys, ``key`` the name of the Ed25519 one that signs checkpoints: made if the
    ledger is new and it is not there. ``content`` is how prompts and answers are kept, ``reader``
    the name of the P-256 key that ``sealed`` ones are encrypted to.
    """

    root: str
    keys: str
    ledger: str = "ledger.sqlite"
    key: str = "ledger"
    content: Literal["hash", "sealed", "clear"] = "hash"
    reader: str = ""


# --- counter to keeper ----------------------------------------------------------------------------


class ToKeeper(msgspec.Struct, frozen=True, array_like=True, tag=True, forbid_unknown_fields=True):
    """Base of what the counter sends."""


class Configure(ToKeeper, frozen=True):
    """The first frame, once."""

    settings: KeeperSettings


class Open(ToKeeper, frozen=True):
    """Write a request's first leaf."""

    number: int
    record: Record


class Seal(ToKeeper, frozen=True):
    """Write the second, of an entry opened on this pair."""

    number: int
    entry: int
    outcome: Outcome


class Note(ToKeeper, frozen=True):
    """Write a leaf about the server itself."""

    number: int
    what: str
    detail: dict[str, Any]


class Ask(ToKeeper, frozen=True):
    """Read something; ``first`` and ``second`` are what the question counts with."""

    number: int
    what: Literal["checkpoint", "leaves", "entry", "inclusion", "consistency"]
    first: int = 0
    second: int | None = None


class Close(ToKeeper, frozen=True):
    """End, once all before is written."""


# --- keeper to counter ----------------------------------------------------------------------------


class FromKeeper(
    msgspec.Struct, frozen=True, array_like=True, tag=True, forbid_unknown_fields=True
):
    """Base of what the keeper sends."""


class Ready(FromKeeper, frozen=True):
    """The ledger is open and holds ``size`` leaves; ``notes`` are for the owner to read."""

    size: int
    verifier: str
    notes: list[str]


class Opened(FromKeeper, frozen=True):
    """An ``Open`` is durable."""

    number: int
    entry: int


class Sealed(FromKeeper, frozen=True):
    """A ``Seal`` or a ``Note`` is durable."""

    number: int
    entry: int
    leaf: int
    checkpoint: str


class Found(FromKeeper, frozen=True):
    """The answer to an ``Ask``: plain data."""

    number: int
    answer: Any


class Failed(FromKeeper, frozen=True):
    """A message could not be obeyed. What it asked to write is not there."""

    number: int
    fault: Fault


class Fatal(FromKeeper, frozen=True):
    """The keeper ends; this is why."""

    fault: Fault


AnyToKeeper: TypeAlias = Configure | Open | Seal | Note | Ask | Close
AnyFromKeeper: TypeAlias = Ready | Opened | Sealed | Found | Failed | Fatal

_to_keeper: msgspec.msgpack.Decoder[AnyToKeeper] = msgspec.msgpack.Decoder(AnyToKeeper)
_from_keeper: msgspec.msgpack.Decoder[AnyFromKeeper] = msgspec.msgpack.Decoder(AnyFromKeeper)


def read_to_keeper(payload: bytes) -> AnyToKeeper:
    """Decode what the counter sent. Raises ``ProtocolError``, or ``UsageError`` for settings out of
    range in ``Sampling``, which checks itself."""
    try:
        return _to_keeper.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"the keeper was sent a frame that is no message: {error}") from error


def read_from_keeper(payload: bytes) -> AnyFromKeeper:
    """Decode what the keeper sent. Raises ``ProtocolError``."""
    try:
        return _from_keeper.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"the keeper sent a frame that is no message: {error}") from error

"""What the workshop's process and its starter say to each other, in frames of ``freehold.pair``."""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec

from freehold.errors import ProtocolError
from freehold.faults import Fault


class _Message(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag=True):
    pass


class Job(_Message, frozen=True):
    """All that the process is told. ``root`` is the store's folder and ``model`` a name in it;
    ``data`` and ``replay`` are files and folders, ``avoid`` those whose texts must not be learnt.
    ``recipe`` is ``Recipe.plain``. ``folder`` is the run's own, which is there.

    ``fix`` leaves out what is wrong with the data instead of refusing it; ``mask`` hides personal
    data; ``language`` (a code) leaves out records in another one.
    """

    root: str
    model: str
    folder: str
    data: tuple[str, ...]
    recipe: dict[str, Any]
    replay: tuple[str, ...] = ()
    avoid: tuple[str, ...] = ()
    language: str = ""
    fix: bool = False
    mask: bool = False
    threads: int | None = None


class Stop(_Message, frozen=True):
    """Keep the state after this step, and end."""


class Work(_Message, frozen=True):
    """``done`` of ``total`` of a piece of work called ``what``."""

    what: str
    done: int
    total: int


class Note(_Message, frozen=True):
    """A line for the person who waits."""

    line: str


class Planned(_Message, frozen=True):
    """What is about to be done (``plan.Plan``, as plain values)."""

    plan: dict[str, Any]


class Stepped(_Message, frozen=True):
    """A step, or a measure of the held-out loss: its figures, as the log has them."""

    steps: int
    figures: dict[str, float]


class Ended(_Message, frozen=True):
    """How it ended, and what is in the run's folder."""

    result: dict[str, Any]


class Failed(_Message, frozen=True):
    """Why it ends. The last message."""

    fault: Fault


ToWorkshop: TypeAlias = Job | Stop
FromWorkshop: TypeAlias = Work | Note | Planned | Stepped | Ended | Failed

_to = msgspec.msgpack.Decoder(ToWorkshop)
_from = msgspec.msgpack.Decoder(FromWorkshop)


def read_to(payload: bytes) -> ToWorkshop:
    """Decode what the starter sent. Raises ``ProtocolError``."""
    try:
        message: ToWorkshop = _to.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"the workshop was sent a frame that is no message: {error}") from error
    return message


def read_from(payload: bytes) -> FromWorkshop:
    """Decode what the workshop sent. Raises ``ProtocolError``."""
    try:
        message: FromWorkshop = _from.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"the workshop sent a frame that is no message: {error}") from error
    return message

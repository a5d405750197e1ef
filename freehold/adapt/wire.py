"""What the workshop's process is told; what it says is in ``train.wire``."""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec

from freehold.errors import ProtocolError
from freehold.train.wire import (
    Ended,
    Failed,
    FromProcess,
    Message,
    Note,
    Planned,
    Stepped,
    Stop,
    Work,
    read_from,
)

__all__ = [
    "Ended",
    "Failed",
    "FromProcess",
    "Job",
    "Note",
    "Planned",
    "Stepped",
    "Stop",
    "ToWorkshop",
    "Work",
    "read_from",
    "read_to",
]


class Job(Message, frozen=True):
    """All that the process is told. ``root`` is the store's folder and ``model`` a name in it;
    ``data`` and ``replay`` are files and folders, ``avoid`` those whose texts must not be learnt.
    ``recipe`` is ``Recipe.plain``. ``folder`` is the run's own, which is there.

    ``fix`` leaves out what is wrong with the data instead of refusing it; ``mask`` hides personal
    data; ``language`` (a code) leaves out records in another one. It is computed on ``device``, by
    ``ranks`` processes of which this is one.
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
    device: str = "cpu"
    ranks: int = 1


ToWorkshop: TypeAlias = Job | Stop

_to = msgspec.msgpack.Decoder(ToWorkshop)


def read_to(payload: bytes) -> ToWorkshop:
    """Decode what the starter sent. Raises ``ProtocolError``."""
    try:
        message: ToWorkshop = _to.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"the workshop was sent a frame that is no message: {error}") from error
    return message

"""What a process that makes models and its starter say to each other, in frames of
``freehold.pair``. The workshop (``adapt``) says the same but for its job."""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec

from freehold.errors import ProtocolError
from freehold.faults import Fault


class Message(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag=True):
    """A frame's content; its class is its tag."""


class Build(Message, frozen=True):
    """Build the corpus that ``declaration`` (a file) declares into ``folder``. With ``of`` above 1
    only sift the files whose number leaves ``share``: so many processes do that side by side."""

    declaration: str
    folder: str
    share: int = 0
    of: int = 1


class Train(Message, frozen=True):
    """Train by ``recipe`` (``Recipe.plain``) over the corpus in ``corpus``, into the run's
    ``folder``, on ``device``."""

    recipe: dict[str, Any]
    corpus: str
    folder: str
    device: str = "cpu"


class Reproduce(Message, frozen=True):
    """Do steps ``first`` to ``last`` of the run in ``folder`` again. PyTorch writes into
    ``scratch`` and nowhere else."""

    folder: str
    corpus: str
    scratch: str
    first: int
    last: int
    from_start: bool = False
    device: str = "cpu"


class Stop(Message, frozen=True):
    """Keep the state after this step, and end."""


class Work(Message, frozen=True):
    """``done`` of ``total`` of a piece of work called ``what``."""

    what: str
    done: int
    total: int


class Note(Message, frozen=True):
    """A line for the person who waits."""

    line: str


class Planned(Message, frozen=True):
    """What is about to be done, as plain values."""

    plan: dict[str, Any]


class Stepped(Message, frozen=True):
    """A step, or a measure of the held-out loss: its figures, as the log has them."""

    steps: int
    figures: dict[str, float]


class Ended(Message, frozen=True):
    """How it ended, and what is in the run's folder."""

    result: dict[str, Any]


class Failed(Message, frozen=True):
    """Why it ends. The last message."""

    fault: Fault


FromProcess: TypeAlias = Work | Note | Planned | Stepped | Ended | Failed
ToFoundry: TypeAlias = Build | Train | Reproduce | Stop

_to = msgspec.msgpack.Decoder(ToFoundry)
_from = msgspec.msgpack.Decoder(FromProcess)


def read_to(payload: bytes) -> ToFoundry:
    """Decode what the starter sent. Raises ``ProtocolError``."""
    try:
        message: ToFoundry = _to.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"the foundry was sent a frame that is no message: {error}") from error
    return message


def read_from(payload: bytes) -> FromProcess:
    """Decode what the process sent. Raises ``ProtocolError``."""
    try:
        message: FromProcess = _from.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(
            f"the locked process sent a frame that is no message: {error}"
        ) from error
    return message

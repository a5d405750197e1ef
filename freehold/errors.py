"""Every error Freehold raises on purpose.

    FreeholdError
    ├── UsageError            the user asked for something that cannot be; names the parameter
    │   ├── NotFoundError     no such model, key or file
    │   └── ContextOverflowError   more tokens than the model's context holds
    ├── IntegrityError        bytes are not what they must be: never served, never retried
    │   ├── DigestError       content differs from its digest; names the file and the chunk
    │   ├── MalformedError    a file breaks its format's rules; names the file and the rule
    │   ├── SignatureError    a signature is not the named key's over these bytes
    │   └── RefusedError      a file type that could run code
    ├── GateError             the owner's policy asks for evidence that a model does not have
    ├── SourceError           nothing could deliver the bytes (unreachable, incomplete)
    ├── StorageError          this machine's disk cannot hold or return them
    ├── BusyError             the queue is full; says when to come back
    └── ProcessError          one of the house's own processes failed or is gone
        ├── EngineError       the engine
        ├── LedgerError       the keeper, or its data base: no entry, so no reply
        └── ProtocolError     the bytes on the pair between two of them are no message

A message names the thing, the reason and the next step. Misuse, tampering and bad luck are
different errors because a user does different things about them: each class carries the exit code
that ``freehold`` ends with, so that a script can tell them apart too.
"""

from __future__ import annotations

from typing import ClassVar


class FreeholdError(Exception):
    """Base of the tree. ``str(error)`` is one message a user can act on."""

    exit_code: ClassVar[int] = 1


class UsageError(FreeholdError):
    """The request itself is wrong. ``param`` names the offending field or option, if any."""

    exit_code = 2

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class NotFoundError(UsageError):
    """The named model, key or file does not exist here."""


class ContextOverflowError(UsageError):
    """Prompt and requested answer together exceed the model's context length."""


class IntegrityError(FreeholdError):
    """Bytes are not what they must be. Such bytes are never admitted, loaded or served. ``link`` is
    the link of a model's chain that is broken, where ``freehold verify`` found it."""

    exit_code = 3
    link: str | None = None


class DigestError(IntegrityError):
    """Content differs from its pinned digest. ``chunk`` is the index of the first damaged chunk."""

    def __init__(self, message: str, *, file: str, chunk: int | None = None) -> None:
        super().__init__(message)
        self.file = file
        self.chunk = chunk


class MalformedError(IntegrityError):
    """A file breaks its format's rules. ``file`` names it."""

    def __init__(self, message: str, *, file: str) -> None:
        super().__init__(message)
        self.file = file


class SignatureError(IntegrityError):
    """A signature does not belong to the key and the bytes it is said to belong to."""


class RefusedError(IntegrityError):
    """A file of a kind that can carry code (pickle, ``.py``, ``auto_map``) is never opened."""


class GateError(FreeholdError):
    """The owner's policy asks for evidence that a model does not have. ``missing`` are the policy's
    keys that are not met."""

    exit_code = 8

    def __init__(self, message: str, *, missing: tuple[str, ...]) -> None:
        super().__init__(message)
        self.missing = missing


class SourceError(FreeholdError):
    """No source could deliver the bytes."""

    exit_code = 4


class StorageError(FreeholdError):
    """The disk is full, read-only or failing."""

    exit_code = 5


class BusyError(FreeholdError):
    """The queue is full. ``retry_after`` is a hint in seconds."""

    exit_code = 6

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ProcessError(FreeholdError):
    """One of the house's own processes failed, or is gone."""

    exit_code = 7


class EngineError(ProcessError):
    """The engine process failed, or is gone."""


class LedgerError(ProcessError):
    """The ledger could not be written or read: the keeper, its disk or its data base failed."""


class ProtocolError(ProcessError):
    """The bytes on a pair are no message. The end that reads them stops reading."""

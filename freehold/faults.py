"""Errors of the house as plain data, so that one raised in another process can be raised again, as
the same class with the same words, on the counter's side of the pair."""

from __future__ import annotations

import msgspec

from freehold.errors import (
    BusyError,
    ContextOverflowError,
    DigestError,
    EngineError,
    FreeholdError,
    IntegrityError,
    LedgerError,
    MalformedError,
    NotFoundError,
    ProcessError,
    ProtocolError,
    RefusedError,
    SignatureError,
    SourceError,
    StorageError,
    UsageError,
)

_PLAIN: dict[str, type[FreeholdError]] = {
    kind.__name__: kind
    for kind in (
        EngineError,
        IntegrityError,
        LedgerError,
        ProcessError,
        ProtocolError,
        RefusedError,
        SignatureError,
        SourceError,
        StorageError,
    )
}
_MISUSE: dict[str, type[UsageError]] = {
    kind.__name__: kind for kind in (UsageError, NotFoundError, ContextOverflowError)
}


class Fault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An error of ``freehold.errors``: ``kind`` is its class, the rest its fields."""

    kind: str
    message: str
    param: str | None = None
    file: str | None = None
    chunk: int | None = None
    retry_after: int | None = None


def fault_of(error: FreeholdError) -> Fault:
    """The error as data. A class that is not named here travels as the nearest one that is."""
    kind = next(
        (
            base.__name__
            for base in type(error).__mro__
            if base.__name__ in _PLAIN
            or base.__name__ in _MISUSE
            or base in (BusyError, DigestError, MalformedError)
        ),
        ProcessError.__name__,
    )
    return Fault(
        kind=kind,
        message=str(error),
        param=getattr(error, "param", None),
        file=getattr(error, "file", None),
        chunk=getattr(error, "chunk", None),
        retry_after=getattr(error, "retry_after", None),
    )


def error_of(fault: Fault) -> FreeholdError:
    """The data as an error again; an unknown ``kind`` is a ``ProcessError``."""
    if fault.kind in _MISUSE:
        return _MISUSE[fault.kind](fault.message, param=fault.param)
    if fault.kind == BusyError.__name__:
        return BusyError(fault.message, retry_after=fault.retry_after or 1)
    if fault.kind == DigestError.__name__:
        return DigestError(fault.message, file=fault.file or "", chunk=fault.chunk)
    if fault.kind == MalformedError.__name__:
        return MalformedError(fault.message, file=fault.file or "")
    return _PLAIN.get(fault.kind, ProcessError)(fault.message)

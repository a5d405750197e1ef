"""Every refusal, and how our error tree maps to HTTP.

    UsageError, ContextOverflowError  400      NotFoundError     404
    BusyError                         429      ProcessError      503
    SourceError, StorageError         503      IntegrityError    500

How a refusal is written depends on the API that was asked (``dialects.py``). What is not in our
tree is a defect: it is logged with its traceback and answered with a 500 that says nothing of the
inside.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from freehold.errors import (
    BusyError,
    ContextOverflowError,
    FreeholdError,
    LedgerError,
    NotFoundError,
    ProcessError,
    SourceError,
    StorageError,
    UsageError,
)

INVALID = "invalid_request_error"
SERVER = "server_error"
INTERNAL_MESSAGE = (
    "the server failed on this request; its operator finds the reason in the log under this id"
)


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One error as the client sees it."""

    status: int
    message: str
    type: str = INVALID
    param: str | None = None
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def told(self) -> dict[str, Any]:
        """OpenAI's error object."""
        error = {"message": self.message, "type": self.type}
        return {"error": {**error, "param": self.param, "code": self.code}}


class ProblemError(FreeholdError):
    """A refusal decided at the counter itself, where the status is already known."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


class ClientGoneError(FreeholdError):
    """The client hung up: whatever was being made for it stops, and nobody reads an answer."""


# The first match counts, so a class stands before its base.
_TREE: tuple[tuple[type[FreeholdError], tuple[int, str, str]], ...] = (
    (NotFoundError, (404, INVALID, "not_found")),
    (ContextOverflowError, (400, INVALID, "context_length_exceeded")),
    (UsageError, (400, INVALID, "invalid_value")),
    (LedgerError, (503, SERVER, "ledger_unavailable")),
    (ProcessError, (503, SERVER, "engine_unavailable")),
    (SourceError, (503, SERVER, "unavailable")),
    (StorageError, (503, SERVER, "unavailable")),
    (FreeholdError, (500, SERVER, "internal_error")),
)

INTERNAL = Problem(status=500, message=INTERNAL_MESSAGE, type=SERVER, code="internal_error")


def problem_of(error: FreeholdError) -> Problem:
    """What to tell the client of ``error``."""
    if isinstance(error, ProblemError):
        return error.problem
    if isinstance(error, BusyError):
        return busy(str(error), error.retry_after)
    status, kind, code = next(row for cls, row in _TREE if isinstance(error, cls))
    param = getattr(error, "param", None)
    return Problem(status=status, message=str(error), type=kind, param=param, code=code)


def busy(message: str, retry_after: int) -> Problem:
    """429: come back in ``retry_after`` seconds."""
    return Problem(
        status=429,
        message=message,
        type="rate_limit_error",
        code="server_busy",
        headers={"retry-after": str(max(1, retry_after))},
    )


def too_late(seconds: float) -> Problem:
    """504: the answer took longer than the server allows. Asking again would cost as much again."""
    return Problem(
        status=504,
        message=(
            f"the answer was not complete within this server's limit of {seconds:g} s: ask for "
            "fewer tokens (max_tokens), or have the operator raise the limit"
        ),
        type="timeout_error",
        code="request_timeout",
        headers={"x-should-retry": "false"},
    )


SHUTTING_DOWN = Problem(
    status=503,
    message="the server is shutting down and could not finish this answer: ask again",
    type=SERVER,
    code="shutting_down",
)

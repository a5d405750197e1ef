"""How each API we speak tells a failure, and ends a stream.

``OPENAI`` is what chat and plain completions speak, and every path that is nobody's. ``RESPONSES``
differs from it in streams and in names. ``ANTHROPIC`` has errors of its own kinds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from starlette.responses import Response

from freehold.serve.errors import Problem
from freehold.serve.wire import encode

_KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """``told`` makes a refusal's body; ``broken`` the event that ends a stream which failed;
    ``end`` is what ends one that did not. ``names`` are fields that this API calls otherwise than
    chat completions do."""

    told: Callable[[Problem], dict[str, Any]]
    broken: Callable[[Problem], bytes]
    end: bytes = b""
    names: tuple[tuple[str, str], ...] = ()

    def response(self, problem: Problem) -> Response:
        """``problem`` as a whole HTTP answer."""
        body = encode(self.told(self._named(problem)))
        headers = dict(problem.headers)
        return Response(body, problem.status, headers, media_type="application/json")

    def break_off(self, problem: Problem) -> bytes:
        """The event that ends a stream because of ``problem``."""
        return self.broken(self._named(problem))

    def _named(self, problem: Problem) -> Problem:
        message, param = problem.message, problem.param
        for ours, theirs in self.names if param else ():
            message = message.replace(ours, theirs)
            param = param and param.replace(ours, theirs)
        return replace(problem, message=message, param=param)


def event(data: object, name: str = "") -> bytes:
    """One server-sent event, with a name where the API has them."""
    head = f"event: {name}\n".encode() if name else b""
    return head + b"data: " + encode(data) + b"\n\n"


def _openai(problem: Problem) -> dict[str, Any]:
    return problem.told()


def _responses_event(problem: Problem) -> bytes:
    told = {"type": "error", "code": problem.code, "message": problem.message}
    return event({**told, "param": problem.param, "sequence_number": 0}, "error")


def _anthropic(problem: Problem) -> dict[str, Any]:
    other = "invalid_request_error" if problem.status < 500 else "api_error"
    kind, message = _KINDS.get(problem.status, other), problem.message
    if problem.param is not None and problem.param not in message:
        message = f"{problem.param}: {message}"
    return {"type": "error", "error": {"type": kind, "message": message}}


OPENAI = Dialect(
    told=_openai, broken=lambda problem: event(_openai(problem)), end=b"data: [DONE]\n\n"
)
RESPONSES = Dialect(
    told=_openai,
    broken=_responses_event,
    names=(
        ("response_format.json_schema.schema", "text.format.schema"),
        (".function.parameters", ".parameters"),
        ("max_completion_tokens", "max_output_tokens"),
        ("messages", "input"),
    ),
)
ANTHROPIC = Dialect(
    told=_anthropic,
    broken=lambda problem: event(_anthropic(problem), "error"),
    names=(
        ("response_format.json_schema.schema", "output_config.format.schema"),
        (".function.parameters", ".input_schema"),
    ),
)

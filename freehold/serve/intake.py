"""A request's body: read whole, decoded strictly, checked field by field."""

from __future__ import annotations

import asyncio
from typing import TypeVar

from starlette.requests import ClientDisconnect, Request

from freehold.serve.errors import ClientGoneError, Problem, ProblemError
from freehold.serve.fields import Strict, parse
from freehold.serve.wire import BadJsonError, check_integers, decode

Model = TypeVar("Model", bound=Strict)

_INLINE_BYTES = 64 << 10
"""Larger bodies are decoded in a worker thread, so that other streams keep flowing."""


async def read(request: Request, model: type[Model]) -> Model:
    """The body as a ``model``.

    Raises ``UsageError`` naming the field, or ``ProblemError`` where the body is no JSON.
    """
    try:
        body = await request.body()
    except ClientDisconnect as error:
        raise ClientGoneError("the client hung up while sending its request") from error
    if len(body) <= _INLINE_BYTES:
        return _parse(body, model)
    return await asyncio.to_thread(_parse, body, model)


def _parse(body: bytes, model: type[Model]) -> Model:
    try:
        value = decode(body)
        parsed = parse(model, value)  # first, for it names the field
        check_integers(body, value)
    except BadJsonError as error:
        raise ProblemError(Problem(status=400, message=str(error), code="invalid_json")) from error
    return parsed

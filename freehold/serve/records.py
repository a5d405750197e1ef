"""``/v1/ledger/...``: what auditors read. Entries, checkpoints and the two kinds of proof."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from freehold.errors import NotFoundError, UsageError
from freehold.serve.desk import desk_of
from freehold.serve.wire import encode
from freehold.types import Ledger

MOST = 1000
"""Leaves in one answer."""


async def checkpoint(request: Request) -> Response:
    """The latest signed checkpoint, a C2SP note."""
    return PlainTextResponse(await _ledger(request).checkpoint())


async def leaves(request: Request) -> Response:
    """Leaves from ``first`` (0) on, at most ``count`` (100)."""
    first = _number(request, "first", 0)
    count = _number(request, "count", 100)
    if count > MOST:
        raise UsageError(f"count is {count}: at most {MOST} are given at once", param="count")
    return _json({"leaves": await _ledger(request).leaves(first, count)})


async def entry(request: Request) -> Response:
    """The leaves of one entry."""
    number = _read(request.path_params["number"], "entry")
    return _json({"leaves": await _ledger(request).entry(number)})


async def inclusion(request: Request) -> Response:
    """The proof that a leaf is in the tree of ``size`` leaves (default: all)."""
    leaf = _read(request.path_params["leaf"], "leaf")
    return _json(await _ledger(request).inclusion(leaf, _optional(request, "size")))


async def consistency(request: Request) -> Response:
    """The proof that the tree of ``second`` leaves (default: all) begins with ``first``'s."""
    first = _number(request, "first", 0)
    return _json(await _ledger(request).consistency(first, _optional(request, "second")))


def _ledger(request: Request) -> Ledger:
    ledger = desk_of(request).ledgers.ledger
    if ledger is None:
        raise NotFoundError("this server keeps no ledger")
    return ledger


def _json(data: object) -> Response:
    return Response(encode(data), media_type="application/json")


def _number(request: Request, name: str, default: int) -> int:
    found = _optional(request, name)
    return default if found is None else found


def _optional(request: Request, name: str) -> int | None:
    text = request.query_params.get(name)
    return None if text is None else _read(text, name)


def _read(text: str, name: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 19):
        raise UsageError(f"{name} must be a whole number, 0 or more", param=name)
    return int(text)

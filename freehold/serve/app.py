"""The counter as one application: its routes, and the onion around them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response

from freehold.serve.desk import Desk, Hosted
from freehold.serve.errors import Problem
from freehold.serve.keys import Keyring
from freehold.serve.limits import Limits
from freehold.serve.middleware import Authenticate, BodyLimit, Catch, Observe
from freehold.serve.openapi import document
from freehold.serve.routes import ROUTES, dialect_of
from freehold.serve.tracing import Send
from freehold.types import Guard, Ledger

__all__ = ["Hosted", "Limits", "build"]

_QUIET = TelemetryConfig(
    tracing=False, metrics=False, logs=False, operation_spans=False, auto_configure=False
)
"""FastAPI has a telemetry of its own, which two variables of the environment would turn on."""


def build(
    models: Sequence[Hosted],
    keys: Keyring,
    limits: Limits,
    ledger: Ledger | None = None,
    *,
    guard: Guard | None = None,
    residency: Callable[[], Mapping[str, Any]] | None = None,
    passports: Callable[[str], bytes] | None = None,
    traces: Send | None = None,
) -> FastAPI:
    """The application that serves ``models`` to holders of ``keys``, and records in ``ledger``.

    ``guard`` judges prompts and answers; ``None`` lets all pass.
    ``residency`` tells what is shut in the server's processes, for ``/residency``.
    ``passports`` gives a served model's passport as JSON, for ``/v1/passports``.
    ``traces`` is handed the spans of each request that has ended.

    Interactive documentation pages are off (they load scripts from elsewhere); the schema itself
    is at ``/openapi.json``, behind the key. Raises ``UsageError`` when two models share a name.
    """
    desk = Desk(models, keys, limits, ledger, traces, guard=guard)
    app = _Application(
        title="Freehold",
        telemetry=_QUIET,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers={HTTPException: _no_route},
        middleware=[
            Middleware(Observe, desk=desk),
            Middleware(Catch, desk=desk),
            Middleware(Authenticate, desk=desk),
            Middleware(BodyLimit, desk=desk),
        ],
    )
    app.state.desk = desk
    app.state.residency = residency
    app.state.passports = passports
    for route in ROUTES:
        # Each method by itself: Starlette would answer HEAD with a GET's whole body otherwise.
        for method in route.methods:
            app.add_api_route(route.path, route.endpoint, methods=[method], response_model=None)
    return app


class _Application(FastAPI):
    """FastAPI with a document of our own: endpoints read their requests and write their answers
    themselves, so that FastAPI knows neither."""

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document."""
        if self.openapi_schema is None:
            self.openapi_schema = document(ROUTES)
        return self.openapi_schema


async def _no_route(request: Request, error: Exception) -> Response:
    """404 and 405."""
    assert isinstance(error, HTTPException)
    where = f"{request.method} {request.url.path[:200]}"
    message = f"{where}: {error.detail.lower()}; see /openapi.json for what there is"
    headers = dict(error.headers or {})
    if headers.get("Allow") == "GET":
        headers["Allow"] = "GET, HEAD"
    code = "method_not_allowed" if error.status_code == 405 else "unknown_url"
    problem = Problem(status=error.status_code, message=message, code=code, headers=headers)
    return dialect_of(request.url.path).response(problem)

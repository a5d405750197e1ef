"""The counter as one application: its routes, and the onion around them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response

from freehold.serve.desk import Desk, Hosted
from freehold.serve.errors import Problem
from freehold.serve.keys import Keyring
from freehold.serve.limits import Limits
from freehold.serve.middleware import Authenticate, BodyLimit, Catch, Observe
from freehold.serve.routes import ROUTES, Route, dialect_of
from freehold.types import Guard, Ledger

__all__ = ["Hosted", "Limits", "build"]

_REF = "#/components/schemas/{model}"


def build(
    models: Sequence[Hosted],
    keys: Keyring,
    limits: Limits,
    ledger: Ledger | None = None,
    *,
    guard: Guard | None = None,
    residency: Callable[[], Mapping[str, Any]] | None = None,
    passports: Callable[[str], bytes] | None = None,
) -> FastAPI:
    """The application that serves ``models`` to holders of ``keys``, and records in ``ledger``.

    ``guard`` judges prompts and answers; ``None`` lets all pass.
    ``residency`` tells what is shut in the server's processes, for ``/residency``.
    ``passports`` gives a served model's passport as JSON, for ``/v1/passports``.

    Interactive documentation pages are off (they load scripts from elsewhere); the schema itself
    is at ``/openapi.json``, behind the key. Raises ``UsageError`` when two models share a name.
    """
    desk = Desk(models, keys, limits, ledger, guard)
    app = _Application(
        title="Freehold",
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers={HTTPException: _no_route},
        middleware=[
            Middleware(Observe, desk=desk),
            Middleware(Catch),
            Middleware(Authenticate, desk=desk),
            Middleware(BodyLimit, desk=desk),
        ],
    )
    app.state.desk = desk
    app.state.residency = residency
    app.state.passports = passports
    for route in ROUTES:
        _add(app, route)
    return app


class _Application(FastAPI):
    """FastAPI, with the request models of endpoints that read their bodies themselves."""

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document."""
        if self.openapi_schema is None:
            document = super().openapi()
            schemas = document.setdefault("components", {}).setdefault("schemas", {})
            for body in (route.body for route in ROUTES if route.body is not None):
                whole = body.model_json_schema(ref_template=_REF)
                schemas.update(whole.pop("$defs", {}))
                schemas[body.__name__] = whole
        return super().openapi()


def _add(app: FastAPI, route: Route) -> None:
    described: dict[str, Any] = {}
    if route.body is not None:
        # Only described here: the endpoint reads its body itself, more strictly than FastAPI would.
        schema = {"$ref": _REF.format(model=route.body.__name__)}
        content = {"application/json": {"schema": schema}}
        described = {"requestBody": {"required": True, "content": content}}
    for method in route.methods:
        app.add_api_route(
            route.path,
            route.endpoint,
            methods=[method],
            response_model=None,
            include_in_schema=method == route.method,
            openapi_extra=described,
        )


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

"""The counter as one application: its routes, and the onion around them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response

from freehold.serve import records
from freehold.serve.chat import chat_completions
from freehold.serve.completions import completions
from freehold.serve.desk import Desk, Hosted
from freehold.serve.errors import Problem
from freehold.serve.keys import Keyring
from freehold.serve.limits import Limits
from freehold.serve.middleware import Authenticate, BodyLimit, Catch, Observe
from freehold.serve.models import (
    health,
    list_models,
    list_passports,
    metrics,
    show_model,
    show_passport,
    show_residency,
)
from freehold.serve.schema import ChatRequest, CompletionRequest
from freehold.types import Ledger

__all__ = ["Hosted", "Limits", "build"]

Endpoint = Callable[[Request], Awaitable[Response]]
_REF = "#/components/schemas/{model}"


def build(
    models: Sequence[Hosted],
    keys: Keyring,
    limits: Limits,
    ledger: Ledger | None = None,
    *,
    residency: Callable[[], Mapping[str, Any]] | None = None,
    passports: Callable[[str], bytes] | None = None,
) -> FastAPI:
    """The application that serves ``models`` to holders of ``keys``, and records in ``ledger``.

    ``residency`` tells what is shut in the server's processes, for ``/residency``; without, there
    is no such page. ``passports`` gives a served model's passport as JSON, for ``/v1/passports``.

    Interactive documentation pages are off (they load scripts from elsewhere); the schema itself
    is at ``/openapi.json``, behind the key. Raises ``UsageError`` when two models share a name.
    """
    desk = Desk(models, keys, limits, ledger)
    app = _Application(
        title="Freehold",
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
    _get(app, "/health", health)
    _get(app, "/metrics", metrics)
    _get(app, "/v1/models", list_models)
    _get(app, "/v1/models/{model:path}", show_model)
    _get(app, "/v1/ledger/checkpoint", records.checkpoint)
    _get(app, "/v1/ledger/leaves", records.leaves)
    _get(app, "/v1/ledger/entries/{number}", records.entry)
    _get(app, "/v1/ledger/inclusion/{leaf}", records.inclusion)
    _get(app, "/v1/ledger/consistency", records.consistency)
    if residency is not None:
        app.state.residency = residency
        _get(app, "/residency", show_residency)
    if passports is not None:
        app.state.passports = passports
        _get(app, "/v1/passports", list_passports)
        _get(app, "/v1/passports/{model:path}", show_passport)
    _post(app, "/v1/chat/completions", chat_completions, ChatRequest)
    _post(app, "/v1/completions", completions, CompletionRequest)
    return app


class _Application(FastAPI):
    """FastAPI, with the request models of endpoints that read their bodies themselves."""

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document."""
        if self.openapi_schema is None:
            document = super().openapi()
            schemas = document.setdefault("components", {}).setdefault("schemas", {})
            for body in (ChatRequest, CompletionRequest):
                whole = body.model_json_schema(ref_template=_REF)
                schemas.update(whole.pop("$defs", {}))
                schemas[body.__name__] = whole
        return super().openapi()


def _get(app: FastAPI, path: str, endpoint: Endpoint) -> None:
    app.add_api_route(path, endpoint, methods=["GET"], response_model=None)
    app.add_api_route(
        path, endpoint, methods=["HEAD"], response_model=None, include_in_schema=False
    )


def _post(app: FastAPI, path: str, endpoint: Endpoint, body: type[BaseModel]) -> None:
    # Only described here: the endpoint reads its body itself, more strictly than FastAPI would.
    content = {"application/json": {"schema": {"$ref": _REF.format(model=body.__name__)}}}
    app.add_api_route(
        path,
        endpoint,
        methods=["POST"],
        response_model=None,
        openapi_extra={"requestBody": {"required": True, "content": content}},
    )


async def _no_route(request: Request, error: Exception) -> Response:
    """404 and 405, in OpenAI's shape."""
    assert isinstance(error, HTTPException)
    where = f"{request.method} {request.url.path[:200]}"
    message = f"{where}: {error.detail.lower()}; see /openapi.json for what there is"
    headers = dict(error.headers or {})
    if headers.get("Allow") == "GET":
        headers["Allow"] = "GET, HEAD"
    code = "method_not_allowed" if error.status_code == 405 else "unknown_url"
    problem = Problem(status=error.status_code, message=message, code=code, headers=headers)
    return problem.response()

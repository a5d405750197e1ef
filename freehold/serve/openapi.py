"""The OpenAPI document: made of the table of routes, of what requests may hold (the request models)
and of what answers hold (``told.py``).

Source: OpenAPI 3.2, which has words for the events of a stream, and JSON Schema 2020-12.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from freehold import __version__
from freehold.serve.dialects import ANTHROPIC, OPENAI
from freehold.serve.fields import Strict
from freehold.serve.routes import ANYONE, JSON, Route
from freehold.serve.told import Error, MessagesError

_REF = "#/components/schemas/{model}"
_ABOUT = """\
Open-weight Qwen models on hardware of your own, behind the HTTP APIs of OpenAI and Anthropic.

Every call but `/health` needs a key. What a request holds is checked exactly: a field that is not
told of here is refused, `null` means absent. Some rules between fields are not told of here;
whoever breaks one gets a 400 that names the field. `GET` routes answer `HEAD` too.
"""
_TAGS = {
    "answers": "What models say.",
    "text": "Vectors and tokens of texts.",
    "models": "Which models are served, and what is known of them.",
    "ledger": "The signed record of what the server did, for auditors.",
    "server": "How the server is.",
}
_KEYS = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "A key from `freehold keys add`.",
    },
    "header": {
        "type": "apiKey",
        "in": "header",
        "name": "x-api-key",
        "description": "The same key, where Anthropic's clients send it.",
    },
}
_MOST = 10**18 - 1
_WHEN = {
    400: "The request is wrong: the field is named.",
    401: "No key, or one that is unknown, revoked or ended.",
    403: "The key's role may not ask for this.",
    404: "There is no such thing here.",
    408: "The request did not arrive in time.",
    413: "The body is too large.",
    429: "Too much at once, or a limit of the key.",
    500: "A defect, told in the server's log under the request's id.",
    503: "The engine, the ledger or the data base of keys is down, or the server is shutting down.",
    504: "The answer took longer than the server allows.",
}


def document(routes: Sequence[Route]) -> dict[str, Any]:
    """The document that tells of ``routes``, as plain data."""
    forms = [form for route in routes for form in (route.body, route.answer, route.event)]
    answers = [form for form in forms if isinstance(form, type) and not issubclass(form, Strict)]
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        told = paths.setdefault(re.sub(r":\w+", "", route.path), {})
        told[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.2.0",
        "info": {"title": "Freehold", "version": __version__, "description": _ABOUT},
        "tags": [{"name": name, "description": about} for name, about in _TAGS.items()],
        "paths": paths,
        "components": {
            "schemas": {
                **_schemas([route.body for route in routes if route.body is not None]),
                **_schemas([*answers, Error, MessagesError]),
            },
            "securitySchemes": _KEYS,
        },
    }


def _schemas(models: Iterable[type[BaseModel]]) -> dict[str, Any]:
    wanted = [(model, "validation") for model in dict.fromkeys(models)]
    _, whole = models_json_schema(wanted, ref_template=_REF)  # type: ignore[arg-type]
    return dict(whole["$defs"])


def _operation(route: Route) -> dict[str, Any]:
    about = inspect.getdoc(route.endpoint) or ""
    told: dict[str, Any] = {
        "operationId": route.endpoint.__name__,
        "tags": [route.tag],
        "summary": about.partition("\n")[0].rstrip(".").replace("``", "`"),
        "description": _description(route, about),
        "security": [] if route.roles == ANYONE else [{name: []} for name in _KEYS],
        "responses": _responses(route),
    }
    if parameters := _parameters(route):
        told["parameters"] = parameters
    if route.body is not None:
        told["requestBody"] = {"required": True, "content": {JSON: {"schema": _to(route.body)}}}
    return told


def _description(route: Route, about: str) -> str:
    whose = " or ".join(sorted(route.roles, reverse=True))
    needs = f"For a key of role {whose}." if whose else "For anyone."
    return f"{about.replace('``', '`')}\n\n{needs}"


def _responses(route: Route) -> dict[str, Any]:
    form = route.answer
    content: dict[str, Any] = {form: {}} if isinstance(form, str) else {JSON: {"schema": _to(form)}}
    if form == JSON:
        content = {JSON: {"schema": {"type": "object"}}}
    if route.event is not None:
        content["text/event-stream"] = {"itemSchema": _event(route)}
    told = {"200": {"description": "The answer.", "content": content}}
    error = Error if route.dialect is not ANTHROPIC else MessagesError
    # The last where keys cannot be looked up.
    always = () if route.roles == ANYONE else (401, 403, 503)
    for status in sorted({*always, *route.fails, 500}):
        body = route.answer if route.roles == ANYONE and status == 503 else error
        failure: dict[str, Any] = {
            "description": _WHEN.get(status, HTTPStatus(status).phrase),
            "content": {JSON: {"schema": _to(body)}},
        }
        if headers := _HEADERS.get(status):
            failure["headers"] = headers
        told[str(status)] = failure
    return told


def _event(route: Route) -> dict[str, Any]:
    """An event of a stream: what it may be, or that the stream failed, as text in ``data``."""
    assert route.event is not None
    forms = [_to(route.event)]
    # The others have events of their own for that.
    forms += [_to(Error)] if route.dialect is OPENAI else []
    held = {"contentMediaType": JSON, "contentSchema": {"anyOf": forms}}
    if route.dialect.end:
        held = {"if": {"const": "[DONE]"}, "else": held}
    return {
        "type": "object",
        "properties": {"event": {"type": "string"}, "data": {"type": "string", **held}},
        "required": ["data"],
    }


_HEADERS = {
    401: {"WWW-Authenticate": {"schema": {"type": "string"}}},
    429: {
        "Retry-After": {
            "description": "Seconds, where waiting helps.",
            "schema": {"type": "integer", "minimum": 1},
        }
    },
}


def _parameters(route: Route) -> list[dict[str, Any]]:
    number = {"type": "integer", "minimum": 0, "maximum": _MOST}
    told: list[dict[str, Any]] = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": {"type": "string", "minLength": 1} if name == "model" else number,
        }
        for name in re.findall(r"\{(\w+)", route.path)
    ]
    return [*told, *({"name": name, "in": "query", "schema": number} for name in route.query)]


def _to(model: type[BaseModel] | str) -> dict[str, Any]:
    assert not isinstance(model, str)
    return {"$ref": _REF.format(model=model.__name__)}

"""Every route of the counter in one table: what answers there, in which API's words, and whose key
opens it.

A path that stands in no row answers nothing, and asks for a user's key before it says so. ``GET``
rows answer ``HEAD`` too. A test walks this table, and ``docs/serve.md`` must tell the same.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import compile_path

from freehold.serve import models, records, told
from freehold.serve.chat import chat_completions
from freehold.serve.completions import completions
from freehold.serve.dialects import ANTHROPIC, OPENAI, RESPONSES, Dialect
from freehold.serve.embeddings import EmbeddingsRequest, embeddings
from freehold.serve.fields import Strict
from freehold.serve.keys import Role
from freehold.serve.messages import count_tokens, messages
from freehold.serve.messages_schema import CountRequest, MessagesRequest
from freehold.serve.moderations import ModerationsRequest, moderations
from freehold.serve.responses import responses
from freehold.serve.responses_schema import ResponsesRequest
from freehold.serve.schema import ChatRequest, CompletionRequest
from freehold.serve.tokenise import DetokenizeRequest, TokenizeRequest, detokenize, tokenize

Endpoint: TypeAlias = Callable[[Request], Awaitable[Response]]

USERS: frozenset[Role] = frozenset({"user"})
AUDITORS: frozenset[Role] = frozenset({"auditor"})
BOTH = USERS | AUDITORS
ANYONE: frozenset[Role] = frozenset()
"""No key is asked for."""


Tag: TypeAlias = Literal["answers", "text", "models", "ledger", "server"]


@dataclass(frozen=True, kw_only=True)
class Route:
    """One row. ``roles`` are those whose keys may ask, ``body`` is what a ``POST`` must bring,
    ``query`` what may be asked of a ``GET`` beside its path (whole numbers all), ``dialect`` how
    failures are told, ``fails`` which there may be beside those of every route.

    ``answer`` is what comes back: JSON of that form, or text of that media type. ``event`` is the
    form of a stream's events, where there are streams."""

    method: Literal["GET", "POST"]
    path: str
    endpoint: Endpoint
    tag: Tag
    roles: frozenset[Role]
    answer: type[BaseModel] | str
    event: type[BaseModel] | None = None
    body: type[Strict] | None = None
    query: tuple[str, ...] = ()
    dialect: Dialect = OPENAI
    fails: tuple[int, ...] = ()

    @property
    def methods(self) -> tuple[str, ...]:
        """What it answers."""
        return ("GET", "HEAD") if self.method == "GET" else ("POST",)


JSON, TEXT = "application/json", "text/plain"
_LEDGER = (400, 404)
_POST = (400, 404, 408, 413, 429, 504)


def _get(
    path: str,
    endpoint: Endpoint,
    roles: frozenset[Role],
    tag: Tag,
    answer: type[BaseModel] | str,
    *,
    query: tuple[str, ...] = (),
    fails: tuple[int, ...] = (),
) -> Route:
    return Route(
        method="GET",
        path=path,
        endpoint=endpoint,
        tag=tag,
        roles=roles,
        answer=answer,
        query=query,
        fails=fails,
    )


def _post(
    path: str,
    endpoint: Endpoint,
    tag: Tag,
    *,
    body: type[Strict],
    answer: type[BaseModel],
    event: type[BaseModel] | None = None,
    dialect: Dialect = OPENAI,
) -> Route:
    return Route(
        method="POST",
        path=path,
        endpoint=endpoint,
        tag=tag,
        roles=USERS,
        body=body,
        answer=answer,
        event=event,
        dialect=dialect,
        fails=_POST,
    )


def _audit(path: str, endpoint: Endpoint, answer: type[BaseModel] | str, *query: str) -> Route:
    return _get(
        "/v1/ledger" + path, endpoint, AUDITORS, "ledger", answer, query=query, fails=_LEDGER
    )


ROUTES: tuple[Route, ...] = (
    # Open: a load balancer holds no key, and is told nothing but whether to send requests here.
    _get("/health", models.health, ANYONE, "server", told.Health, fails=(503,)),
    _get("/metrics", models.metrics, USERS, "server", TEXT),
    _get("/residency", models.show_residency, USERS, "server", told.Residency, fails=(404,)),
    _get("/openapi.json", models.openapi, USERS, "server", JSON),
    _get("/v1/models", models.list_models, USERS, "models", told.Models),
    _get("/v1/models/{model:path}", models.show_model, USERS, "models", told.Model, fails=(404,)),
    _get("/v1/passports", models.list_passports, BOTH, "models", told.Passports),
    _get("/v1/passports/{model:path}", models.show_passport, BOTH, "models", JSON, fails=(404,)),
    _audit("/checkpoint", records.checkpoint, TEXT),
    _audit("/leaves", records.leaves, told.Leaves, "first", "count"),
    _audit("/entries/{number}", records.entry, told.Leaves),
    _audit("/inclusion/{leaf}", records.inclusion, told.Inclusion, "size"),
    _audit("/consistency", records.consistency, told.Consistency, "first", "second"),
    _post(
        "/v1/chat/completions",
        chat_completions,
        "answers",
        body=ChatRequest,
        answer=told.ChatCompletion,
        event=told.ChatCompletionChunk,
    ),
    _post(
        "/v1/completions",
        completions,
        "answers",
        body=CompletionRequest,
        answer=told.Completion,
        event=told.CompletionChunk,
    ),
    _post(
        "/v1/responses",
        responses,
        "answers",
        body=ResponsesRequest,
        answer=told.Response,
        event=told.ResponsesEvent,
        dialect=RESPONSES,
    ),
    _post(
        "/v1/messages",
        messages,
        "answers",
        body=MessagesRequest,
        answer=told.MessagesAnswer,
        event=told.MessagesEvent,
        dialect=ANTHROPIC,
    ),
    _post(
        "/v1/messages/count_tokens",
        count_tokens,
        "text",
        body=CountRequest,
        answer=told.CountedTokens,
        dialect=ANTHROPIC,
    ),
    _post("/v1/embeddings", embeddings, "text", body=EmbeddingsRequest, answer=told.Embeddings),
    _post("/v1/moderations", moderations, "text", body=ModerationsRequest, answer=told.Moderations),
    _post("/tokenize", tokenize, "text", body=TokenizeRequest, answer=told.Tokens),
    _post(
        "/detokenize",
        detokenize,
        "text",
        body=DetokenizeRequest,
        answer=told.Text,
    ),
)

_PATTERNS = tuple((compile_path(route.path)[0], route) for route in ROUTES)


def roles_of(path: str) -> frozenset[Role]:
    """Whose keys may ask for ``path``; ``ANYONE`` where none is needed."""
    found = _find(path)
    return USERS if found is None else found.roles


def dialect_of(path: str) -> Dialect:
    """In which API's words a failure on ``path`` is told."""
    found = _find(path)
    return OPENAI if found is None else found.dialect


def _find(path: str) -> Route | None:
    return next((route for pattern, route in _PATTERNS if pattern.match(path)), None)

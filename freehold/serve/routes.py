"""Every route of the counter in one table: what answers there, in which API's words, and whose key
opens it.

A path that stands in no row answers nothing, and asks for a user's key before it says so. ``GET``
rows answer ``HEAD`` too. A test walks this table, and ``docs/serve.md`` must tell the same.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import compile_path

from freehold.serve import models, records, tokenise
from freehold.serve.chat import chat_completions
from freehold.serve.completions import completions
from freehold.serve.dialects import ANTHROPIC, OPENAI, RESPONSES, Dialect
from freehold.serve.embeddings import EmbeddingsRequest, embeddings
from freehold.serve.keys import Role
from freehold.serve.messages import count_tokens, messages
from freehold.serve.messages_schema import CountRequest, MessagesRequest
from freehold.serve.moderations import ModerationsRequest, moderations
from freehold.serve.responses import responses
from freehold.serve.responses_schema import ResponsesRequest
from freehold.serve.schema import ChatRequest, CompletionRequest, Strict

Endpoint: TypeAlias = Callable[[Request], Awaitable[Response]]

USERS: frozenset[Role] = frozenset({"user"})
AUDITORS: frozenset[Role] = frozenset({"auditor"})
BOTH = USERS | AUDITORS
ANYONE: frozenset[Role] = frozenset()
"""No key is asked for."""


@dataclass(frozen=True, kw_only=True)
class Route:
    """One row. ``roles`` are those whose keys may ask, ``body`` is what a ``POST`` must bring,
    ``dialect`` how failures are told."""

    method: Literal["GET", "POST"]
    path: str
    endpoint: Endpoint
    roles: frozenset[Role]
    body: type[Strict] | None = None
    dialect: Dialect = OPENAI

    @property
    def methods(self) -> tuple[str, ...]:
        """What it answers."""
        return ("GET", "HEAD") if self.method == "GET" else ("POST",)


def _get(path: str, endpoint: Endpoint, roles: frozenset[Role]) -> Route:
    return Route(method="GET", path=path, endpoint=endpoint, roles=roles)


def _post(path: str, endpoint: Endpoint, body: type[Strict], dialect: Dialect = OPENAI) -> Route:
    return Route(
        method="POST", path=path, endpoint=endpoint, roles=USERS, body=body, dialect=dialect
    )


ROUTES: tuple[Route, ...] = (
    # Open: a load balancer holds no key, and is told nothing but whether to send requests here.
    _get("/health", models.health, ANYONE),
    _get("/metrics", models.metrics, USERS),
    _get("/residency", models.show_residency, USERS),
    _get("/openapi.json", models.openapi, USERS),
    _get("/v1/models", models.list_models, USERS),
    _get("/v1/models/{model:path}", models.show_model, USERS),
    _get("/v1/passports", models.list_passports, BOTH),
    _get("/v1/passports/{model:path}", models.show_passport, BOTH),
    _get("/v1/ledger/checkpoint", records.checkpoint, AUDITORS),
    _get("/v1/ledger/leaves", records.leaves, AUDITORS),
    _get("/v1/ledger/entries/{number}", records.entry, AUDITORS),
    _get("/v1/ledger/inclusion/{leaf}", records.inclusion, AUDITORS),
    _get("/v1/ledger/consistency", records.consistency, AUDITORS),
    _post("/v1/chat/completions", chat_completions, ChatRequest),
    _post("/v1/completions", completions, CompletionRequest),
    _post("/v1/embeddings", embeddings, EmbeddingsRequest),
    _post("/v1/messages", messages, MessagesRequest, ANTHROPIC),
    _post("/v1/messages/count_tokens", count_tokens, CountRequest, ANTHROPIC),
    _post("/v1/moderations", moderations, ModerationsRequest),
    _post("/v1/responses", responses, ResponsesRequest, RESPONSES),
    _post("/tokenize", tokenise.tokenize, tokenise.TokenizeRequest),
    _post("/detokenize", tokenise.detokenize, tokenise.DetokenizeRequest),
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

"""The onion around every route, outermost first; ``app.py`` holds the order in one list.

Pure ASGI, so that a stream passes through without being wrapped or buffered.
"""

from __future__ import annotations

import logging
import secrets
import time
from contextlib import AbstractContextManager, nullcontext

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from freehold.errors import FreeholdError
from freehold.serve.desk import Desk
from freehold.serve.errors import (
    INTERNAL,
    INVALID,
    ClientGoneError,
    Problem,
    ProblemError,
    problem_of,
)
from freehold.serve.keys import KeyInfo
from freehold.serve.protocol import CERTIFICATE
from freehold.serve.routes import ANYONE, dialect_of, roles_of
from freehold.serve.tracing import Trace, tracing

ACCESS = logging.getLogger("freehold.access")
LOG = logging.getLogger("freehold.serve")

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_CLIENT_GONE = 499
_MAX_LOGGED_PATH = 200
_MAX_PARENT = 256


class Observe:
    """Gives each request an id, counts and times it, and writes one access-log line.

    The line never holds headers, query strings or bodies; the path stays percent-encoded, so that
    it cannot break the line.
    """

    def __init__(self, app: ASGIApp, *, desk: Desk) -> None:
        self._app = app
        self._desk = desk

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = f"req-{secrets.token_hex(12)}"
        scope.setdefault("state", {})["request_id"] = request_id
        started = time.perf_counter()
        status = _CLIENT_GONE

        async def named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        try:
            with self._traced(scope) as trace:
                await self._app(scope, receive, named)
        finally:
            if scope["state"].get("client_gone"):
                status = _CLIENT_GONE
            self._record(scope, status, time.perf_counter() - started)
            if trace is not None and self._desk.traces is not None:
                self._desk.traces(_closed(trace, scope, status))

    def _traced(self, scope: Scope) -> AbstractContextManager[Trace | None]:
        if self._desk.traces is None:
            return nullcontext()
        parents = Headers(scope=scope).getlist("traceparent")
        return tracing(Trace(parents[0][:_MAX_PARENT] if len(parents) == 1 else ""))

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        method = scope["method"] if scope["method"] in _METHODS else "other"
        route = getattr(scope.get("route"), "path", "unmatched")
        self._desk.metrics.request(route, method, status, seconds)
        path = scope["raw_path"].decode("ascii", "replace")[:_MAX_LOGGED_PATH]
        state = scope["state"]
        key = state.get("key_id", "-")
        ACCESS.info(
            "%s %s %d %.3fs %s key=%s", method, path, status, seconds, state["request_id"], key
        )


def _closed(trace: Trace, scope: Scope, status: int) -> Trace:
    """The trace of a request that has ended, with what is known of it as a whole."""
    whole, state = trace.spans[0], scope["state"]
    whole.say("http.request.method", scope["method"] if scope["method"] in _METHODS else "_OTHER")
    whole.say("http.route", getattr(scope.get("route"), "path", "unmatched"))
    whole.say("http.response.status_code", status)
    whole.say("freehold.request", state["request_id"])
    whole.say("freehold.key", state.get("key_id", ""))
    trace.close(failed=status >= INTERNAL.status)
    return trace


class Catch:
    """Turns every exception into an answer in the shape of the API that was asked."""

    def __init__(self, app: ASGIApp, *, desk: Desk) -> None:
        self._app = app
        self._refused = desk.metrics.refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def watched(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except ClientGoneError:
            scope["state"]["client_gone"] = True
        except FreeholdError as error:
            if begun:
                raise
            problem = problem_of(error)
            self._refused(problem.code or "none")
            if problem.status >= INTERNAL.status:
                LOG.error("%s: %s", scope["state"]["request_id"], error)
            await dialect_of(scope["path"]).response(problem)(scope, receive, send)
        except Exception:
            # The one broad except: whatever defect reaches the counter's edge is logged here in
            # full and told to the client without its inside.
            LOG.exception("%s: unexpected error", scope["state"]["request_id"])
            self._refused(INTERNAL.code or "none")
            if begun:
                raise
            await dialect_of(scope["path"]).response(INTERNAL)(scope, receive, send)


class Authenticate:
    """Lets nothing pass without a key that ``routes.py`` does not leave open: not even a 404. And
    nothing that is not for the key's role."""

    def __init__(self, app: ASGIApp, *, desk: Desk) -> None:
        self._app = app
        self._keys = desk.keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        roles = roles_of(scope["path"])
        if roles != ANYONE:
            key = await self._key(Headers(scope=scope), scope["state"].get(CERTIFICATE))
            scope["state"]["key_id"] = key.id
            scope["state"]["key"] = key
            if key.role not in roles:
                raise ProblemError(_not_yours(key.role))
        await self._app(scope, receive, send)

    async def _key(self, headers: Headers, certificate: str | None) -> KeyInfo:
        scheme, _, secret = headers.get("authorization", "").partition(" ")
        # Anthropic's clients have a header of their own.
        secret = secret if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        secret = secret.strip()
        key = await self._keys.opens(secret, certificate) if secret or certificate else None
        if key is None and not secret:
            raise ProblemError(
                _unauthorised(
                    "no API key was given: send the header 'Authorization: Bearer KEY' (or "
                    "'x-api-key: KEY') with a key from `freehold keys add`",
                    code=None,
                )
            )
        if key is None:
            raise ProblemError(
                _unauthorised(
                    "the API key is unknown or revoked: ask this server's operator for one",
                    code="invalid_api_key",
                )
            )
        if key.expired:
            raise ProblemError(
                _unauthorised(
                    f"the API key ended at {key.expires:%Y-%m-%d %H:%M} UTC: ask this server's "
                    "operator for another",
                    code="expired_api_key",
                )
            )
        if key.certificate is not None and key.certificate != certificate:
            raise ProblemError(
                _unauthorised(
                    "the API key opens only with the client certificate that it is bound to: "
                    "connect over TLS with that certificate",
                    code="certificate_required",
                )
            )
        return key


def _not_yours(role: str) -> Problem:
    return Problem(
        status=403,
        message=(
            f"this key's role is {role}, which may not ask for this: an auditor reads the ledger "
            "and passports and nothing else, a user everything but the ledger"
        ),
        code="wrong_role",
    )


def _unauthorised(message: str, code: str | None) -> Problem:
    return Problem(
        status=401,
        message=message,
        type=INVALID,
        code=code,
        headers={"www-authenticate": 'Bearer realm="freehold"'},
    )


class BodyLimit:
    """Refuses a body longer than ``limits.max_body`` bytes, announced or not."""

    def __init__(self, app: ASGIApp, *, desk: Desk) -> None:
        self._app = app
        self._most = desk.limits.max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isdecimal() and int(announced) > self._most:
            await self._skip(receive)
            raise self._too_large()
        taken = 0

        async def counted() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self._most:
                # After the last piece nothing more would come, and no answer would go out.
                if message.get("more_body", False):
                    await self._skip(receive)
                raise self._too_large()
            return message

        await self._app(scope, counted, send)

    async def _skip(self, receive: Receive) -> None:
        """Read on for a while: a client that is still sending would not read our answer."""
        left = 4 * self._most
        while left > 0:
            message = await receive()
            left -= len(message.get("body", b""))
            if not message.get("more_body", False):
                return

    def _too_large(self) -> ProblemError:
        return ProblemError(
            Problem(
                status=413,
                message=f"the request body is larger than {self._most} bytes: send less at a time",
                code="request_too_large",
                headers={"connection": "close"},
            )
        )

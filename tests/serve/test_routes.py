"""The table of routes, walked: who is let in where, and that the page of the docs says the same."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from freehold.serve.routes import ANYONE, ROUTES, Route

PAGE = Path(__file__).resolve().parents[2] / "docs" / "serve.md"
NOWHERE = [("GET", "/"), ("GET", "/nope"), ("POST", "/v1/nope"), ("GET", "/docs")]
WORDS = {
    "no": ANYONE,
    "a user's": frozenset({"user"}),
    "an auditor's": frozenset({"auditor"}),
    "a user's or an auditor's": frozenset({"user", "auditor"}),
}


def _path(route: Route) -> str:
    """A path that the row matches."""
    return re.sub(r"\{[^}]*\}", "1", route.path.replace("{model:path}", "scripted-1"))


def _calls() -> list[tuple[str, str, Route]]:
    return [(method, _path(route), route) for route in ROUTES for method in route.methods]


def test_the_application_has_the_routes_of_the_table_and_no_other(shared_counter: Any) -> None:
    there = sorted((method, r.path) for r in shared_counter.app.routes for method in r.methods)
    assert there == sorted((method, route.path) for method, _, route in _calls())
    assert len(there) == len(set(there))


def test_only_health_is_open() -> None:
    assert [route.path for route in ROUTES if route.roles == ANYONE] == ["/health"]


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer  x",
        "Bearer wrong",
        "Bearer fh-aaaaaaaaaaaa-wrong",
        "Basic dXNlcjpwYXNz",
        "KEY",
    ],
)
def test_every_route_refuses_a_call_without_a_key(shared_counter: Any, header: str | None) -> None:
    headers = {} if header is None else {"authorization": header.replace("KEY", shared_counter.key)}
    guarded = [(method, path) for method, path, route in _calls() if route.roles != ANYONE]
    with httpx.Client(base_url=shared_counter.url, headers=headers) as client:
        for method, path in [*guarded, *NOWHERE, ("PUT", "/v1/models"), ("POST", "/metrics")]:
            answer = client.request(method, path)
            assert answer.status_code == 401, (method, path)
            assert answer.headers["www-authenticate"] == 'Bearer realm="freehold"'
            if method != "HEAD":
                error, other = answer.json()["error"], path.startswith("/v1/messages")
                assert error["message"]
                assert (
                    error["type"] == ("authentication" if other else "invalid_request") + "_error"
                )


@pytest.mark.parametrize("role", ["user", "auditor"])
def test_every_route_lets_in_the_roles_of_its_row_and_no_other(counter: Any, role: str) -> None:
    running = counter()
    headers = {"authorization": f"Bearer {running.keys.add(role, role=role).secret}"}
    with httpx.Client(base_url=running.url, headers=headers) as client:
        for method, path, route in _calls():
            status = client.request(method, path).status_code
            assert status < 500
            assert (status == 403) == (route.roles != ANYONE and role not in route.roles), (
                method,
                path,
            )
        for path in ("/", "/v1/ledger", "/v1/ledgers/x", "/v1/ledger/../metrics", "/nope"):
            assert client.get(path).status_code == (404 if role == "user" else 403), path


def test_the_page_of_the_docs_lists_the_same_routes() -> None:
    rows = re.findall(r"^\| `(GET|POST) (/\S*)` \| ([^|]+) \|", PAGE.read_text(), re.MULTILINE)
    told = {(method, path): WORDS[whose] for method, path, whose in rows}
    assert told == {
        (route.method, route.path.replace(":path", "")): route.roles for route in ROUTES
    }

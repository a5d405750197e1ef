"""The real server of the real default model, held to the OpenAPI document."""

from __future__ import annotations

import httpx
import pytest

from freehold.serve.routes import ROUTES, Route
from tests.house.running import DEFAULT, Server
from tests.serve.asking import DOCUMENT, right, wrong

OURS = [route for route in ROUTES if "user" in route.roles]
EACH = pytest.mark.parametrize("route", OURS, ids=lambda route: f"{route.method} {route.path}")


def test_the_document_is_the_one_that_is_served(server: Server) -> None:
    headers = {"authorization": f"Bearer {server.key}"}
    assert httpx.get(f"{server.address}/openapi.json", headers=headers).json() == DOCUMENT


@pytest.mark.slow
@EACH
@pytest.mark.timeout(1800)
def test_what_is_right_by_the_document_is_answered_as_it_says(server: Server, route: Route) -> None:
    right(route, server.address, server.key, DEFAULT, examples=60)


@pytest.mark.slow
@EACH
@pytest.mark.timeout(1800)
def test_what_is_wrong_by_the_document_is_refused_as_it_says(server: Server, route: Route) -> None:
    if route.body is None:
        pytest.skip("nothing can be wrong")
    wrong(route, server.address, server.key, DEFAULT, examples=60)

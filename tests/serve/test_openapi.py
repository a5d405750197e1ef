"""The OpenAPI document, and the counter held to it: whatever is asked, no 5xx, and no answer but
the document tells of it."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator

from freehold.guard.cascade import Cascade
from freehold.guard.policy import BUILT_IN
from freehold.ledger import KeeperSettings
from freehold.serve.limits import Limits
from freehold.serve.routes import ANYONE, ROUTES, Route
from tests.serve.asking import DOCUMENT, path_of, right, wrong
from tests.serve.test_fuzz import BASE, CHAT, NAME, TEXT

EACH = pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
SAID = '<think>Well.</think>Yes.<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>'
TOOL = {"name": "f", "description": "F.", "parameters": {"type": "object"}}
TOOLS = [{"type": "function", "function": TOOL}]
RICH: list[tuple[str, dict[str, Any]]] = [
    (CHAT, {"n": 2, "tools": TOOLS, "logprobs": True, "top_logprobs": 2}),
    (CHAT, {"max_tokens": 12}),
    (TEXT, {"n": 2, "logprobs": 2, "echo": True, "prompt": ["a", "b"]}),
    ("/v1/messages", {"thinking": {"type": "enabled"}, "stop_sequences": ["s."]}),
    ("/v1/messages", {"tools": [{"name": "f", "input_schema": {"type": "object"}}]}),
    (
        "/v1/responses",
        {
            "tools": [{"type": "function", **TOOL}],
            "include": ["message.output_text.logprobs"],
            "instructions": "Be kind.",
            "metadata": {"a": "b"},
            "reasoning": {"effort": "low"},
        },
    ),
    ("/v1/responses", {"max_output_tokens": 20, "tool_choice": "none"}),
]


class Asked:
    """A counter whose model thinks and calls, with a ledger, and a key for each role."""

    def __init__(self, running: Any) -> None:
        self.url = running.url
        self._keys = {
            role: running.keys.add(role, role=role).secret for role in ("user", "auditor")
        }

    def key(self, route: Route) -> str:
        return self._keys["auditor" if route.roles == frozenset({"auditor"}) else "user"]

    def post(self, path: str, body: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {self._keys['user']}"}
        return httpx.post(self.url + path, json=body, headers=headers, timeout=60)


@pytest.fixture(scope="module")
def asked(scripted: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    folder = tmp_path_factory.mktemp("openapi")
    card = dataclasses.replace(scripted.CARD, caps=scripted.CARD.caps | {"grammar"}, context=4096)
    one = scripted.Opened(
        folder,
        scripted.ScriptedEngine(card=card, reply=lambda _: SAID.encode()),
        scripted.ScriptedCodec(calls="json", thinking="free"),
        Limits(max_body=1 << 20),
        keeper=KeeperSettings(
            root=str(folder),
            keys=str(folder / "keys"),
            ledger=str(folder / "ledger.sqlite"),
            content="clear",
        ),
        guard=Cascade(BUILT_IN, detectors=[scripted.WordGuard()]),
    )
    running = Asked(one.open())
    # Something for the ledger's routes to tell of.
    for path in (CHAT, "/v1/embeddings"):
        assert running.post(path, BASE[path]).is_success
    yield running
    one.close()


# --- the counter, held to the document ------------------------------------------------------------


@EACH
def test_what_is_right_by_the_document_is_answered_as_it_says(asked: Asked, route: Route) -> None:
    right(route, asked.url, asked.key(route), NAME)


@pytest.mark.parametrize(
    "route", [route for route in ROUTES if route.body or route.query], ids=lambda route: route.path
)
def test_what_is_wrong_by_the_document_is_refused_as_it_says(asked: Asked, route: Route) -> None:
    wrong(route, asked.url, asked.key(route), NAME)


def _check(found: object, schema: dict[str, Any]) -> None:
    Draft202012Validator({**schema, "components": DOCUMENT["components"]}).validate(found)


@pytest.mark.parametrize(("path", "more"), RICH)
def test_rich_answers_are_as_the_document_says(
    asked: Asked, path: str, more: dict[str, Any]
) -> None:
    content = DOCUMENT["paths"][path]["post"]["responses"]["200"]["content"]
    body = {**BASE[path], _most(path): 200, **more}
    whole = asked.post(path, body)
    assert whole.status_code == 200, whole.text
    _check(whole.json(), content["application/json"]["schema"])
    streamed = asked.post(path, {**body, "stream": True})
    events = [json.loads(one) for one in re.findall(r"(?m)^data: (\{.*)$", streamed.text)]
    assert len(events) > 3
    data = content["text/event-stream"]["itemSchema"]["properties"]["data"]
    for event in events:
        _check(event, data.get("else", data)["contentSchema"])
    # An API whose stream tells the whole answer once more at its end.
    if "response" in events[-1]:
        _check(events[-1]["response"], content["application/json"]["schema"])


def _most(path: str) -> str:
    return "max_output_tokens" if path.endswith("responses") else "max_tokens"


# --- the document itself --------------------------------------------------------------------------


def test_the_document_tells_of_every_route() -> None:
    told = {(method.upper(), path) for path, one in DOCUMENT["paths"].items() for method in one}
    assert told == {(route.method, path_of(route)) for route in ROUTES}


def test_every_operation_is_introduced() -> None:
    operations = [one for path in DOCUMENT["paths"].values() for one in path.values()]
    tags = {tag["name"] for tag in DOCUMENT["tags"]}
    assert {tag for one in operations for tag in one["tags"]} == tags
    assert len({one["operationId"] for one in operations}) == len(operations)
    for one in operations:
        assert 10 < len(one["summary"]) < 100, one["summary"]
        assert one["responses"].keys() >= {"200", "500"}


def test_every_schema_is_one() -> None:
    for schema in DOCUMENT["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
        assert schema.get("description") or schema.get("enum"), schema["title"]


def test_every_operation_refuses_without_a_key(shared_counter: Any) -> None:
    free = []
    for path, operations in DOCUMENT["paths"].items():
        for method, one in operations.items():
            answer = httpx.request(method, shared_counter.url + re.sub("[{}]", "", path))
            assert (answer.status_code == 401) == bool(one["security"]), path
            free += [] if one["security"] else [path]
    assert free == [route.path for route in ROUTES if route.roles == ANYONE]

"""The application as a whole: its routes, and who may use them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from freehold.errors import UsageError
from freehold.serve.app import Hosted, Limits, build
from freehold.serve.keys import Keyring

NOWHERE = [("GET", "/"), ("GET", "/nope"), ("POST", "/v1/nope"), ("GET", "/docs")]


@pytest.mark.parametrize("path", ["/health/", "/health/../metrics", "//health", "/HEALTH"])
def test_nothing_like_health_is_open(shared_counter: Any, path: str) -> None:
    url = httpx.URL(shared_counter.url).copy_with(raw_path=path.encode())
    assert httpx.get(url).status_code == 401


def test_official_client_sees_a_wrong_key(shared_counter: Any) -> None:
    client = openai.OpenAI(base_url=f"{shared_counter.url}/v1", api_key="wrong", max_retries=0)
    with pytest.raises(openai.AuthenticationError) as caught:
        client.models.list()
    assert caught.value.code == "invalid_api_key"


def test_a_revoked_key_ends_at_once(counter: Callable[..., Any]) -> None:
    running = counter()
    new = running.keys.add("guest")
    headers = {"authorization": f"bearer {new.secret}"}
    assert httpx.get(running.url + "/v1/models", headers=headers).status_code == 200
    running.keys.revoke("guest")
    assert httpx.get(running.url + "/v1/models", headers=headers).status_code == 401


def test_unknown_paths_and_methods(http: httpx.Client) -> None:
    for method, path in NOWHERE:
        answer = http.request(method, path)
        assert answer.status_code == 404, path
        assert answer.json()["error"]["code"] == "unknown_url"
    for method, path, allowed in [
        ("PUT", "/v1/models", "GET, HEAD"),
        ("GET", "/v1/chat/completions", "POST"),
        ("OPTIONS", "/v1/completions", "POST"),
        ("DELETE", "/health", "GET, HEAD"),
    ]:
        answer = http.request(method, path)
        assert answer.status_code == 405, path
        assert answer.json()["error"]["code"] == "method_not_allowed"
        assert answer.headers["allow"] == allowed


def test_no_cross_origin_headers(http: httpx.Client) -> None:
    for method in ("GET", "OPTIONS"):
        answer = http.request(method, "/v1/models", headers={"origin": "https://example.org"})
        assert not [name for name in answer.headers if name.startswith("access-control")]


def test_head(http: httpx.Client) -> None:
    for path in ("/health", "/metrics", "/openapi.json", "/v1/models", "/v1/models/scripted-1"):
        answer = http.head(path)
        assert answer.status_code == 200
        assert answer.content == b""


def test_openapi_is_whole_and_local(http: httpx.Client) -> None:
    document = http.get("/openapi.json").json()
    text = json.dumps(document)
    schemas = document["components"]["schemas"]
    for reference in set(text.split('"$ref": "')[1:]):
        name = reference.split('"')[0].removeprefix("#/components/schemas/")
        assert name in schemas
    assert {"ChatRequest", "CompletionRequest", "ChatMessage"} <= set(schemas)
    assert set(document["paths"]) >= {"/v1/chat/completions", "/v1/completions", "/v1/models"}
    assert "://" not in text


def test_two_models_of_one_name_are_refused(scripted: Any, tmp_path: Any) -> None:
    keys = Keyring(f"sqlite:///{tmp_path / 'keys.db'}")
    one = Hosted(
        name="a",
        card=scripted.CARD,
        engine=scripted.ScriptedEngine(),
        codec=scripted.ScriptedCodec(),
        created=0,
        aliases=("a",),
    )
    with pytest.raises(UsageError, match="two models"):
        build([one], keys, Limits())


def test_what_the_server_was_not_given_is_not_found(scripted: Any, tmp_path: Path) -> None:
    keys = Keyring(f"sqlite:///{tmp_path / 'keys.db'}")
    one = Hosted(
        name="a",
        card=scripted.CARD,
        engine=scripted.ScriptedEngine(),
        codec=scripted.ScriptedCodec(),
        created=0,
    )
    headers = {"authorization": f"Bearer {keys.add('user').secret}"}

    async def ask(path: str) -> httpx.Response:
        across = httpx.ASGITransport(build([one], keys, Limits()))
        async with httpx.AsyncClient(transport=across, base_url="http://here") as client:
            return await client.get(path, headers=headers)

    for path, missing in (("/residency", "its lock"), ("/v1/passports/a", "passports")):
        answer = asyncio.run(ask(path))
        assert answer.status_code == 404
        assert missing in answer.json()["error"]["message"]

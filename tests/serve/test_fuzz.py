"""Whatever comes in, no 5xx goes out, and every refusal has its API's shape."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from freehold.serve.dialects import ANTHROPIC, OPENAI
from freehold.serve.routes import ROUTES

NAME = "scripted-1"
CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
POSTS = {route.path: route for route in ROUTES if route.body is not None}
FIELDS = sorted({name for route in POSTS.values() if route.body for name in route.body.known})
KEYS = [
    *("role", "content", "type", "text", "name", "user", "system", "assistant", "include_usage"),
    *("function", "tool", "json_schema", "schema", "properties", "id", "input", "arguments"),
    *("tool_use", "tool_result", "function_call", "call_id", "message", "any", "required"),
]

_scalars = (
    st.none()
    | st.booleans()
    | st.integers(min_value=-(10**25), max_value=10**25)
    | st.integers(min_value=-3, max_value=30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=12)
    | st.sampled_from([*KEYS, NAME, ""])
)
_json = st.recursive(
    _scalars,
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=6), inner, max_size=5)
    ),
    max_leaves=12,
)
_asked = {"messages": [{"role": "user", "content": "hello"}]}
BASE: dict[str, dict[str, Any]] = {
    CHAT: {"model": NAME, "max_tokens": 8, **_asked},
    TEXT: {"model": NAME, "prompt": ">hello", "max_tokens": 8},
    "/v1/messages": {"model": NAME, "max_tokens": 8, **_asked},
    "/v1/messages/count_tokens": {"model": NAME, **_asked},
    "/v1/responses": {"model": NAME, "input": "hello", "max_output_tokens": 8},
    "/v1/embeddings": {"model": NAME, "input": ["hello", "you"]},
    "/v1/moderations": {"input": ["hello", "you"]},
    "/tokenize": {"model": NAME, **_asked},
    "/detokenize": {"model": NAME, "tokens": [104, 105]},
}


def test_every_route_with_a_body_is_here() -> None:
    assert BASE.keys() == POSTS.keys()


_fuzz = settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def _well_behaved(answer: httpx.Response, path: str) -> None:
    assert answer.status_code < 500, answer.text
    dialect = POSTS[path].dialect
    if answer.status_code != 200:
        error = answer.json()["error"]
        assert set(error) == (
            {"message", "type"} if dialect is ANTHROPIC else {"message", "type", "param", "code"}
        )
        assert answer.status_code in {400, 404, 413}
    elif answer.headers["content-type"].startswith("text/event-stream"):
        assert answer.text.endswith("data: [DONE]\n\n") == (dialect is OPENAI)
    else:
        assert answer.json()


@pytest.mark.parametrize("path", BASE)
@_fuzz
@given(body=_json)
def test_any_json(http: httpx.Client, path: str, body: Any) -> None:
    content = json.dumps(body).encode("utf-8", "surrogatepass")
    _well_behaved(http.post(path, content=content), path)


@pytest.mark.parametrize("path", BASE)
@_fuzz
@given(changes=st.dictionaries(st.sampled_from(FIELDS), _json, min_size=1, max_size=3))
def test_changed_fields(http: httpx.Client, path: str, changes: dict[str, Any]) -> None:
    body = {**BASE[path], **changes}
    content = json.dumps(body).encode("utf-8", "surrogatepass")
    _well_behaved(http.post(path, content=content), path)


@pytest.mark.parametrize("path", BASE)
@_fuzz
@given(body=st.binary(max_size=200))
def test_any_bytes(http: httpx.Client, path: str, body: bytes) -> None:
    answer = http.post(path, content=body)
    _well_behaved(answer, path)
    assert answer.status_code == 400


@pytest.mark.parametrize("path", BASE)
@_fuzz
@given(data=st.data())
def test_damaged_bytes(http: httpx.Client, path: str, data: st.DataObject) -> None:
    body = bytearray(json.dumps(BASE[path]).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(body) - 1))
        kind = data.draw(st.sampled_from(["flip", "drop", "cut"]))
        if kind == "flip":
            body[place] ^= 1 << data.draw(st.integers(0, 7))
        elif kind == "drop" and len(body) > 1:
            del body[place]
        else:
            del body[place + 1 :]
    _well_behaved(http.post(path, content=bytes(body)), path)


@_fuzz
@given(path=st.text(max_size=40), method=st.sampled_from(["GET", "POST", "PUT", "DELETE", "PATCH"]))
def test_any_path(http: httpx.Client, path: str, method: str) -> None:
    try:
        url = httpx.URL(str(http.base_url)).copy_with(path="/" + path)
    except httpx.InvalidURL:
        return
    answer = http.request(method, url)
    assert answer.status_code < 500
    if answer.status_code != 200:
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}

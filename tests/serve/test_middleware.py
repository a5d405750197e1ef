"""The onion: nothing secret is logged, nothing too large is read, nothing inside is told."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from freehold.serve.limits import Limits

NAME = "scripted-1"
CHAT = "/v1/chat/completions"
BODY = {"model": NAME, "messages": [{"role": "user", "content": "SECRET-PROMPT"}]}


def test_logs_hold_no_secret(counter: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    running = counter()
    stored = running.keys.add("guest").secret
    with httpx.Client(base_url=running.url) as client:
        for secret in (running.key, stored, "fh-aaaaaaaaaaaa-WRONGSECRET"):
            headers = {"authorization": f"Bearer {secret}"}
            client.post(CHAT + f"?key={secret}", json=BODY, headers=headers)
            client.post(CHAT, json={**BODY, "chat_template_kwargs": {"defect": 1}}, headers=headers)
            client.post(CHAT, content=b"SECRET-PROMPT", headers=headers)
            client.get(f"/nope?token={secret}", headers=headers)
    ours = [r for r in caplog.records if not r.name.startswith(("httpx", "httpcore"))]
    text = "\n".join(logging.Formatter("%(name)s %(message)s").format(record) for record in ours)
    assert "freehold.access" in text
    assert "/nope 404" in text
    assert "unexpected error" in text
    for secret in (running.key, stored, "WRONGSECRET", "SECRET-PROMPT", "token="):
        assert secret not in text


def access_line(caplog: pytest.LogCaptureFixture) -> str:
    """The only access line. It is written once the answer is out, so the client may be first."""
    end = time.monotonic() + 10
    while True:
        lines = [r.getMessage() for r in caplog.records if r.name == "freehold.access"]
        if lines or time.monotonic() > end:
            assert len(lines) == 1
            return lines[0]
        time.sleep(0.01)


def test_access_line_names_the_key_and_not_its_secret(
    counter: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="freehold.access")
    running = counter()
    new = running.keys.add("guest")
    headers = {"authorization": f"Bearer {new.secret}"}
    answer = httpx.get(running.url + "/v1/models?x=1", headers=headers)
    line = access_line(caplog)
    assert line.startswith("GET /v1/models 200 ")
    assert f"key={new.id}" in line
    assert answer.headers["x-request-id"] in line


def test_a_path_cannot_break_its_log_line(
    counter: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="freehold.access")
    running = counter()
    httpx.get(running.url + "/a%0aGET%20/forged%20200" + "x" * 1000, headers=running.auth)
    line = access_line(caplog)
    assert "\n" not in line
    assert len(line) < 400


def test_a_defect_tells_nothing(http: httpx.Client) -> None:
    answer = http.post(CHAT, json={**BODY, "chat_template_kwargs": {"defect": 1}})
    assert answer.status_code == 500
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == ("server_error", "internal_error")
    assert "secret" not in answer.text
    assert answer.headers["x-request-id"]


@pytest.fixture
def small(counter: Callable[..., Any]) -> Iterator[httpx.Client]:
    running = counter(limits=Limits(max_body=2000))
    with httpx.Client(base_url=running.url, headers=running.auth) as client:
        yield client


@pytest.mark.parametrize("size", [2001, 100_000, 7_000_000])
@pytest.mark.parametrize("announced", [True, False])
def test_a_large_body_is_413(small: httpx.Client, size: int, announced: bool) -> None:
    body = b"x" * size
    pieces = (body[i : i + 65_536] for i in range(0, size, 65_536))
    answer = small.post(CHAT, content=body if announced else pieces)
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "request_too_large"
    # The counter still answers.
    assert small.post(CHAT, json=BODY).status_code == 200


def test_a_body_at_the_limit_is_read(small: httpx.Client) -> None:
    start = b'{"model":"scripted-1","messages":[{"role":"user","content":"hi"}]'
    body = start + b" " * (2000 - len(start) - 1) + b"}"
    assert len(body) == 2000
    assert small.post(CHAT, content=body).status_code == 200

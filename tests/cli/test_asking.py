"""A guard model at an address on this machine: where it may be, and how it is asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from freehold.cli.asking import asking, endpoint_of
from freehold.cli.settings import Settings
from freehold.errors import EngineError, UsageError
from freehold.guard.qwen3guard import UNREADABLE

NAME = "Qwen3Guard-Gen-0.6B"


class Judge(HTTPServer):
    """Finds what holds ``bad`` unsafe; ``says`` is a whole reply in its place. Keeps what it was
    asked."""

    bad = "bomb"
    says: tuple[int, bytes] | None = None

    def __init__(self) -> None:
        self.asked: list[Any] = []
        super().__init__(("127.0.0.1", 0), _Answers)


class _Answers(BaseHTTPRequestHandler):
    server: Judge

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.asked.append((self.path, body))
        unsafe = self.server.bad in body["messages"][-1]["content"]
        said = "Safety: Unsafe\nCategories: Violent" if unsafe else "Safety: Safe\nCategories: None"
        message = {"role": "assistant", "content": said}
        whole = json.dumps({"choices": [{"message": message, "finish_reason": "stop"}]}).encode()
        status, data = self.server.says or (200, whole)
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Nothing on the tests' output."""


@pytest.fixture
def judge() -> Iterator[Judge]:
    with Judge() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def settings(judge: Judge) -> Settings:
    address = f"http://127.0.0.1:{judge.server_port}"
    return Settings(guard_endpoint=address, guard_endpoint_model=NAME)


def user(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


async def test_it_is_asked_in_openais_words(judge: Judge) -> None:
    endpoint = endpoint_of(settings(judge))
    assert endpoint is not None
    assert endpoint.peer == ("127.0.0.1", judge.server_port)
    async with asking(endpoint) as model:
        assert (await model.assess(user("a bomb"))).categories == ("violence",)
        assert (await model.assess(user("tea"))).safety == "safe"
        path, body = judge.asked[0]
        assert (path, body["model"], body["temperature"]) == ("/v1/chat/completions", NAME, 0)
        judge.says = (200, b"Sure!")
        assert await model.assess(user("tea")) == UNREADABLE
        for status in (400, 500):
            judge.says = (status, b'{"error": {"message": "too long"}}')
            with pytest.raises((EngineError, UsageError), match="too long"):
                await model.assess(user("tea"))


async def test_one_that_is_away_is_an_error(judge: Judge) -> None:
    given = Settings(guard_endpoint="unix:/nonexistent/socket", guard_endpoint_model=NAME)
    endpoint = endpoint_of(given)
    assert endpoint is not None
    async with asking(endpoint) as model:
        with pytest.raises(EngineError, match="is away"):
            await model.assess(user("tea"))


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"guard_endpoint": "http://192.0.2.7:8000"}, "another machine"),
        ({"guard_endpoint": "https://[2001:db8::1]"}, "another machine"),
        ({"guard_endpoint": "ftp://127.0.0.1"}, "guard_endpoint is 'ftp"),
        ({"guard_endpoint": "unix:relative"}, "absolute"),
        ({"guard_endpoint": "http://127.0.0.1:1", "guard_endpoint_model": ""}, "called there"),
        ({"guard_endpoint": "http://127.0.0.1:1", "guard_model": "g"}, "both set"),
    ],
)
def test_what_cannot_be_is_named(given: dict[str, str], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        endpoint_of(Settings(**{"guard_endpoint_model": NAME, **given}))


def test_no_address_and_no_guard_ask_nobody() -> None:
    assert endpoint_of(Settings()) is None
    assert endpoint_of(Settings(guard="off", guard_endpoint="http://127.0.0.1:1")) is None

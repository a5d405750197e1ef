"""Many streams, clients that leave, answers that fail or take too long."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest

from freehold.errors import BusyError, EngineError, UsageError
from freehold.serve.limits import Limits

NAME = "scripted-1"
CHAT = "/v1/chat/completions"


def _body(text: str, **more: Any) -> dict[str, Any]:
    return {"model": NAME, "messages": [{"role": "user", "content": text}], **more}


def _until(done: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def _events(text: str) -> list[Any]:
    return [json.loads(line[6:]) for line in text.split("\n\n") if line.startswith("data: {")]


async def _stream(client: httpx.AsyncClient, text: str, leave_after: int | None) -> str:
    """Read an answer, or hang up after ``leave_after`` events."""
    got, events = "", 0
    async with client.stream("POST", CHAT, json=_body(text, stream=True)) as answer:
        assert answer.status_code == 200
        async for line in answer.aiter_lines():
            if line == "data: [DONE]":
                return got
            if line.startswith("data: "):
                events += 1
                got += json.loads(line[6:])["choices"][0]["delta"].get("content") or ""
            if events == leave_after:
                return got
    raise AssertionError("the stream ended without [DONE]")


async def test_64_streams_with_a_third_leaving(counter: Callable[..., Any], scripted: Any) -> None:
    # Those that are to be left have no end, so that none is over before its client has gone.
    endless = scripted.ScriptedEngine(delay=0.002, waits=lambda ids: 40 if 33 in ids else None)
    running = counter(engine=endless)
    texts = [f"answer {i}: " + "abcdefgh" * 12 + ("!" if i % 3 == 0 else ".") for i in range(64)]
    async with httpx.AsyncClient(
        base_url=running.url,
        headers=running.auth,
        timeout=60,
        limits=httpx.Limits(max_connections=100),
    ) as client:
        got = await asyncio.gather(
            *(_stream(client, text, 20 if i % 3 == 0 else None) for i, text in enumerate(texts))
        )
    for i, text in enumerate(texts):
        if i % 3 == 0:
            assert text.startswith(got[i])
            assert got[i] != text
        else:
            assert got[i] == text
    engine = running.engine
    await asyncio.to_thread(_until, lambda: engine.closed == 64)
    assert engine.started == 64
    assert engine.finished == 42
    assert running.app.state.desk.admission.inside == 0


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("n", [1, 3])
def test_hanging_up_cancels_at_once(
    counter: Callable[..., Any], scripted: Any, stream: bool, n: int
) -> None:
    running = counter(engine=scripted.ScriptedEngine(delay=0.05))
    body = _body("x" * 400, stream=stream, n=n)
    with httpx.Client(base_url=running.url, headers=running.auth, timeout=0.5) as client:
        if stream:
            with client.stream("POST", CHAT, json=body) as answer:
                next(answer.iter_bytes())
        else:
            with pytest.raises(httpx.ReadTimeout):
                client.post(CHAT, json=body)
    engine = running.engine
    _until(lambda: engine.closed == n, seconds=3)
    assert (engine.started, engine.finished) == (n, 0)
    _until(lambda: running.app.state.desk.admission.inside == 0)


def test_hanging_up_while_the_prompt_is_read(counter: Callable[..., Any], scripted: Any) -> None:
    running = counter(engine=scripted.ScriptedEngine(first_delay=60))
    with (
        httpx.Client(base_url=running.url, headers=running.auth, timeout=0.3) as client,
        pytest.raises(httpx.ReadTimeout),
    ):
        client.post(CHAT, json=_body("x", stream=True))
    _until(lambda: running.engine.closed == 1, seconds=3)


def test_a_client_that_leaves_is_counted_as_such(
    counter: Callable[..., Any], scripted: Any
) -> None:
    running = counter(engine=scripted.ScriptedEngine(first_delay=60))
    with httpx.Client(base_url=running.url, headers=running.auth, timeout=0.3) as client:
        with pytest.raises(httpx.ReadTimeout):
            client.post(CHAT, json=_body("x"))
        _until(lambda: running.engine.closed == 1)
        page = client.get("/metrics", timeout=5).text
    assert 'method="POST",route="/v1/chat/completions",status="499"} 1.0' in page


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("failure", "told"),
    [
        (BusyError("full", retry_after=7), (429, "rate_limit_error", "server_busy")),
        (EngineError("gone"), (503, "server_error", "engine_unavailable")),
        (UsageError("no", param="top_k"), (400, "invalid_request_error", "invalid_value")),
        (RuntimeError("the secret inside"), (500, "server_error", "internal_error")),
    ],
)
def test_failure_before_the_first_token_has_a_status(
    counter: Callable[..., Any],
    scripted: Any,
    failure: Exception,
    told: tuple[int, str, str],
    stream: bool,
) -> None:
    running = counter(engine=scripted.ScriptedEngine(fail_at=0, failure=failure))
    answer = httpx.post(running.url + CHAT, headers=running.auth, json=_body("x", stream=stream))
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["code"]) == told
    assert error["param"] == ("top_k" if told[0] == 400 else None)
    assert "secret inside" not in answer.text
    if told[0] == 429:
        assert answer.headers["retry-after"] == "7"
    assert running.app.state.desk.admission.inside == 0


@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
def test_failure_midway_ends_a_stream_with_an_error_event(
    counter: Callable[..., Any], scripted: Any, path: str
) -> None:
    running = counter(engine=scripted.ScriptedEngine(fail_at=3))
    body = _body("abcdef", stream=True)
    if path != CHAT:
        body = {"model": NAME, "prompt": ">abcdef", "stream": True}
    answer = httpx.post(running.url + path, headers=running.auth, json=body)
    assert answer.status_code == 200
    assert "[DONE]" not in answer.text
    error = _events(answer.text)[-1]["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == "engine_unavailable"


def test_official_client_raises_on_failure_midway(
    counter: Callable[..., Any], scripted: Any
) -> None:
    running = counter(engine=scripted.ScriptedEngine(fail_at=3))
    client = openai.OpenAI(base_url=f"{running.url}/v1", api_key=running.key, max_retries=0)
    stream = client.chat.completions.create(
        model=NAME, messages=[{"role": "user", "content": "abcdef"}], stream=True
    )
    got: list[str] = []
    with pytest.raises(openai.APIError, match="gone"):
        got.extend(chunk.choices[0].delta.content or "" for chunk in stream)
    assert "".join(got) == "abc"


def test_failure_midway_fails_a_whole_answer(counter: Callable[..., Any], scripted: Any) -> None:
    running = counter(engine=scripted.ScriptedEngine(fail_at=3))
    answer = httpx.post(running.url + CHAT, headers=running.auth, json=_body("abcdef", n=2))
    assert answer.status_code == 503
    _until(lambda: running.engine.closed == 2)


def test_an_engine_that_breaks_off_is_a_failure(counter: Callable[..., Any], scripted: Any) -> None:
    class BreaksOff(scripted.ScriptedEngine):  # type: ignore[misc]
        async def _events(self, ids: Any, sampling: Any) -> Any:
            async for event in super()._events(ids, sampling):
                yield event
                if self.seen:
                    return

    running = counter(engine=BreaksOff())
    answer = httpx.post(running.url + CHAT, headers=running.auth, json=_body("abc"))
    assert answer.status_code == 503


def test_deadline_of_a_whole_answer(counter: Callable[..., Any], scripted: Any) -> None:
    running = counter(
        engine=scripted.ScriptedEngine(delay=0.05), limits=Limits(request_seconds=0.3)
    )
    answer = httpx.post(running.url + CHAT, headers=running.auth, json=_body("x" * 300))
    assert answer.status_code == 504
    assert answer.json()["error"]["code"] == "request_timeout"
    assert answer.headers["x-should-retry"] == "false"
    _until(lambda: running.engine.closed == 1)


def test_deadline_of_a_stream(counter: Callable[..., Any], scripted: Any) -> None:
    running = counter(
        engine=scripted.ScriptedEngine(delay=0.05), limits=Limits(request_seconds=0.4)
    )
    body = _body("x" * 300, stream=True)
    answer = httpx.post(running.url + CHAT, headers=running.auth, json=body)
    assert answer.status_code == 200
    events = _events(answer.text)
    assert events[1]["choices"][0]["delta"] == {"content": "x"}
    assert events[-1]["error"]["code"] == "request_timeout"
    assert "[DONE]" not in answer.text
    _until(lambda: running.engine.closed == 1)


def test_slow_prompt_gets_its_headers_before_its_first_token(
    counter: Callable[..., Any], scripted: Any
) -> None:
    running = counter(engine=scripted.ScriptedEngine(first_delay=3))
    with (
        httpx.Client(base_url=running.url, headers=running.auth, timeout=30) as client,
        client.stream("POST", CHAT, json=_body("abc", stream=True)) as answer,
    ):
        assert answer.status_code == 200
        assert running.engine.prompts_read == 0
        text = b"".join(answer.iter_bytes()).decode()
    assert text.endswith("data: [DONE]\n\n")


def test_full_queue_is_429_with_retry_after(counter: Callable[..., Any], scripted: Any) -> None:
    running = counter(
        engine=scripted.ScriptedEngine(first_delay=60), limits=Limits(max_queue=2, retry_after=9)
    )
    with httpx.Client(base_url=running.url, headers=running.auth, timeout=20) as client:
        first = client.send(
            client.build_request("POST", CHAT, json=_body("a", stream=True)), stream=True
        )
        second = client.send(
            client.build_request("POST", CHAT, json=_body("b", stream=True)), stream=True
        )
        assert (first.status_code, second.status_code) == (200, 200)
        third = client.post(CHAT, json=_body("c"))
        assert third.status_code == 429
        assert third.headers["retry-after"] == "9"
        assert third.json()["error"]["type"] == "rate_limit_error"
        first.close()
        _until(lambda: running.engine.closed == 1)
        second.close()
        _until(lambda: running.app.state.desk.admission.inside == 0)

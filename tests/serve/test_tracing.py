"""Traces: what a collector gets, what it never gets, and what happens when it is not there."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from freehold.serve.tracing import ATTRIBUTES, Trace, begin, span, tracing
from tests.collector import Collector, attributes, collecting

NAME = "scripted-1"
CHAT = "/v1/chat/completions"
SECRET = "tell-nobody-of-this"
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def told() -> Iterator[tuple[str, Collector]]:
    with collecting() as found:
        yield found


@pytest.fixture
def traced(
    counter: Callable[..., Any], told: tuple[str, Collector]
) -> Iterator[tuple[Any, Collector, Any]]:
    """A counter that sends traces, its collector, and what sends them."""
    from freehold.serve.telemetry import Traces

    address, collector = told
    traces = Traces(address, "test")
    yield counter(traces=traces), collector, traces
    traces.close()


def ask(running: Any, text: str = SECRET, **headers: str) -> httpx.Response:
    body = {"model": NAME, "messages": [{"role": "user", "content": text}], "user": SECRET}
    return httpx.post(running.url + CHAT, json=body, headers={**running.auth, **headers})


def test_a_request_is_told_with_its_parts(traced: tuple[Any, Collector, Any]) -> None:
    running, collector, _ = traced
    secret = running.keys.add("limited", limits=_some()).secret
    reply = httpx.post(
        running.url + CHAT,
        json={"model": NAME, "messages": [{"role": "user", "content": SECRET}]},
        headers={"authorization": f"Bearer {secret}", "traceparent": PARENT},
    )
    assert reply.status_code == 200
    (whole,) = collector.wait("request")
    assert whole.trace_id.hex() == PARENT[3:35]
    assert whole.parent_span_id.hex() == PARENT[36:52]
    said = attributes(whole)
    assert said["freehold.request"] == reply.headers["x-request-id"]
    assert (said["http.route"], said["http.response.status_code"]) == (CHAT, 200)
    parts = {one.name: one for one in collector.spans}
    assert set(parts) == {"request", "tokenise", "quota", "engine.prefill", "engine.decode"}
    for one in collector.spans[:-1]:
        if one is whole:
            continue
        assert (one.trace_id, one.parent_span_id) == (whole.trace_id, whole.span_id)
        assert whole.start_time_unix_nano <= one.start_time_unix_nano
        assert one.start_time_unix_nano <= one.end_time_unix_nano <= whole.end_time_unix_nano
    usage = reply.json()["usage"]
    prefill, decode = (attributes(parts[f"engine.{one}"]) for one in ("prefill", "decode"))
    assert prefill["gen_ai.usage.input_tokens"] == usage["prompt_tokens"]
    assert decode["gen_ai.usage.output_tokens"] == usage["completion_tokens"]
    assert collector.paths == {"/v1/traces"}
    assert collector.resources[0]["service.name"] == "freehold"


def _some() -> Any:
    from freehold.serve.keys import KeyLimits

    return KeyLimits(token_budget=10_000)


def test_no_text_is_ever_told(traced: tuple[Any, Collector, Any]) -> None:
    """Whatever the request, and wherever the text stands in it."""
    running, collector, traces = traced
    ask(running, baggage=f"a={SECRET}", tracestate=f"a={SECRET}")
    ask(running, traceparent=SECRET)
    with httpx.Client(base_url=running.url, headers=running.auth) as http:
        http.get(f"/{SECRET}?{SECRET}={SECRET}")
        http.request(SECRET.upper(), "/health")
        http.post(CHAT, json={"model": SECRET, "messages": [], SECRET: SECRET})
        http.post(CHAT, content=SECRET.encode())
        http.get("/v1/models", headers={"authorization": f"Bearer fh-{SECRET}"})
        with http.stream("POST", CHAT, json=_streamed()) as reply:
            next(reply.iter_lines())
    collector.wait("request", 7)
    traces.close()
    assert len([one for one in collector.spans if one.name == "request"]) == 7  # one was no HTTP
    assert not any(SECRET.encode() in body.lower() for body in collector.bodies)
    for one in collector.spans:
        assert attributes(one).keys() <= ATTRIBUTES.keys()
        assert not one.events
        assert not one.status.message


def _streamed() -> dict[str, Any]:
    content = SECRET * 20
    return {"model": NAME, "messages": [{"role": "user", "content": content}], "stream": True}


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.one_of(
        st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=80),
        st.from_regex(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}.{0,8}", fullmatch=True),
    )
)
def test_any_parent_is_borne(traced: tuple[Any, Collector, Any], parent: str) -> None:
    _, _, traces = traced
    trace = Trace(parent)
    trace.close(failed=False)
    traces(trace)


def test_a_parent_that_is_not_traced_leaves_it_so(traced: tuple[Any, Collector, Any]) -> None:
    running, collector, traces = traced
    ask(running, traceparent=PARENT[:-2] + "00")
    ask(running)
    collector.wait("request")  # what a request comes to is handed over after its answer
    traces.close()
    assert len(collector.wait("request")) == 1


def test_answers_do_not_wait_for_a_collector_that_is_away(
    counter: Callable[..., Any], told: tuple[str, Collector]
) -> None:
    """Or that sends them elsewhere."""
    from freehold.serve.telemetry import Traces

    address, collector = told
    collector.status = 307
    gone, moved = Traces("http://127.0.0.1:9", "test"), Traces(address, "test")
    for traces in (gone, moved):
        running = counter(traces=traces)
        assert [ask(running).status_code for _ in range(5)] == [200] * 5
        began = time.monotonic()
        traces.close()
        assert time.monotonic() - began < 20
    assert collector.paths == {"/v1/traces"}


def test_off_is_off(counter: Callable[..., Any]) -> None:
    with span("quota") as nothing:
        assert nothing is None
    assert begin("quota") is None
    with tracing(Trace("")) as trace, pytest.raises(ZeroDivisionError), span("quota"):
        raise ZeroDivisionError
    trace.close(failed=False)
    assert [(one.name, one.failed) for one in trace.spans] == [("request", False), ("quota", True)]
    done = subprocess.run(
        [sys.executable, "-c", "import sys, freehold.serve.app; sys.exit("
         "any(one in sys.modules for one in ('opentelemetry.sdk', 'opentelemetry.exporter', "
         "'requests')))"],
        check=False,
    )  # fmt: skip
    assert done.returncode == 0


def test_no_library_tells_anybody_by_itself(
    counter: Callable[..., Any], told: tuple[str, Collector], monkeypatch: pytest.MonkeyPatch
) -> None:
    """FastAPI would, on these variables."""
    address, collector = told
    monkeypatch.setenv("FASTAPI_OTEL_AUTO_CONFIGURE", "true")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)
    running = counter()
    assert running.app._native_telemetry.enabled() is False
    assert ask(running).status_code == 200
    assert collector.bodies == []

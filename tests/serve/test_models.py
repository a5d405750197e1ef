"""The model list, health and metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

NAME = "scripted-1"


def _samples(running: Any) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    answer = httpx.get(running.url + "/metrics", headers=running.auth)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_models_are_listed_with_their_digest(client: openai.OpenAI) -> None:
    listed = client.models.list().data
    assert [(m.id, m.object, m.created) for m in listed] == [(NAME, "model", 1_700_000_000)]
    shown: Any = client.models.retrieve(NAME)
    assert shown.digest.startswith("blake3:")
    assert shown.context_length == 512
    assert client.models.retrieve("scripted/alias").id == NAME


def test_unknown_model(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("nobody/nothing")
    assert caught.value.param == "model"
    assert caught.value.code == "model_not_found"


def test_passports_are_read_by_name_or_alias(shared_counter: Any) -> None:
    def get(path: str) -> httpx.Response:
        return httpx.get(shared_counter.url + path, headers=shared_counter.auth)

    (listed,) = get("/v1/passports").json()["data"]
    assert (listed["id"], listed["digest"][:7]) == (NAME, "blake3:")
    for name in (NAME, "scripted/alias"):
        assert get(f"/v1/passports/{name}").json() == {"passport": NAME}
    unknown = get("/v1/passports/../../etc")
    assert unknown.status_code == 404


def test_health_says_one_word(shared_counter: Any) -> None:
    answer = httpx.get(shared_counter.url + "/health")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


def test_health_when_the_engine_is_gone(counter: Callable[..., Any], scripted: Any) -> None:
    running = counter(engine=scripted.ScriptedEngine(down=True))
    answer = httpx.get(running.url + "/health")
    assert (answer.status_code, answer.json()) == (503, {"status": "engine-down"})
    assert _samples(running)[("freehold_engine_up", (("model", NAME),))] == 0


def test_health_while_draining(counter: Callable[..., Any]) -> None:
    running = counter()
    running.loop.call_soon_threadsafe(running.app.state.desk.deadlines.drain, 5.0)
    answer = httpx.get(running.url + "/health")
    assert (answer.status_code, answer.json()) == (503, {"status": "draining"})


def test_health_does_not_pass_a_flood_on(counter: Callable[..., Any], scripted: Any) -> None:
    class Counting(scripted.ScriptedEngine):  # type: ignore[misc]
        asked = 0

        async def stats(self) -> Any:
            self.asked += 1
            await asyncio.sleep(0.01)
            return await super().stats()

    engine = Counting()
    running = counter(engine=engine)
    with httpx.Client(base_url=running.url) as client:
        for _ in range(50):
            assert client.get("/health").status_code == 200
    assert engine.asked < 10


def test_metrics_count_what_happened(counter: Callable[..., Any]) -> None:
    running = counter()
    client = openai.OpenAI(base_url=f"{running.url}/v1", api_key=running.key, max_retries=0)
    for stream in (False, True):
        answer = client.chat.completions.create(
            model=NAME, messages=[{"role": "user", "content": "abcd"}], stream=stream
        )
        if stream:
            assert list(answer)
    httpx.get(running.url + "/secret/path", headers=running.auth)
    httpx.get(running.url + "/v1/models")
    found = _samples(running)
    model = (("model", NAME),)
    chat = (("method", "POST"), ("route", "/v1/chat/completions"), ("status", "200"))
    lost = (("method", "GET"), ("route", "unmatched"), ("status", "404"))
    barred = (("method", "GET"), ("route", "unmatched"), ("status", "401"))
    assert found[("freehold_http_requests_total", chat)] == 2
    assert found[("freehold_http_requests_total", lost)] == 1
    assert found[("freehold_http_requests_total", barred)] == 1
    assert found[("freehold_generated_tokens_total", model)] == 8
    assert found[("freehold_prompt_tokens_total", model)] == 20
    assert found[("freehold_cached_tokens_total", model)] == 10
    assert found[("freehold_time_to_first_token_seconds_count", model)] == 2
    assert found[("freehold_time_per_token_seconds_count", model)] == 6
    assert found[("freehold_requests_running", model)] == 0
    assert found[("freehold_requests_waiting", model)] == 3
    for state, pages in (("free", 60), ("cached", 30), ("held", 10)):
        assert found[("freehold_kv_pages", (*model, ("state", state)))] == pages
    assert found[("freehold_prefill_seconds_count", model)] == 2
    assert found[("freehold_refusals_total", (("reason", "none"),))] == 1  # no key was sent
    assert found[("freehold_ledger_lag_seconds", ())] == 0
    assert found[("freehold_requests_inside", ())] == 0

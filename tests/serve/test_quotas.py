"""Limits of keys: exact to the token, over HTTP and between counters, whatever happens."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from freehold.serve.answer import Usage
from freehold.serve.database import exclusive
from freehold.serve.errors import ProblemError
from freehold.serve.keys import KeyInfo, KeyLimits, Keyring
from freehold.serve.quotas import Quotas, Spending
from tests.postgres import Postgres

NAME = "scripted-1"
CHAT = "/v1/chat/completions"


class Clock:
    """A time that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0 + 5  # five seconds into a minute

    def __call__(self) -> float:
        return self.now


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty key data base, of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'keys.db'}"
    server: Postgres = request.getfixturevalue("postgres")
    return server.new()


def key_of(ring: Keyring, name: str = "key", **limits: Any) -> KeyInfo:
    new = ring.add(name, limits=KeyLimits(**limits))
    found = ring.check(new.secret)
    assert found is not None
    return found


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ring(url: str) -> Iterator[Keyring]:
    ring = Keyring(url)
    yield ring
    ring.close()


async def begin(
    quotas: Quotas, key: KeyInfo, prompt: int = 0, most: int = 0, **more: Any
) -> tuple[Spending, Usage, int]:
    spending, usage = quotas.spending(key, NAME), Usage(prompt_tokens=prompt)
    asked = {"answers": 1, "most": most, "firm": False} | more
    return spending, usage, await spending.begin(usage, **asked)


def end(spending: Spending, usage: Usage, completion: int) -> None:
    """The request ends, with so many tokens said."""
    usage.cached[0] = 0
    usage.completion_tokens = completion
    spending.end()


def refused(error: pytest.ExceptionInfo[ProblemError], code: str, limit: str) -> None:
    problem = error.value.problem
    assert (problem.status, problem.code) == (429, code)
    assert limit.replace("_", " ") in problem.message


# --- one key --------------------------------------------------------------------------------------


async def test_what_is_set_aside_counts_and_is_given_back(ring: Keyring, clock: Clock) -> None:
    quotas = Quotas(ring, 10, clock=clock)
    key = key_of(ring, tokens_per_minute=100)
    one = await begin(quotas, key, prompt=10, most=1000)
    assert one[2] == 90
    with pytest.raises(ProblemError) as caught:
        await begin(quotas, key, prompt=1, most=1)
    refused(caught, "rate_limit_exceeded", "tokens_per_minute")
    assert caught.value.problem.headers["retry-after"] == "56"
    end(*one[:2], completion=20)
    await quotas.settle()
    two = await begin(quotas, key, prompt=10, most=1000)
    assert two[2] == 60
    end(*two[:2], completion=60)
    await quotas.settle()
    with pytest.raises(ProblemError):
        await begin(quotas, key, prompt=1)
    clock.now += 60
    assert (await begin(quotas, key, prompt=40, most=60, firm=True))[2] == 60


async def test_a_firm_number_is_had_or_refused(ring: Keyring, clock: Clock) -> None:
    quotas = Quotas(ring, 10, clock=clock)
    key = key_of(ring, token_budget=100)
    with pytest.raises(ProblemError) as caught:
        await begin(quotas, key, prompt=41, most=30, answers=2, firm=True)
    refused(caught, "insufficient_quota", "token_budget")
    assert "retry-after" not in caught.value.problem.headers
    assert (await begin(quotas, key, prompt=40, most=30, answers=2, firm=True))[2] == 30


@pytest.mark.parametrize(
    ("limit", "wait"), [("requests_per_minute", 60), ("requests_per_day", 86_400)]
)
async def test_requests_are_counted(ring: Keyring, clock: Clock, limit: str, wait: int) -> None:
    quotas = Quotas(ring, 10, clock=clock)
    key = key_of(ring, **{limit: 2})
    for _ in range(2):
        spending, usage, _ = await begin(quotas, key)
        end(spending, usage, 1)
    await quotas.settle()
    with pytest.raises(ProblemError) as caught:
        await begin(quotas, key)
    refused(caught, "rate_limit_exceeded", limit)
    clock.now += int(caught.value.problem.headers["retry-after"])
    await begin(quotas, key)
    assert int(caught.value.problem.headers["retry-after"]) <= wait


async def test_requests_at_once_are_counted(ring: Keyring, clock: Clock) -> None:
    quotas = Quotas(ring, 10, clock=clock)
    key = key_of(ring, concurrency=2)
    one, _ = await begin(quotas, key), await begin(quotas, key)
    with pytest.raises(ProblemError) as caught:
        await begin(quotas, key)
    refused(caught, "rate_limit_exceeded", "concurrency")
    one[0].end()
    await quotas.settle()
    await begin(quotas, key)


async def test_what_a_dead_counter_had_set_aside_comes_back(ring: Keyring, clock: Clock) -> None:
    key = key_of(ring, token_budget=100)
    await begin(Quotas(ring, 10, clock=clock), key, prompt=100)
    later = Quotas(ring, 10, clock=clock)
    with pytest.raises(ProblemError):
        await begin(later, key, prompt=1)
    clock.now += 71
    await begin(later, key, prompt=100)


async def test_an_engine_that_never_began_costs_nothing(ring: Keyring, clock: Clock) -> None:
    quotas = Quotas(ring, 10, clock=clock)
    key = key_of(ring, token_budget=100)
    spending, _, _ = await begin(quotas, key, prompt=50, most=50)
    spending.end()
    await quotas.settle()
    assert (await begin(quotas, key, prompt=50, most=50))[2] == 50


async def test_a_client_that_leaves_while_it_is_let_in_is_forgotten(
    ring: Keyring, clock: Clock
) -> None:
    quotas = Quotas(ring, 10, clock=clock)
    key = key_of(ring, concurrency=1)
    spending, usage = quotas.spending(key, NAME), Usage(prompt_tokens=1)
    asking = asyncio.create_task(spending.begin(usage, answers=1, most=1))
    await asyncio.sleep(0)
    asking.cancel()
    spending.end()
    await asyncio.gather(asking, return_exceptions=True)
    for _ in range(100):
        await quotas.settle()
        try:
            await begin(quotas, key)
        except ProblemError:
            await asyncio.sleep(0.02)
        else:
            return
    raise AssertionError("what the client had set aside was never given back")


async def test_keys_without_limits_are_counted_and_temporary_ones_are_not(
    ring: Keyring, clock: Clock
) -> None:
    quotas = Quotas(ring, 10, clock=clock)
    key, temporary = key_of(ring), ring.check(ring.add_temporary())
    assert temporary is not None
    for one in (key, temporary):
        spending, usage, most = await begin(quotas, one, prompt=7, most=50)
        assert most == 50
        end(spending, usage, 3)
    await quotas.settle()
    (told,) = ring.usage(date(1970, 1, 1))
    assert (told.key, told.model, told.requests) == (key.id, NAME, 1)
    assert (told.prompt_tokens, told.completion_tokens) == (7, 3)
    assert told.day == datetime.fromtimestamp(clock.now, UTC).date()
    assert ring.usage(date(2100, 1, 1)) == []


# --- several counters -----------------------------------------------------------------------------


def test_two_counters_never_pass_a_limit_together(url: str) -> None:
    """Forty threads of two counters on one data base, each with its own connections."""
    limit = 5000
    key = key_of(Keyring(url), token_budget=limit)

    async def spend(quotas: Quotas, seed: int) -> int:
        total = 0
        for i in range(20):
            try:
                spending, usage, most = await begin(
                    quotas, key, prompt=1 + seed % 7, most=1 + (seed * i) % 90
                )
            except ProblemError:
                continue
            said = min(most, (seed + i) % 60)
            await asyncio.sleep(0)
            end(spending, usage, said)
            total += usage.prompt_tokens + said
        return total

    def counter(number: int) -> int:
        async def all_of_it() -> int:
            quotas = Quotas(Keyring(url), 100)
            found = await asyncio.gather(*(spend(quotas, 20 * number + i) for i in range(20)))
            await quotas.settle()
            return sum(found)

        return asyncio.run(all_of_it())

    with ThreadPoolExecutor(2) as threads:
        spent = sum(threads.map(counter, range(2)))
    told = Keyring(url).usage(date(1970, 1, 1))
    assert sum(one.prompt_tokens + one.completion_tokens for one in told) == spent <= limit
    assert spent > limit - 100


moves = st.lists(
    st.tuples(
        st.sampled_from(["begin", "begin", "firm", "end", "minute"]),
        st.integers(0, 30),
        st.integers(0, 60),
    ),
    max_size=25,
)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(moves)
def test_no_order_of_events_passes_a_limit(
    ring: Keyring, moves: list[tuple[str, int, int]]
) -> None:
    """Two counters take turns; what each event finds is what both have left."""
    clock = Clock()
    name = secrets.token_hex(8)
    key = key_of(ring, name, tokens_per_minute=70, token_budget=200, concurrency=3)

    async def play() -> None:
        counters = itertools.cycle([Quotas(ring, 1e6, clock=clock) for _ in range(2)])
        running: list[tuple[Spending, Usage, int]] = []
        spent, this_minute = 0, 0
        for move, prompt, most in moves:
            if move == "minute":
                clock.now += 60
                this_minute = 0
                running = []  # what began before counts for its own minute; it never ends here
            elif move == "end" and running:
                spending, usage, each = running.pop(0)
                said = min(each, most)
                end(spending, usage, said)
                await spending._quotas.settle()
                spent += usage.prompt_tokens + said
                this_minute += usage.prompt_tokens + said
            elif move != "end":
                try:
                    one = await begin(next(counters), key, prompt, most, firm=move == "firm")
                except ProblemError:
                    continue
                assert one[2] == most or move != "firm"
                running.append(one)
            held = sum(usage.prompt_tokens + each for _, usage, each in running)
            assert len(running) <= 3
            assert this_minute + held <= 70
            assert spent + held <= 200

    asyncio.run(play())


# --- over HTTP ------------------------------------------------------------------------------------


@pytest.fixture
def asker(counter: Callable[..., Any], scripted: Any) -> Callable[..., Any]:
    """Opens a counter and gives a client whose key has some limits."""

    def open_one(engine: Any = None, **limits: Any) -> tuple[Any, httpx.Client]:
        running = counter(engine=engine or scripted.ScriptedEngine())
        secret = running.keys.add("limited", limits=KeyLimits(**limits)).secret
        headers = {"authorization": f"Bearer {secret}"}
        return running, httpx.Client(base_url=running.url, headers=headers, timeout=30)

    return open_one


def chat(text: str = "hello", **more: Any) -> dict[str, Any]:
    return {"model": NAME, "messages": [{"role": "user", "content": text}], **more}


def spent(running: Any) -> int:
    """What all keys have used, once it is written."""
    time.sleep(0.3)
    told = running.keys.usage(date(1970, 1, 1))
    return sum(one.prompt_tokens + one.completion_tokens for one in told)


def test_an_answer_ends_where_the_budget_does(asker: Callable[..., Any]) -> None:
    running, http = asker(token_budget=40)
    first = http.post(CHAT, json=chat("x" * 100)).json()
    assert first["error"]["code"] == "insufficient_quota"
    answer = http.post(CHAT, json=chat("abcdefghijklmno")).json()
    assert answer["usage"]["prompt_tokens"] == 21
    assert answer["usage"]["completion_tokens"] == 15
    assert spent(running) == 36
    last = http.post(CHAT, json=chat(""))  # six tokens of prompt, and four are left
    assert last.status_code == 429
    assert spent(running) == 36


def test_an_answer_is_cut_to_what_is_left(asker: Callable[..., Any]) -> None:
    running, http = asker(token_budget=40)
    answer = http.post(CHAT, json=chat("abcdefghijklmnopqrstuvwxyz")).json()
    choice = answer["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("abcdefgh", "length")
    assert spent(running) == 40
    firm = http.post(CHAT, json=chat("a", max_tokens=1))
    assert firm.status_code == 429


@pytest.mark.parametrize("stream", [False, True])
def test_every_api_tells_of_a_limit_in_its_own_words(
    asker: Callable[..., Any], stream: bool
) -> None:
    _, http = asker(requests_per_day=1)
    assert http.post("/v1/embeddings", json={"model": NAME, "input": "a"}).status_code == 200
    for path, body in (
        (CHAT, chat()),
        ("/v1/completions", {"model": NAME, "prompt": "x"}),
        ("/v1/responses", {"model": NAME, "input": "x"}),
        ("/v1/messages", chat(max_tokens=5)),
    ):
        answer = http.post(path, json=body | {"stream": stream})
        assert answer.status_code == 429, path
        assert int(answer.headers["retry-after"]) > 0
        assert answer.json()["error"]["type"] == "rate_limit_error"


def test_a_key_sees_its_models_only(asker: Callable[..., Any]) -> None:
    running, http = asker(models=("another",))
    assert http.get("/v1/models").json()["data"] == []
    answer = http.post(CHAT, json=chat())
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    assert http.get(f"/v1/models/{NAME}").status_code == 404
    running.keys.limit("limited", KeyLimits(models=(NAME,)))
    assert http.post(CHAT, json=chat()).status_code == 200


def test_a_key_ends(asker: Callable[..., Any]) -> None:
    running, http = asker(expires=time.time() + 60)
    assert http.post(CHAT, json=chat()).status_code == 200
    running.keys.limit("limited", KeyLimits(expires=time.time() - 1))
    answer = http.post(CHAT, json=chat())
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "expired_api_key")


def test_a_client_that_hangs_up_is_charged_what_it_used(
    asker: Callable[..., Any], scripted: Any
) -> None:
    engine = scripted.ScriptedEngine(delay=0.02)
    running, http = asker(engine, concurrency=1, token_budget=10_000)
    with http.stream("POST", CHAT, json=chat("x" * 300, stream=True)) as answer:
        for _ in zip(answer.iter_lines(), range(6), strict=False):
            pass
    deadline = time.monotonic() + 20
    while http.post(CHAT, json=chat("y")).status_code == 429:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert 306 < spent(running) < 600


def test_many_at_once_never_pass_the_budget(asker: Callable[..., Any], scripted: Any) -> None:
    engine = scripted.ScriptedEngine(delay=0.001)
    running, http = asker(engine, token_budget=600)

    def ask(i: int) -> int:
        answer = http.post(CHAT, json=chat("z" * (i % 9), max_tokens=5))
        if answer.status_code == 429:
            return 0
        usage = answer.json()["usage"]
        return int(usage["total_tokens"])

    with ThreadPoolExecutor(16) as threads:
        told = sum(threads.map(ask, range(150)))
    assert spent(running) == told <= 600
    assert told > 580


def test_a_broken_data_base_is_told(asker: Callable[..., Any]) -> None:
    running, http = asker(token_budget=600)
    with exclusive(running.keys._engine) as db:
        db.exec_driver_sql("DROP TABLE key_running")
    answer = http.post(CHAT, json=chat())
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")

"""64 clients stream at once and a third hang up midway: the others must not notice."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest
from openai import AsyncOpenAI

from tests.house.running import DEFAULT, Server, start

CLIENTS = 64
ANSWER = 48
SUBJECTS = (
    "binary search",
    "a linked list",
    "prime numbers",
    "quicksort",
    "a stack",
    "decorators",
    "recursion",
    "hash tables",
    "JSON",
    "HTTP",
    "a compiler",
    "garbage collection",
    "threads",
    "a matrix",
    "unit tests",
    "Unicode",
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def crowded(real_root: Path) -> Iterator[Server]:
    """A server of its own: its metrics count only this module's requests."""
    running = start(real_root)
    yield running
    assert running.stop() == 0


@dataclass(frozen=True, kw_only=True)
class Answer:
    text: str
    finish: str | None


def question(i: int) -> str:
    return f"In {2 + i // len(SUBJECTS)} sentences, explain {SUBJECTS[i % len(SUBJECTS)]}."


async def ask(client: AsyncOpenAI, i: int, hang_up_after: int | None = None) -> Answer:
    stream = await client.chat.completions.create(
        model=DEFAULT,
        messages=[{"role": "user", "content": question(i)}],
        temperature=0,
        max_tokens=ANSWER,
        stream=True,
    )
    text, finish, chunks = "", None, 0
    async for chunk in stream:
        if chunk.choices:
            text += chunk.choices[0].delta.content or ""
            finish = chunk.choices[0].finish_reason or finish
        chunks += 1
        if chunks == hang_up_after:
            await stream.close()
            break
    return Answer(text=text, finish=finish)


async def crowd(server: Server) -> list[Answer]:
    """All clients at once; every third hangs up after a different number of chunks."""
    client = AsyncOpenAI(base_url=f"{server.address}/v1", api_key=server.key, max_retries=0)
    async with client:
        return await asyncio.gather(
            *(ask(client, i, 3 + i % 20 if i % 3 == 0 else None) for i in range(CLIENTS))
        )


async def alone(server: Server) -> dict[int, Answer]:
    """The same questions of those who stay, one after the other."""
    client = AsyncOpenAI(base_url=f"{server.address}/v1", api_key=server.key, max_retries=0)
    async with client:
        return {i: await ask(client, i) for i in range(CLIENTS) if i % 3}


def metric(server: Server, name: str) -> float:
    page = httpx.get(
        f"{server.address}/metrics", headers={"Authorization": f"Bearer {server.key}"}
    ).text
    for line in page.splitlines():
        if line.startswith((f"{name} ", f"{name}{{")):
            return float(line.rsplit(" ", 1)[1])
    raise AssertionError(f"no metric {name} in:\n{page}")


def memory(server: Server) -> int:
    """Resident bytes of the counter and its engine."""
    counter = psutil.Process(server.process.pid)
    family = [counter, *counter.children(recursive=True)]
    return sum(process.memory_info().rss for process in family)


def assert_nothing_held(server: Server) -> None:
    label = f'{{model="{DEFAULT}",state="held"}}'
    assert metric(server, f"freehold_kv_pages{label}") == 0
    assert metric(server, "freehold_requests_running") == 0
    assert metric(server, "freehold_requests_waiting") == 0


@pytest.mark.timeout(1800)
def test_the_others_do_not_notice(crowded: Server, capsys: pytest.CaptureFixture[str]) -> None:
    solo = asyncio.run(alone(crowded))
    asyncio.run(crowd(crowded))  # touches every page and buffer once
    before = memory(crowded)
    agreements = []
    for _ in range(3):
        answers = asyncio.run(crowd(crowded))
        stayed = {i: answer for i, answer in enumerate(answers) if i % 3}
        assert all(answer.finish in ("stop", "length") for answer in stayed.values())
        agreements.append(sum(stayed[i] == solo[i] for i in stayed) / len(stayed))
        assert_nothing_held(crowded)
    growth = memory(crowded) - before
    with capsys.disabled():
        print(
            f"\n{CLIENTS} clients, {CLIENTS - len(solo)} hung up: "
            f"agreement with solo runs {', '.join(f'{a:.1%}' for a in agreements)}; "
            f"memory grew by {growth / 1e6:.1f} MB of {before / 1e6:.0f} MB in three rounds"
        )
    assert growth < 64e6
    # The native arithmetic promises the same bits alone and in any company (docs/numerics.md).
    assert min(agreements) == 1

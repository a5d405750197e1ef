"""``freehold serve --engine openai``: counter, keys and ledger before another server, locked."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import BadRequestError, OpenAI

from freehold.residency import landlock, seccomp
from tests.engine.upstream import DONE, Scripted, chunk, saying
from tests.house.running import DEFAULT, Server, start

ANSWER = [9707, 11, 1879]  # "Hello, world"
REPLY = saying(*(chunk(token) for token in ANSWER), chunk(151645, "stop"), DONE)


@pytest.fixture(scope="module")
def script() -> Iterator[tuple[Scripted, int]]:
    """A server on loopback, in a thread, and its port."""
    made, found = Scripted(reply=REPLY), list[int]()
    loop, ready = asyncio.new_event_loop(), threading.Event()

    async def serve() -> None:
        server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
        found.append(server.sockets[0].getsockname()[1])
        ready.set()
        await server.serve_forever()

    def run() -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_until_complete(serve())
        except (asyncio.CancelledError, RuntimeError):
            return

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert ready.wait(20)
    yield made, found[0]
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)


@pytest.fixture(scope="module")
def server(real_root: Path, script: tuple[Scripted, int]) -> Iterator[Server]:
    running = start(
        real_root, DEFAULT, "--engine", "openai", "--upstream", f"http://127.0.0.1:{script[1]}"
    )
    yield running
    assert running.stop() == 0


def test_what_it_answers_is_served_and_recorded(
    server: Server, script: tuple[Scripted, int], real_root: Path
) -> None:
    client = OpenAI(base_url=f"{server.address}/v1", api_key=server.key, max_retries=0)
    said = client.chat.completions.create(
        model=DEFAULT, messages=[{"role": "user", "content": "Greet."}], max_tokens=20
    )
    assert said.choices[0].message.content == "Hello, world"
    assert said.usage is not None
    assert said.usage.completion_tokens == 3
    prompt = script[0].asked[-1]["prompt"]
    assert all(isinstance(token, int) for token in prompt)
    assert len(prompt) == said.usage.prompt_tokens
    models = client.models.list().data[0].model_dump()
    assert "weights not verified here" in models["numerics"]
    with pytest.raises(BadRequestError, match="grammars"):
        client.chat.completions.create(
            model=DEFAULT,
            messages=[{"role": "user", "content": "Greet."}],
            response_format={"type": "json_object"},
        )


@pytest.mark.skipif(
    landlock.abi() < 4 or not seccomp.available(), reason="this kernel has no lock of ports"
)
def test_it_is_locked_and_refused_nothing(server: Server) -> None:
    client = OpenAI(base_url=server.address, api_key=server.key)
    found = client.get("/residency", cast_to=object)
    assert isinstance(found, dict)
    assert found["residency"] == "enforced by the kernel"
    assert "remote" in {one["role"] for one in found["processes"]}
    assert "remote" not in found["attempts_by"]


def test_addresses_that_are_none(real_root: Path) -> None:
    for upstream in ("", "ftp://x", "http://user:pw@127.0.0.1:1", "unix:relative"):
        done = subprocess.run(
            [
                *(sys.executable, "-P", "-m", "freehold.cli", "serve", DEFAULT),
                *("--engine", "openai", "--upstream", upstream, "--port", "0"),
            ],
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 2, done.stderr
        assert "write unix:/PATH" in done.stderr

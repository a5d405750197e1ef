"""The real vLLM behind the counter: answers, forms, tools, a kill under load, attacks from inside.

Needs a Python that vLLM is installed for: ``FREEHOLD_TEST_VLLM``, or what `make cluster` made.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from openai import AsyncOpenAI, BadRequestError, OpenAI, OpenAIError

from freehold.residency import landlock, seccomp
from freehold.store import Store
from tests.clients.page import CLIENTS as OTHERS
from tests.clients.page import record
from tests.clients.trying import attempt
from tests.conftest import VLLM
from tests.house.running import DEFAULT, FREEHOLD, Server, start

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]

MODEL = f"{DEFAULT}-bf16"
CLIENTS = 8


@pytest.fixture(scope="module")
def root(real_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the default model written out plain."""
    if not Path(VLLM).exists():
        pytest.skip("vLLM is not installed: run `make cluster`, or name its Python in "
                    "FREEHOLD_TEST_VLLM")  # fmt: skip
    root = tmp_path_factory.mktemp("cluster")
    for part in ("blobs", "manifests"):
        (root / part).mkdir()
    source, target = Store(real_root), Store(root)
    manifest = f"manifests/{DEFAULT}.json"
    shutil.copy(real_root / manifest, root / manifest)
    target.blobs.mkdir()
    for file in source.manifest(DEFAULT).files:  # a blob may be no link
        shutil.copy(source.blob(file.sha256), target.blob(file.sha256))
    (root / "freehold.toml").write_text(
        f'vllm_python = "{VLLM}"\nvllm_arguments = ["--enforce-eager"]\ncache_tokens = 4096\n'
    )
    env = {**os.environ, "FREEHOLD_HOME": str(root)}
    done = subprocess.run(
        [*FREEHOLD, "convert", DEFAULT, "--json"],
        check=True,
        capture_output=True,
        env=env,
    )
    assert json.loads(done.stdout)["name"] == MODEL
    return root


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[Server]:
    running = start(
        root,
        *(MODEL, "--engine", "vllm", "--ledger", str(root / "ledger.sqlite")),
        seconds=1500,
        FREEHOLD_KEYS=str(root / "keys"),
    )
    yield running
    assert running.stop() == 0
    assert not [p for p in psutil.process_iter(["cmdline"]) if VLLM in (p.info["cmdline"] or ())]


@pytest.fixture(scope="module")
def client(server: Server) -> OpenAI:
    return OpenAI(base_url=f"{server.address}/v1", api_key=server.key, max_retries=0, timeout=600)


def test_it_answers_streamed_and_whole(client: OpenAI) -> None:
    question = [{"role": "user", "content": "What is the capital of France? One word."}]
    whole = client.chat.completions.create(model=MODEL, messages=question, temperature=0)  # type: ignore[call-overload]
    assert "Paris" in whole.choices[0].message.content
    stream = client.chat.completions.create(  # type: ignore[call-overload]
        model=MODEL, messages=question, temperature=0, stream=True, logprobs=True, top_logprobs=3
    )
    assert "".join(part.choices[0].delta.content or "" for part in stream) == (
        whole.choices[0].message.content
    )


def test_forms_and_tools(client: OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema}}
    said = client.chat.completions.create(  # type: ignore[call-overload]
        model=MODEL,
        messages=[{"role": "user", "content": "Invent a person, as JSON."}],
        response_format=form,
        temperature=0,
        max_tokens=80,
    )
    assert json.loads(said.choices[0].message.content).keys() == {"name", "age"}
    tool = {"type": "function", "function": {"name": "weather", "parameters": schema}}
    called = client.chat.completions.create(  # type: ignore[call-overload]
        model=MODEL,
        messages=[{"role": "user", "content": "How is the weather for Ann, aged 7?"}],
        tools=[tool],
        tool_choice="required",
        parallel_tool_calls=False,
        temperature=0,
        max_tokens=120,
    )
    (call,) = called.choices[0].message.tool_calls
    assert call.function.name == "weather"
    assert json.loads(call.function.arguments).keys() == {"name", "age"}


@pytest.mark.parametrize("name", [client.name for client in OTHERS])
def test_other_peoples_clients(server: Server, name: str, tmp_path: Path) -> None:
    told, failed = attempt(server, MODEL, name, tmp_path, embeds=False)
    record("vllm", MODEL, name, told)
    for feature, went_wrong in failed.items():
        assert went_wrong is None, f"{feature}:\n{went_wrong}"


def test_what_it_cannot_do_is_refused(client: OpenAI) -> None:
    with pytest.raises(BadRequestError, match="embeddings"):
        client.embeddings.create(model=MODEL, input="x")


async def test_killed_under_load_it_comes_back_and_every_entry_is_there(
    server: Server, root: Path
) -> None:
    client = AsyncOpenAI(
        base_url=f"{server.address}/v1", api_key=server.key, max_retries=0, timeout=900
    )
    outcomes: list[str] = []
    over = asyncio.Event()

    async def ask(i: int) -> None:
        while not over.is_set():
            try:
                said = await client.completions.create(
                    model=MODEL, prompt=f"def f{i}(x):", max_tokens=96, seed=i
                )
                outcomes.append(said.choices[0].finish_reason)
            except OpenAIError as error:
                outcomes.append(str(error))

    async def reached(count: int) -> None:
        while len(outcomes) < count:  # noqa: ASYNC110
            await asyncio.sleep(0.2)

    before = entries(root)
    asking = [asyncio.create_task(ask(i)) for i in range(CLIENTS)]
    await reached(CLIENTS)
    await asyncio.sleep(1)  # into the middle of the answers that come next
    (victim,) = [
        p
        for p in psutil.process_iter(["cmdline"])
        if {VLLM, "vllm.entrypoints.openai.api_server"} <= {*(p.info["cmdline"] or ())}
    ]
    victim.send_signal(signal.SIGKILL)
    async with httpx.AsyncClient(base_url=server.address, timeout=60) as health:
        assert (await health.get("/health")).status_code == 503
        until = time.monotonic() + 1500
        while (await health.get("/health")).status_code != 200:
            assert time.monotonic() < until
            await asyncio.sleep(1)
    await reached(len(outcomes) + CLIENTS)
    over.set()
    await asyncio.gather(*asking)
    assert set(outcomes[-CLIENTS:]) <= {"length", "stop"}
    told = [one for one in outcomes if one not in ("length", "stop")]
    assert all("vLLM" in one for one in told), told
    assert entries(root) - before == len(outcomes)
    print(f"{len(outcomes)} requests, {len(told)} told of the kill")


def entries(root: Path) -> int:
    """How many requests the ledger holds, each as it was written and closed."""
    done = subprocess.run(
        [*FREEHOLD, "ledger", "verify", "--json"],
        check=True,
        capture_output=True,
        env={**os.environ, "FREEHOLD_HOME": str(root), "FREEHOLD_KEYS": str(root / "keys")},
    )
    found = json.loads(done.stdout)
    assert found["open"] == []
    count: int = found["entries"]
    return count


def test_attacks_from_inside_send_nothing(root: Path, tmp_path: Path) -> None:
    if landlock.abi() < 6 or not seccomp.available():
        pytest.skip("this kernel has no Landlock of ABI 6, or no seccomp")
    command = [
        sys.executable,
        "-m",
        "freehold.cli",
        "residency",
        "prove",
        MODEL,
        "--engine",
        "vllm",
    ]
    done = subprocess.run(
        [*command, "--json", "--output", str(tmp_path / "proof")],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "FREEHOLD_HOME": str(root), "FREEHOLD_KEYS": str(tmp_path / "keys")},
    )
    for missing in ("no network namespace can be made here", "needs the tool `ip`"):
        if missing in done.stdout + done.stderr:
            pytest.skip(missing)
    report = json.loads(done.stdout)
    assert not [one for one in report["attempts"] if one["outcome"] == "out"]
    assert report["held"], report
    assert report["packets_out"] == report["heard_outside"] == 0
    assert len([one for one in report["attempts"] if one["process"] == "vllm"]) >= 70
    assert report["attempts_in_ledger"] == report["attempts_recorded"]
    print(f"{report['attempts_made']} attempts, {report['attempts_blocked']} blocked, 0 packets")

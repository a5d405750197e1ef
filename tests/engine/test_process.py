"""The engine as a process: its life and death, its one descriptor, its readers fast and slow."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from safetensors.numpy import save_file

from freehold.engine import EngineProcess, EngineSettings
from freehold.errors import (
    BusyError,
    ContextOverflowError,
    DigestError,
    EngineError,
    NotFoundError,
    UsageError,
)
from freehold.pair import Frames
from freehold.store import Store, pull
from freehold.types import Done, Event, Prefilled, Sampling, Tap, Token
from tests.engine.conftest import CONFIG, _Quiet, _weights
from tests.qwen.conftest import small_tokenizer_json

Make = Callable[..., EngineSettings]
GREEDY = Sampling(temperature=0, max_tokens=30)
ENDLESS = Sampling(temperature=0, max_tokens=400)

# One loop for the file, as the shared engine's pair belongs to it.
pytestmark = pytest.mark.asyncio(loop_scope="module")

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def prompt_of(seed: int, n: int = 20) -> list[int]:
    drawn: list[int] = np.random.default_rng(seed).integers(0, 300, n).tolist()
    return drawn


async def answer(engine: EngineProcess, ids: list[int], sampling: Sampling = GREEDY) -> list[int]:
    return [e.id async for e in engine.generate(ids, sampling) if isinstance(e, Token)]


def descriptors(pid: int) -> dict[str, str]:
    return {str(f.name): str(f.readlink()) for f in Path(f"/proc/{pid}/fd").iterdir()}


async def all_pages_home(engine: EngineProcess) -> None:
    stats = await engine.stats()
    assert stats.running == stats.waiting == 0
    assert stats.pages_free + stats.pages_cached == stats.pages_total


# --- answers --------------------------------------------------------------------------------------


async def test_answers_prefilled_tokens_done(engine: EngineProcess) -> None:
    events: list[Event] = [e async for e in engine.generate(prompt_of(991), GREEDY)]
    assert events[0] == Prefilled(prompt_tokens=20, cached_tokens=0)
    assert events[-1] == Done(reason="length", output_tokens=30)
    assert all(isinstance(e, Token) and 0 <= e.id < 300 for e in events[1:-1])
    assert await answer(engine, prompt_of(991)) == [e.id for e in events if isinstance(e, Token)]
    await all_pages_home(engine)


async def test_the_card_says_what_can_be_done(tiny_settings: Make) -> None:
    async with await EngineProcess.start(tiny_settings(cache_tokens=100, page_size=16)) as engine:
        assert engine.card.context == 112  # seven pages: the cache is smaller than the model's 512
        assert engine.card.vocab == 300
        assert {"ids", "score", "taps"} <= engine.card.caps
        assert len(await answer(engine, prompt_of(1, 100), ENDLESS)) == 12


async def test_logprobs_and_taps_arrive_as_arrays(engine: EngineProcess) -> None:
    tap = Tap(point="block_out", layer=1)
    sampling = Sampling(temperature=0, max_tokens=3, logprobs=4)
    events = [e async for e in engine.generate(prompt_of(2), sampling, taps=[tap])]
    tokens = [e for e in events if isinstance(e, Token)]
    for token in tokens:
        assert token.logprob is not None
        assert token.top[0] == (token.id, token.logprob)
        assert len(token.top) == 4
        assert token.taps["block_out", 1].shape == (64,)
    ids = prompt_of(2) + [token.id for token in tokens]
    scored = await engine.score(ids, top=2, taps=[tap])
    assert np.isnan(scored.values[0])
    assert len(scored.top) == len(scored.values) == 23
    assert scored.taps["block_out", 1].shape == (23, 64)
    for i, token in enumerate(tokens, 20):
        assert scored.values[i] == pytest.approx(token.logprob, abs=1e-4)
        assert scored.taps["block_out", 1][i - 1] == pytest.approx(
            token.taps["block_out", 1], abs=1e-4
        )


async def test_a_long_text_is_scored_in_pieces_through_a_small_window(
    engine: EngineProcess,
) -> None:
    taps = [
        Tap(point=point, layer=layer)
        for point in ("block_in", "attn_out", "block_out")
        for layer in (0, 1)
    ]
    ids = prompt_of(3, 512)
    scored, plain = await asyncio.gather(engine.score(ids, top=20, taps=taps), engine.score(ids))
    assert scored.values[1:] == pytest.approx(plain.values[1:], abs=1e-4)
    assert scored.taps["attn_out", 0].shape == (512, 64)


async def test_64_streams_a_third_of_them_left_midway(engine: EngineProcess) -> None:
    prompts = [prompt_of(100 + i, 12 + i) for i in range(64)]
    alone = [await answer(engine, ids) for ids in prompts]

    async def one(i: int) -> list[int]:
        tokens: list[int] = []
        async with aclosing(engine.generate(prompts[i], GREEDY)) as events:
            async for event in events:
                if isinstance(event, Token):
                    tokens.append(event.id)
                if i % 3 == 0 and len(tokens) == 10:
                    break
        return tokens

    together = await asyncio.gather(*map(one, range(64)))
    for i in range(64):
        assert together[i] == (alone[i][:10] if i % 3 == 0 else alone[i])
    await all_pages_home(engine)


async def test_a_cancelled_task_gives_its_pages_back(engine: EngineProcess) -> None:
    before = await engine.stats()
    tasks = [asyncio.create_task(answer(engine, prompt_of(i), ENDLESS)) for i in range(5)]
    await asyncio.sleep(0.2)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    after = await engine.stats()
    assert after.running == after.waiting == 0
    assert after.pages_free + after.pages_cached == before.pages_total


# --- refusals -------------------------------------------------------------------------------------


async def test_misuse_is_an_error_of_its_own_request(engine: EngineProcess) -> None:
    with pytest.raises(ContextOverflowError, match=r"600 tokens.*limit is 512"):
        await answer(engine, prompt_of(1, 600))
    with pytest.raises(ContextOverflowError):
        await engine.score(prompt_of(1, 513))
    with pytest.raises(UsageError, match="ids go from 0 to 299"):
        await answer(engine, [1, 2, 300])
    with pytest.raises(UsageError, match="ids go from 0 to 299"):
        await engine.score([1 << 80])
    with pytest.raises(UsageError, match="choice"):
        await answer(engine, [1], Sampling(choice=1 << 80))
    with pytest.raises(UsageError, match="top"):
        await engine.score([1], top=21)
    with pytest.raises(UsageError) as refused:
        await anext(engine.generate([1], GREEDY, adapter="mine"))
    assert refused.value.param == "adapter"
    with pytest.raises(UsageError, match="layer 2"):
        await engine.score([1], taps=[Tap(point="block_in", layer=2)])
    assert len(await answer(engine, [1])) == 30
    await all_pages_home(engine)


async def test_a_full_house_is_busy_at_once(tiny_settings: Make) -> None:
    settings = tiny_settings(max_running=1, max_waiting=1)
    async with await EngineProcess.start(settings) as engine:
        tasks = [asyncio.create_task(answer(engine, prompt_of(i), ENDLESS)) for i in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(BusyError) as busy:
            await answer(engine, [1])
        assert 1 <= busy.value.retry_after <= 60
        tasks[0].cancel()
        await asyncio.gather(tasks[0], return_exceptions=True)
        assert len(await answer(engine, [1])) == 30
        assert len(await tasks[1]) == 400


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"model": "absent"}, NotFoundError),
        ({"dtype": "float8"}, UsageError),
        ({"backend": "abacus"}, UsageError),
        ({"max_running": 0}, UsageError),
        ({"page_size": 0}, UsageError),
    ],
    ids=str,
)
async def test_a_start_that_cannot_be_says_why(
    tiny_settings: Make, changes: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        await EngineProcess.start(tiny_settings(**changes))


async def test_a_damaged_model_is_refused_by_name(
    tiny_settings: Make, tiny_root: Path, tmp_path: Path
) -> None:
    import shutil

    from freehold.store import Store

    root = tmp_path / "store"
    shutil.copytree(tiny_root, root)
    weights = Store(root).weights_path(tiny_settings().model)
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.chmod(0o644)
    weights.write_bytes(data)
    with pytest.raises(DigestError) as refused:
        await EngineProcess.start(tiny_settings(root=str(root)))
    assert refused.value.file == "model.safetensors"
    assert refused.value.chunk == 0


async def test_loading_is_reported(tiny_settings: Make) -> None:
    class Seen:
        total = done = 0

        def start(self, total: int, what: str) -> None:
            self.total = total
            assert "tiny-qwen" in what

        def advance(self, n: int) -> None:
            assert n >= 0
            self.done += n

    seen = Seen()
    async with await EngineProcess.start(tiny_settings(), progress=seen):
        assert seen.done == seen.total > 0


# --- slow readers ---------------------------------------------------------------------------------


async def test_a_reader_who_stops_does_not_stop_the_others(engine: EngineProcess) -> None:
    heavy = [Tap(point="block_in", layer=0), Tap(point="block_out", layer=1)]
    async with aclosing(engine.generate([1], ENDLESS, taps=heavy)) as slow:
        await anext(slow)
        for seed in range(4):
            assert len(await answer(engine, prompt_of(seed), ENDLESS)) == 400
        # About a window's worth of its events came, each 0.5 kB, and no more.
        inbox = next(iter(engine._inboxes.values()))
        assert 50 < len(inbox._events) < 250
        rest = [event async for event in slow]
    assert sum(isinstance(event, Token) for event in rest) == 400
    await all_pages_home(engine)


# --- life and death -------------------------------------------------------------------------------


async def test_a_killed_engine_fails_everyone_at_once(tiny_settings: Make) -> None:
    engine = await EngineProcess.start(tiny_settings())
    tasks = [asyncio.create_task(answer(engine, prompt_of(i), ENDLESS)) for i in range(8)]
    tasks.append(asyncio.create_task(engine.stats()))  # type: ignore[arg-type]
    await asyncio.sleep(0.1)
    os.kill(engine.pid, signal.SIGKILL)
    killed = time.monotonic()
    found = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5)
    assert time.monotonic() - killed < 1
    for error in found[:8]:
        assert isinstance(error, EngineError)
        assert "SIGKILL" in str(error)
    for call in (engine.stats(), engine.score([1]), answer(engine, [1])):
        with pytest.raises(EngineError):
            await call
    await engine.close()


async def test_closing_ends_the_process_and_what_is_under_way(tiny_settings: Make) -> None:
    engine = await EngineProcess.start(tiny_settings())
    task = asyncio.create_task(answer(engine, prompt_of(1), ENDLESS))
    await asyncio.sleep(0.05)
    await engine.close()
    with pytest.raises(EngineError, match="closed"):
        await task
    assert not psutil.pid_exists(engine.pid)
    await engine.close()


async def test_a_start_that_is_given_up_leaves_no_process(tiny_settings: Make) -> None:
    before = {child.pid for child in psutil.Process().children()}
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(EngineProcess.start(tiny_settings()), 0.3)
    assert {child.pid for child in psutil.Process().children()} == before


async def test_signals_to_the_group_are_left_to_the_counter(engine: EngineProcess) -> None:
    task = asyncio.create_task(answer(engine, prompt_of(1)))
    await asyncio.sleep(0.02)
    os.kill(engine.pid, signal.SIGINT)
    os.kill(engine.pid, signal.SIGTERM)
    assert len(await task) == 30
    assert os.getpgid(engine.pid) != os.getpgid(0)


@linux_only
async def test_the_process_holds_one_socket_and_nothing_of_its_parents(
    tiny_settings: Make, tmp_path: Path
) -> None:
    secret = (tmp_path / "key").open("w")
    os.set_inheritable(secret.fileno(), True)
    with secret, socket.create_server(("127.0.0.1", 0)) as listening:
        os.set_inheritable(listening.fileno(), True)
        async with await EngineProcess.start(tiny_settings()) as engine:
            await answer(engine, [1])
            links = descriptors(engine.pid)
            assert sum(link.startswith("socket:") for link in links.values()) == 1
            assert not any("key" in link for link in links.values())
            assert links["1"] == os.devnull
            process = psutil.Process(engine.pid)
            assert process.net_connections("inet") == []


@pytest.mark.parametrize("junk", [random.Random(2).randbytes(500), b"\xff" * 8, b"\0\0\0\1\xc1"])
async def test_garbage_from_the_engine_fails_everyone_with_a_reason(
    tiny_settings: Make, junk: bytes
) -> None:
    engine = await EngineProcess.start(tiny_settings())
    task = asyncio.create_task(answer(engine, prompt_of(1), ENDLESS))
    await asyncio.sleep(0.05)
    assert engine._pipe is not None
    engine._pipe._frames = Frames()
    engine._pipe.data_received(b"\xff\xff\xff\xff" + junk)
    with pytest.raises(EngineError, match="announces"):
        await asyncio.wait_for(task, 5)
    with pytest.raises(EngineError):
        await engine.stats()
    await engine.close()
    assert not psutil.pid_exists(engine.pid)


# --- memory ---------------------------------------------------------------------------------------


async def test_memory_stays_flat(engine: EngineProcess) -> None:
    """Line 4: after warm-up, three rounds of 64 streams, a third of them left, add nothing."""
    process, here = psutil.Process(engine.pid), psutil.Process()

    async def leave(i: int) -> None:
        async with aclosing(engine.generate(prompt_of(i, 30), GREEDY)) as events:
            async for event in events:
                if isinstance(event, Token) and i % 3 == 0:
                    break

    async def settle() -> tuple[int, int]:
        await asyncio.gather(*map(leave, range(64)))
        await all_pages_home(engine)
        return process.memory_info().rss, here.memory_info().rss

    for _ in range(3):
        before = await settle()
    for _ in range(3):
        after = await settle()
    assert after[0] - before[0] < 8 << 20
    assert after[1] - before[1] < 8 << 20
    assert not engine._inboxes
    assert engine._admission.inside == 0


# --- a draft model --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the tiny model under two names, and once with two of its tokens swapped."""
    root = tmp_path_factory.mktemp("pair")
    for name in ("large", "small", "other"):
        folder = tmp_path_factory.mktemp("models") / name
        folder.mkdir()
        document = small_tokenizer_json()
        if name == "other":
            vocab = document["model"]["vocab"]
            vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
        (folder / "tokenizer.json").write_text(json.dumps(document))
        (folder / "config.json").write_text(json.dumps(CONFIG))
        save_file(_weights(), folder / "model.safetensors")
        pull(Store(root), str(folder), sources=[], progress=_Quiet())
    return root


async def test_a_draft_changes_no_answer(tiny_settings: Make, pair_root: Path) -> None:
    answers = []
    for draft in ("", "small"):
        settings = tiny_settings(root=str(pair_root), model="large", backend="native", draft=draft)
        async with await EngineProcess.start(settings) as engine:
            answers.append([await answer(engine, prompt_of(seed)) for seed in range(3)])
            await all_pages_home(engine)
    assert answers[0] == answers[1]


async def test_a_draft_of_another_vocabulary_is_refused(
    tiny_settings: Make, pair_root: Path
) -> None:
    settings = tiny_settings(root=str(pair_root), model="large", backend="native", draft="other")
    with pytest.raises(UsageError, match="another vocabulary"):
        await EngineProcess.start(settings)

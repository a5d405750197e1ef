"""Line 4 on the real model: 64 at once, a third of them leaving midway, against solo runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path

import msgspec
import numpy as np
import psutil
import pytest

from freehold.engine import EngineProcess, EngineSettings
from freehold.types import EngineStats, Sampling, Token

N_TOKENS = 16


class _Quiet:
    def start(self, total: int, what: str) -> None: ...
    def advance(self, n: int) -> None: ...
    def note(self, line: str) -> None: ...


@pytest.fixture
def real_settings(real_gguf: Path, tmp_path: Path) -> EngineSettings:
    """An engine on a fresh store with the real model, brought in as a file."""
    from freehold.store import Store, pull

    manifest = pull(Store(tmp_path), str(real_gguf.absolute()), sources=[], progress=_Quiet())
    return EngineSettings(root=str(tmp_path), model=manifest.name, threads=2)


@pytest.mark.slow
@pytest.mark.timeout(1500)
async def test_64_streams_a_third_of_them_left_midway(
    real_settings: EngineSettings, record_property: Callable[[str, object], None]
) -> None:
    greedy = Sampling(temperature=0, max_tokens=N_TOKENS)
    prompts = [
        np.random.default_rng(i).integers(1000, 50_000, 12 + i % 20).tolist() for i in range(64)
    ]
    async with await EngineProcess.start(real_settings) as engine:

        async def one(i: int, *, leave: bool) -> list[int]:
            tokens: list[int] = []
            async with aclosing(engine.generate(prompts[i], greedy)) as events:
                async for event in events:
                    if isinstance(event, Token):
                        tokens.append(event.id)
                    if leave and len(tokens) == N_TOKENS // 2:
                        break
            return tokens

        async def round_of_64() -> list[list[int]]:
            return await asyncio.gather(*(one(i, leave=i % 3 == 0) for i in range(64)))

        alone = [await one(i, leave=False) for i in range(64)]
        together = await round_of_64()
        process = psutil.Process(engine.pid)
        before = process.memory_info().rss
        for _ in range(3):
            await round_of_64()
        grown = process.memory_info().rss - before
        stats = await engine.stats()

    stayed = [i for i in range(64) if i % 3]
    assert all(len(together[i]) == len(alone[i]) for i in stayed)
    agree = sum(together[i] == alone[i] for i in stayed)
    record_property("agreement", f"{agree} of {len(stayed)}")
    record_property("grown_bytes", grown)
    print(f"agreement {agree} of {len(stayed)}; memory grew by {grown / 1e6:.1f} MB")
    # The torch back end may choose another kernel for another batch size; an answer whose two best
    # tokens all but tie can then differ. The native kernels will make this exact.
    assert agree >= 0.9 * len(stayed)
    assert stats.running == stats.waiting == 0
    assert stats.pages_free + stats.pages_cached == stats.pages_total
    assert grown < 64 << 20


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_guessing_ahead_changes_nothing(
    real_settings: EngineSettings, record_property: Callable[[str, object], None]
) -> None:
    """Alone and eight at once, likeliest and drawn: the same tokens and log-probabilities."""
    rng = np.random.default_rng(3)
    asked = [
        (
            rng.integers(1000, 50_000, 20 + 9 * i).tolist() * 3,
            Sampling(temperature=0.7 * (i % 2), seed=i, max_tokens=80, logprobs=1),
        )
        for i in range(8)
    ]
    native = msgspec.structs.replace(real_settings, backend="native")

    async def answers(speculate: str) -> tuple[list[list[Token]], list[list[Token]], EngineStats]:
        settings = msgspec.structs.replace(native, speculate=speculate)
        async with await EngineProcess.start(settings) as engine:

            async def one(ids: list[int], sampling: Sampling) -> list[Token]:
                events = engine.generate(ids, sampling)
                return [event async for event in events if isinstance(event, Token)]

            alone = [await one(*ask) for ask in asked]
            return alone, await asyncio.gather(*(one(*ask) for ask in asked)), await engine.stats()

    alone, together, stats = await answers("off")
    assert stats.guessed == 0
    assert alone == together
    ahead_alone, ahead_together, stats = await answers("lookup")
    record_property("guessed", f"{stats.kept} of {stats.guessed} kept")
    print(f"guesses: {stats.kept} of {stats.guessed} kept")
    assert stats.kept > 100
    assert ahead_alone == ahead_together == alone

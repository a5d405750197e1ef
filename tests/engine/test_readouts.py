"""Readouts of the residual stream: the right numbers, for every row, and never another answer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from freehold import types
from freehold.engine import EngineProcess, EngineSettings
from freehold.engine.pooling import LayerPooler
from freehold.engine.runner import Runner
from freehold.engine.wire import AnyEvent, Embedded, Generate, Pool, Prefilled, Readout, Token
from freehold.errors import UsageError
from freehold.qwen.model import Model, Span
from freehold.types import Floats, Sampling
from tests.engine.conftest import _Quiet
from tests.engine.test_runner import prompt_of

GREEDY = Sampling(temperature=0, max_tokens=12)
CHANNELS = 3
Make = Callable[..., Any]


def readout_of(model: Model, **changes: Any) -> Readout:
    width = model.config.width
    weights = np.random.default_rng(5).normal(size=(2, width, CHANNELS)).astype("<f4")
    values: dict[str, Any] = {
        "digest": model.card.digest,
        "layers": [0, 1],
        "channels": CHANNELS,
        "weights": weights.tobytes(),
    }
    return Readout(**(values | changes))


def rows_by_taps(model: Model, readout: Readout, ids: list[int]) -> Floats:
    """The same by the streams themselves."""
    weights = np.frombuffer(readout.weights, "<f4").reshape(2, -1, CHANNELS)
    seen: dict[int, Floats] = {}

    def tap(point: str, layer: int, x_td: Floats) -> None:
        if point == "block_out":
            seen[layer] = np.array(model.ops.to_numpy(x_td))

    state = model.cache.new()
    model.forward([Span(state=state, ids=ids, want="none")], tap=tap)
    state.free()
    found: Floats = seen[0] @ weights[0] + seen[1] @ weights[1]
    return found


def prompt_rows(events: list[AnyEvent], request: int = 1) -> Floats:
    (event,) = [e for e in events if isinstance(e, Prefilled) and e.request == request]
    return np.frombuffer(event.readout, "<f4").reshape(-1, CHANNELS)


def answer_of(events: list[AnyEvent], request: int = 1) -> tuple[list[int], list[bytes]]:
    tokens = [e for e in events if isinstance(e, Token) and e.request == request]
    return [token.id for token in tokens], [token.readout for token in tokens]


@pytest.mark.parametrize("backend", ["torch", "native"])
def test_every_row_is_read_and_no_bit_of_the_answer_changes(
    tiny_model: Make, settings: Make, drive: Make, backend: str
) -> None:
    model = tiny_model(backend=backend)
    readout, ids = readout_of(model), prompt_of(1, 50, 300)
    sampling = Sampling(temperature=0, max_tokens=12, logprobs=3)

    def run(**changes: Any) -> list[AnyEvent]:
        runner = Runner(tiny_model(backend=backend), settings(**changes))
        runner.generate(Generate(1, list(ids), sampling))
        events: list[AnyEvent] = drive(runner)
        return events

    plain, read = run(), run(readout=readout)
    bare = [Token(t.request, t.id, t.logprob, t.top) for t in read if isinstance(t, Token)]
    assert bare == [t for t in plain if isinstance(t, Token)]
    answer, rows = answer_of(read)
    wanted = rows_by_taps(model, readout, ids + answer[:-1])
    assert prompt_rows(read) == pytest.approx(wanted[:50], rel=1e-3, abs=1e-3)
    found = np.frombuffer(b"".join(rows), "<f4").reshape(-1, CHANNELS)
    assert found == pytest.approx(wanted[49:], rel=1e-3, abs=1e-3)


def test_batch_pieces_guesses_and_cached_prefixes_change_no_bit(
    tiny_model: Make, settings: Make, drive: Make
) -> None:
    model = tiny_model(backend="native")
    readout = readout_of(model)
    ids = prompt_of(2, 20, 300) * 4  # repeats, so that guesses are made

    def run(n: int, **changes: Any) -> tuple[Runner, list[AnyEvent]]:
        fresh = tiny_model(backend="native", page_size=16)
        runner = Runner(fresh, settings(readout=readout, **changes))
        for number in range(1, n + 1):
            prompt = list(ids) if number == 1 else prompt_of(number, 33, 300)
            runner.generate(Generate(number, prompt, Sampling(temperature=0, max_tokens=40)))
        return runner, drive(runner)

    _, alone = run(1, speculate="off")
    wanted = (prompt_rows(alone).tobytes(), answer_of(alone))
    for n, changes in ((1, {"step_tokens": 7}), (5, {}), (1, {"speculate": "lookup"})):
        runner, events = run(n, **changes)
        assert (prompt_rows(events).tobytes(), answer_of(events)) == wanted
        # Once more: its pages are kept, and what was read off them.
        runner.generate(Generate(99, list(ids), Sampling(temperature=0, max_tokens=40)))
        again = drive(runner)
        (event,) = [e for e in again if isinstance(e, Prefilled)]
        assert event.cached_tokens >= 64
        assert (prompt_rows(again, 99).tobytes(), answer_of(again, 99)) == wanted


def test_rows_survive_that_pages_are_given_up(
    tiny_model: Make, settings: Make, drive: Make
) -> None:
    model = tiny_model(backend="native")
    readout = readout_of(model)

    def run(cache_tokens: int) -> list[Any]:
        fresh = tiny_model(backend="native", cache_tokens=cache_tokens, page_size=16)
        runner = Runner(fresh, settings(readout=readout))
        for number in range(1, 5):
            sampling = Sampling(temperature=0, max_tokens=60)
            runner.generate(Generate(number, prompt_of(number, 60, 300), sampling))
        events = drive(runner)
        kept = runner.scheduler.prefix
        assert set(kept._rows) == set(kept._holders)
        return [(prompt_rows(events, n).tobytes(), answer_of(events, n)) for n in range(1, 5)]

    assert run(208) == run(4096)


@pytest.mark.parametrize(
    "changes",
    [
        {"digest": "sha256:" + "0" * 64},
        {"layers": [1, 0]},
        {"layers": [0, 2]},
        {"layers": []},
        {"layers": [0, 0]},
        {"channels": 0},
        {"channels": 4},
        {"weights": b""},
        {"weights": np.full(2 * 64 * CHANNELS, np.nan, "<f4").tobytes()},
    ],
)
def test_what_does_not_fit_is_refused(
    tiny_model: Make, settings: Make, changes: dict[str, Any]
) -> None:
    model = tiny_model()
    with pytest.raises(UsageError) as refused:
        Runner(model, settings(readout=readout_of(model, **changes)))
    assert refused.value.param == "readout"
    if "digest" in changes:
        assert model.card.name in str(refused.value)


@pytest.mark.parametrize("step_tokens", [5, 300])
def test_pooled_streams_are_means_and_last_rows(
    tiny_model: Make, settings: Make, drive: Make, step_tokens: int
) -> None:
    model, ids = tiny_model(), prompt_of(3, 40, 300)
    runner = Runner(model, settings(step_tokens=step_tokens))
    runner.pool(Pool(1, ids, [0, 1], 10, 37))
    (event,) = drive(runner)
    assert isinstance(event, Embedded)
    found = np.frombuffer(event.values, "<f4").reshape(2, 2, 64)
    seen: dict[int, Floats] = {}

    def tap(point: str, layer: int, x_td: Any) -> None:
        if point == "block_out":
            seen[layer] = np.array(model.ops.to_numpy(x_td))

    model.forward([Span(state=model.cache.new(), ids=ids, want="none")], tap=tap)
    for layer in (0, 1):
        assert found[layer, 0] == pytest.approx(seen[layer][10:37].mean(0), abs=2e-4)
        assert found[layer, 1] == pytest.approx(seen[layer][-1], abs=2e-4)


@pytest.mark.parametrize(
    "values", [([], 0, 1), ([0, 0], 0, 1), ([0], 1, 1), ([0], -1, 1), ([0], 0, 5)]
)
def test_rows_that_are_none_are_refused(values: tuple[list[int], int, int]) -> None:
    with pytest.raises(UsageError):
        LayerPooler(*values, 4)


@pytest.mark.asyncio
async def test_rows_come_through_the_process(
    tiny_settings: Callable[..., EngineSettings], tiny_model: Make
) -> None:
    model = tiny_model()
    settings = tiny_settings(readout=readout_of(model))
    ids = prompt_of(4, 30, 300)
    async with await EngineProcess.start(settings) as engine:
        assert "readout" in engine.card.caps
        events = [event async for event in engine.generate(ids, GREEDY)]
        pooled = await engine.pool(ids, layers=[0, 1], start=0, stop=30)
        with pytest.raises(UsageError):
            await engine.pool(ids, layers=[7], start=0, stop=30)
    assert events[0].readout is not None  # type: ignore[union-attr]
    rows = events[0].readout  # type: ignore[union-attr]
    assert rows.shape == (30, CHANNELS)
    assert rows == pytest.approx(rows_by_taps(model, settings.readout, ids), rel=1e-3, abs=1e-3)  # type: ignore[arg-type]
    assert pooled.shape == (2, 2, 64)
    assert rows[-1].tobytes() == events[1].readout.tobytes()  # type: ignore[union-attr]


@pytest.fixture
def real_settings(real_gguf: Path, tmp_path: Path) -> EngineSettings:
    from freehold.store import Store, pull

    manifest = pull(Store(tmp_path), str(real_gguf.absolute()), sources=[], progress=_Quiet())
    return EngineSettings(root=str(tmp_path), model=manifest.name, threads=1)


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_the_real_model_answers_alike_with_and_without(real_settings: EngineSettings) -> None:
    width, prompt = 896, np.random.default_rng(3).integers(1000, 50_000, 30).tolist() * 2
    weights = np.random.default_rng(5).normal(size=(3, width, 4)).astype("<f4").tobytes()
    answers: list[Any] = []
    readout: Readout | None = None
    for _ in range(2):
        told = msgspec.structs.replace(real_settings, readout=readout)
        async with await EngineProcess.start(told) as engine:
            digest = engine.card.digest
            sampling = Sampling(temperature=0, max_tokens=40, logprobs=5)
            events = [event async for event in engine.generate(prompt, sampling)]
        tokens = [event for event in events if isinstance(event, types.Token)]
        answers.append([(token.id, token.logprob, token.top) for token in tokens])
        rows = [token.readout for token in tokens]
        assert all((row is None) is (readout is None) for row in rows)
        readout = Readout(digest=digest, layers=[11, 14, 17], channels=4, weights=weights)
    assert answers[0] == answers[1]

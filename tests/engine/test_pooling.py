"""Vectors of texts against transformers' hidden states, alone and in company."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Qwen2Config, Qwen2Model

from freehold.engine import EngineProcess
from freehold.engine.pooling import Pooler
from freehold.engine.runner import Runner
from freehold.engine.wire import Embed, Embedded, Failed, Generate
from freehold.errors import UsageError
from freehold.types import Sampling
from tests.engine.conftest import CONFIG, _weights

TEXTS = [[5], [7, 8, 9], [(37 * i) % 300 for i in range(70)]]


@pytest.fixture(scope="module")
def theirs() -> Callable[[list[int]], Any]:
    """transformers' last hidden states of the tiny model, (t, d)."""
    model = Qwen2Model(Qwen2Config(**{k: v for k, v in CONFIG.items() if k != "model_type"}))
    named = {name.removeprefix("model."): torch.tensor(v) for name, v in _weights().items()}
    model.load_state_dict(named)
    model.eval()

    def hidden(ids: list[int]) -> Any:
        with torch.no_grad():
            return model(torch.tensor([ids])).last_hidden_state[0].numpy()

    return hidden


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_vectors_are_transformers(
    tiny_model: Callable[..., Any],
    settings: Callable[..., Any],
    drive: Callable[..., Any],
    theirs: Callable[[list[int]], Any],
    pooling: Any,
) -> None:
    runner = Runner(tiny_model(), settings())
    for ids in TEXTS:
        runner.embed(Embed(1, list(ids), pooling))
        (event,) = drive(runner)
        assert isinstance(event, Embedded)
        hidden = theirs(ids)
        wanted = hidden.mean(0) if pooling == "mean" else hidden[-1]
        assert np.frombuffer(event.values, "<f4") == pytest.approx(wanted, abs=2e-4)


def test_a_vector_is_the_same_however_its_text_is_cut(
    tiny_model: Callable[..., Any], settings: Callable[..., Any], drive: Callable[..., Any]
) -> None:
    def vectors(**changes: Any) -> list[bytes]:
        runner = Runner(tiny_model(backend="native"), settings(**changes))
        for number, ids in enumerate(TEXTS, 1):
            runner.embed(Embed(number, list(ids), "mean"))
        runner.generate(Generate(9, [1, 2, 3], Sampling(max_tokens=20)))
        events = {e.request: e for e in drive(runner) if isinstance(e, Embedded)}
        assert runner.stats().running == 0
        return [events[number].values for number in (1, 2, 3)]

    assert vectors() == vectors(step_tokens=7) == vectors(max_running=1)


def test_what_cannot_be_is_refused(
    pretend: Callable[..., Any], settings: Callable[..., Any]
) -> None:
    runner = Runner(pretend(), settings())
    for ids in ([], [50], list(range(40)) * 30):
        (failed,) = runner.embed(Embed(1, ids, "mean"))
        assert isinstance(failed, Failed)


@pytest.mark.asyncio(loop_scope="module")
async def test_vectors_from_a_process(engine: EngineProcess) -> None:
    vector = await engine.embed([7, 8, 9], pooling="last")
    assert vector.shape == (64,)
    assert vector.tolist() == (await engine.embed([7, 8, 9], pooling="last")).tolist()
    with pytest.raises(UsageError):
        await engine.embed([], pooling="mean")


def test_the_mean_is_summed_in_order() -> None:
    rows = np.random.default_rng(1).normal(size=(50, 8)).astype(np.float32)
    whole, parts = Pooler("mean"), Pooler("mean")
    whole.add(rows)
    for cut in (rows[:1], rows[1:20], rows[20:]):
        parts.add(cut)
    assert whole.vector().tobytes() == parts.vector().tobytes()
    assert whole.vector() == pytest.approx(rows.mean(0), abs=1e-6)

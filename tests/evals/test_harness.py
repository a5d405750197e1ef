"""`lm-eval` over an engine says what our own tasks say."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from freehold.errors import UsageError
from freehold.evals import Plan, Task, evaluate, suite_of
from tests.evals.conftest import ByteCodec, RuleEngine, likeliest, logprob
from tests.evals.test_running import CHOICE, NUMBER, SUMS, adds

os.environ["HF_HUB_OFFLINE"] = "1"
pytest.importorskip("lm_eval", reason="needs the extra lm-eval")

from lmeval import THEIRS, theirs

from freehold.evals.asking import Asker
from freehold.evals.harness import FreeholdLM

Engines = Callable[..., RuleEngine]


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


def test_both_ways_agree_on_options(
    tmp_path: Path,
    made: Callable[..., Task],
    engine: Engines,
    codec: ByteCodec,
    runner: asyncio.Runner,
) -> None:
    rows = [
        {"id": i, "q": f"q{i}", "choices": [f"a{i}" * (i % 4 + 1), "bb", "ćć"], "label": i % 3}
        for i in range(60)
    ]
    task = made(CHOICE, rows)
    ours = runner.run(evaluate(engine(), codec, [task], data=tmp_path)).tasks[0]
    told = theirs(FreeholdLM(over=(engine(), codec, runner)), task, tmp_path)
    acc, acc_norm = ours.metrics
    assert told["acc,none"] == pytest.approx(acc.value)
    assert told["acc_bytes,none"] == pytest.approx(acc_norm.value)
    assert 0 < acc.value < 1


def test_both_ways_agree_on_numbers(
    tmp_path: Path,
    made: Callable[..., Task],
    engine: Engines,
    codec: ByteCodec,
    runner: asyncio.Runner,
) -> None:
    task = made(NUMBER, SUMS)
    ours = runner.run(evaluate(engine(adds), codec, [task], data=tmp_path)).tasks[0]
    told = theirs(FreeholdLM(over=(engine(adds), codec, runner)), task, tmp_path)
    assert told["exact_match,flexible-extract"] == pytest.approx(ours.main.value) == 0.75


def request(*arguments: Any) -> Any:
    return SimpleNamespace(args=arguments)


def test_what_a_model_is_asked(engine: Engines, codec: ByteCodec, runner: asyncio.Runner) -> None:
    lm = FreeholdLM(over=(engine(lambda p: "one two three"), codec, runner))
    best = bytes([likeliest(list(b"ab"))]) if likeliest(list(b"ab")) < 128 else b"c"
    ((value, greedy),) = lm.loglikelihood([request("ab", best.decode())])
    assert value == pytest.approx(logprob(list(b"ab"), best[0]))
    assert greedy == (likeliest(list(b"ab")) == best[0])
    (whole,) = lm.loglikelihood_rolling([request("ab")])
    mark = lm.eot_token_id
    assert whole == pytest.approx(logprob([mark], 97) + logprob([mark, 97], 98), rel=1e-5)
    assert lm.generate_until([request("x", {"until": [" three"]})]) == ["one two"]
    with pytest.raises(UsageError, match="num_beams"):
        lm.generate_until([request("x", {"until": [], "num_beams": 4})])
    assert lm.apply_chat_template([{"role": "user", "content": "hi"}]) == "<user>hi"


@pytest.mark.slow
def test_both_ways_agree_on_the_real_model(real_root: Path, shared_data: Path) -> None:
    """XCOPA, Belebele and GSM8K, a few items of each, item by item the same engine's work."""
    from freehold.engine import EngineProcess, EngineSettings
    from freehold.qwen import codec
    from freehold.store import Store, verify

    name, data = "qwen2.5-coder-0.5b-instruct", shared_data / "eval"
    settings = EngineSettings(root=str(real_root), model=name, backend="native", dtype="bfloat16")
    speaks = codec.load(verify(Store(real_root), name, keep=False))
    with asyncio.Runner() as runner:
        running = runner.run(EngineProcess.start(settings))
        lm = FreeholdLM(over=(running, speaks, runner))
        asker = Asker(running, speaks, at_once=4)
        prefix, ids = speaks.text("The capital of France is"), speaks.text(" Paris, they say.")
        given = runner.run(asker.weigh(prefix, ids, greedy=True))
        whole = runner.run(asker.weigh(prefix, ids, whole=True, greedy=True))
        assert given.logprob == pytest.approx(whole.logprob, abs=1e-5)  # float32 on its way
        assert given.greedy == whole.greedy
        for task, items in zip(
            suite_of(["xcopa-id", "belebele-th", "gsm8k"]), (60, 20, 20), strict=True
        ):
            plan = Plan(limit=items)
            ours = runner.run(evaluate(running, speaks, [task], data=data, plan=plan)).tasks[0]
            told = theirs(lm, task, data, items=items, apply_chat_template=task.chat)
            for metric in ours.metrics:
                same = pytest.approx(metric.value)
                assert told[THEIRS[metric.name]] == same, (task.name, metric)
        runner.run(running.close())

"""Requests of several adapters in one engine: each answer is its solo answer, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from freehold.engine.runner import Runner
from freehold.engine.wire import Embed, Embedded, Failed, Generate, Prefilled, Score, Scored, Token
from freehold.errors import IntegrityError, UsageError
from freehold.faults import error_of
from freehold.qwen.adapter import CONFIG, PREFIX
from freehold.types import RawTensor, Sampling, VerifiedModel

Make = Callable[..., Any]
NAMES = ("", "law", "med", "poem")
IDS = np.random.default_rng(1).integers(0, 300, 50).tolist()


def small_adapter(name: str, seed: int) -> VerifiedModel:
    """A random LoRA of the tiny model, of a rank of its own."""
    rng, rank, tensors = np.random.default_rng(seed), 2 + seed % 5, {}
    shapes = {
        "self_attn.q_proj": (64, 64),
        "self_attn.v_proj": (32, 64),
        "mlp.down_proj": (64, 128),
    }
    for layer in range(2):
        for module, (n_out, n_in) in shapes.items():
            for half, shape in (("A", (rank, n_in)), ("B", (n_out, rank))):
                key = f"{PREFIX}model.layers.{layer}.{module}.lora_{half}.weight"
                data = (rng.normal(size=shape) * 0.3).astype(np.float32).reshape(-1)
                tensors[key] = RawTensor(
                    name=key, dtype="F32", shape=shape, data=data.view(np.uint8)
                )
    document = f'{{"peft_type": "LORA", "r": {rank}, "lora_alpha": {rank}, "bias": "none"}}'
    return VerifiedModel(
        name=name,
        digest=f"sha256:{seed}",
        format="safetensors",
        licence="NOASSERTION",
        attested="owner",
        metadata={},
        documents={CONFIG: document.encode()},
        tensors=tensors,
    )


KEPT = {name: small_adapter(name, seed) for seed, name in enumerate(NAMES) if name}


@pytest.fixture(params=["native", "torch"])
def start(request: pytest.FixtureRequest, tiny_model: Make, settings: Make) -> Callable[[], Runner]:
    def run() -> Runner:
        model = tiny_model(backend=request.param)
        runner = Runner(model, settings(step_tokens=64), fetch=KEPT.__getitem__)
        for name, found in KEPT.items():
            assert runner.adapters.attach(name, found.digest).nbytes > 0
        return runner

    return run


def answers(events: list[Any]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for event in events:
        if isinstance(event, Token):
            found.setdefault(event.request, []).append(event.id)
    return found


def sampling(n: int) -> Sampling:
    return Sampling(temperature=0.8 * (n % 2), seed=n, max_tokens=20)


def test_each_answer_is_its_solo_answer(start: Callable[[], Runner], drive: Make) -> None:
    runner = start()
    # The same prompt for all: a page that leaked from one adapter to another would show.
    for n in range(12):
        name = NAMES[n % 4]
        runner.generate(Generate(n, IDS[: 20 + n // 4], sampling(n), adapter=name))
    together = answers(drive(runner))
    for n in range(12):
        alone = start()
        alone.generate(Generate(n, IDS[: 20 + n // 4], sampling(n), adapter=NAMES[n % 4]))
        assert answers(drive(alone))[n] == together[n]
    assert len({tuple(together[n]) for n in range(4)}) == 4, "adapters change answers"


def test_pages_are_shared_within_an_adapter_alone(start: Callable[[], Runner], drive: Make) -> None:
    runner = start()
    cached = []
    for n, name in enumerate(("law", "med", "", "law", "med")):
        runner.generate(Generate(n, list(IDS), sampling(0), adapter=name))
        cached += [e.cached_tokens for e in drive(runner) if isinstance(e, Prefilled)]
    assert cached == [0, 0, 0, 48, 48]
    # Another adapter under an old name is another adapter.
    runner.adapters._fetch = lambda name: replace(KEPT["poem"], name=name)
    runner.adapters.attach("law", KEPT["poem"].digest)
    runner.generate(Generate(9, list(IDS), sampling(0), adapter="law"))
    assert [e.cached_tokens for e in drive(runner) if isinstance(e, Prefilled)] == [0]


def test_scores_and_vectors_go_through_the_adapter(
    start: Callable[[], Runner], drive: Make
) -> None:
    runner = start()
    for n, name in enumerate(NAMES):
        runner.score(Score(2 * n, list(IDS), 0, adapter=name))
        runner.embed(Embed(2 * n + 1, list(IDS), "mean", adapter=name))
    values = {e.request: e.values for e in drive(runner) if isinstance(e, Scored | Embedded)}
    assert len(set(values.values())) == 8


def test_one_that_leaves_is_kept_for_whoever_began_with_it(
    start: Callable[[], Runner], drive: Make
) -> None:
    whole, broken = start(), start()
    for runner in (whole, broken):
        runner.generate(Generate(1, list(IDS), sampling(0), adapter="law"))
        runner.step()
    broken.adapters.detach("law")
    assert answers(drive(broken)) == answers(drive(whole))
    (refused,) = broken.generate(Generate(2, list(IDS), sampling(0), adapter="law"))
    assert isinstance(refused, Failed)
    with pytest.raises(UsageError, match="not beside"):
        raise error_of(refused.fault)


def test_only_what_the_gate_let_pass_is_taken(start: Callable[[], Runner]) -> None:
    with pytest.raises(IntegrityError, match="gate"):
        start().adapters.attach("law", "sha256:other")


def test_an_engine_without_a_vault_takes_none(tiny_model: Make, settings: Make) -> None:
    runner = Runner(tiny_model(), settings())
    assert "adapters" not in runner.card.caps
    with pytest.raises(UsageError, match="takes no"):
        runner.adapters.attach("law", "sha256:1")

"""Small models for the engine's tests: a pretend one that reads what it writes, and a real Qwen."""

from __future__ import annotations

import json
import zlib
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import pytest_asyncio

from freehold.engine import EngineProcess, EngineSettings
from freehold.engine.runner import Runner
from freehold.engine.wire import AnyEvent, Generate, Token
from freehold.qwen.model import Model, Span, load
from freehold.qwen.ops.pages import PagedState, Pool
from freehold.types import ModelCard, Sampling

TINY = "tiny-qwen"


class PretendModel:
    """Writes token ids into KV pages and makes logits from what it reads back there.

    A page that was shared wrongly, freed too early or written by two sequences changes the logits,
    so equal answers mean equal pages. ``spoil`` maps a last token to a value put into the logits.
    With ``echo`` it mostly, but not always, says again what stood that many tokens before.
    """

    def __init__(
        self, *, n_pages: int = 64, page_size: int = 4, context: int = 1000, echo: int = 0
    ) -> None:
        self._kv = np.zeros((n_pages + 1, page_size), np.int64)
        self.cache = Pool(n_pages, page_size, clear=self._clear, copy=self._copy)
        self.config: Any = SimpleNamespace(n_layers=1, width=4, vocab=50)
        self.card = ModelCard(
            name="pretend",
            digest="none",
            context=context,
            vocab=50,
            bytes_per_token=1,
            numerics="exact",
            caps=frozenset({"ids", "score", "replay"}),
        )
        self.echo = echo
        self.ops: Any = None
        self.spoil: dict[int, float] = {}
        self.steps: list[list[Span]] = []

    def forward(
        self, spans: Sequence[Span], *, tap: object = None
    ) -> list[npt.NDArray[np.float32] | None]:
        assert tap is None
        self.steps.append(list(spans))
        return [self._run(span) for span in spans]

    def _run(self, span: Span) -> npt.NDArray[np.float32] | None:
        state = span.state
        assert isinstance(state, PagedState)
        first = state.length
        state.append(len(span.ids))
        size = self.cache.page_size
        for position, token in enumerate(span.ids, first):
            self._kv[state.pages[position // size], position % size] = token
        if span.want == "none":
            return None
        ends = range(first + 1, state.length + 1) if span.want == "all" else [state.length]
        history = self._kv[state.pages].reshape(-1)
        return np.stack([self._logits(history[:end]) for end in ends])

    def _logits(self, history: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        rng = np.random.default_rng(zlib.crc32(history.tobytes()))
        logits = rng.normal(size=self.card.vocab).astype(np.float32)
        if 0 < self.echo <= len(history) and rng.integers(6):
            logits[int(history[-self.echo])] += 9
        if int(history[-1]) in self.spoil:
            logits[7] = self.spoil[int(history[-1])]
        return logits

    def _clear(self, pages: list[int]) -> None:
        self._kv[pages] = -1

    def _copy(self, source: int, target: int) -> None:
        self._kv[target] = self._kv[source]


@pytest.fixture(scope="session")
def pretend() -> Callable[..., PretendModel]:
    return PretendModel


def _settings(**changes: Any) -> EngineSettings:
    values = {"root": "", "model": "", "max_running": 8, "max_waiting": 8, "step_tokens": 16}
    return EngineSettings(**(values | changes))


@pytest.fixture(scope="session")
def settings() -> Callable[..., EngineSettings]:
    """Settings for an in-process runner."""
    return _settings


def _drive(runner: Runner, *, limit: int = 10_000) -> list[AnyEvent]:
    """Step until nothing is left to do."""
    events: list[AnyEvent] = []
    for _ in range(limit):
        step = runner.step()
        if step is None:
            return events
        events += step
    raise AssertionError("the runner does not come to rest")


@pytest.fixture(scope="session")
def drive() -> Callable[..., list[AnyEvent]]:
    return _drive


@pytest.fixture
def answer() -> Callable[..., list[int]]:
    """One prompt's answer, alone in a fresh runner."""

    def run(model: Any, ids: list[int], sampling: Sampling, **changes: Any) -> list[int]:
        runner = Runner(model, _settings(**changes))
        assert runner.generate(Generate(1, list(ids), sampling)) == []
        events = _drive(runner)
        runner.scheduler.prefix.clear()
        assert model.cache.n_free == model.cache.n_pages
        return [event.id for event in events if isinstance(event, Token)]

    return run


@pytest.fixture(scope="session")
def check_pages() -> Callable[[Runner, Any], None]:
    """No page is lost: with nothing running all are free or in the prefix cache, and all are free
    once that is cleared."""

    def check(runner: Runner, model: Any) -> None:
        stats = runner.stats()
        assert stats.running == stats.waiting == 0
        assert stats.pages_free + stats.pages_cached == stats.pages_total
        runner.scheduler.prefix.clear()
        assert model.cache.n_free == model.cache.n_pages

    return check


# --- a real Qwen, tiny and random -----------------------------------------------------------------

CONFIG = {
    "model_type": "qwen2",
    "architectures": ["Qwen2ForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 300,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "hidden_act": "silu",
    "torch_dtype": "float32",
}


def _weights() -> dict[str, npt.NDArray[np.float32]]:
    rng = np.random.default_rng(11)
    d, f, kv = 64, 128, 32
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (300, d)}
    for i in range(2):
        block = f"model.layers.{i}"
        attn = f"{block}.self_attn"
        shapes |= {
            f"{block}.input_layernorm.weight": (d,),
            f"{block}.post_attention_layernorm.weight": (d,),
            f"{attn}.q_proj.weight": (d, d),
            f"{attn}.q_proj.bias": (d,),
            f"{attn}.k_proj.weight": (kv, d),
            f"{attn}.k_proj.bias": (kv,),
            f"{attn}.v_proj.weight": (kv, d),
            f"{attn}.v_proj.bias": (kv,),
            f"{attn}.o_proj.weight": (d, d),
            f"{block}.mlp.gate_proj.weight": (f, d),
            f"{block}.mlp.up_proj.weight": (f, d),
            f"{block}.mlp.down_proj.weight": (d, f),
        }
    shapes["model.norm.weight"] = (d,)
    return {
        name: (rng.normal(size=shape) * 0.2 + ("norm" in name)).astype(np.float32)
        for name, shape in shapes.items()
    }


class _Quiet:
    def start(self, total: int, what: str) -> None: ...
    def advance(self, n: int) -> None: ...
    def note(self, line: str) -> None: ...


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that holds the tiny random model."""
    from safetensors.numpy import save_file

    from freehold.store import Store, pull

    folder = tmp_path_factory.mktemp("models") / TINY
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    save_file(_weights(), folder / "model.safetensors")
    root = tmp_path_factory.mktemp("store")
    pull(Store(root), str(folder), sources=[], progress=_Quiet())
    return root


@pytest.fixture
def tiny_model(tiny_root: Path) -> Callable[..., Model]:
    """Load the tiny model, with the cache one asks for."""
    from freehold.store import Store, verify

    def make(**options: Any) -> Model:
        verified = verify(Store(tiny_root), TINY)
        return load(verified, threads=1, **({"cache_tokens": 4096} | options))

    return make


@pytest.fixture(scope="session")
def tiny_settings(tiny_root: Path) -> Callable[..., EngineSettings]:
    """Settings for an engine process with the tiny model."""

    def make(**changes: Any) -> EngineSettings:
        values = {"root": str(tiny_root), "model": TINY, "threads": 1, "cache_tokens": 16_384}
        return EngineSettings(**(values | changes))

    return make


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(tiny_settings: Callable[..., EngineSettings]) -> AsyncIterator[EngineProcess]:
    """An engine process with the tiny model, shared by a file's tests: starting one takes seconds.

    Each test ends by looking that every page is in place.
    """
    async with await EngineProcess.start(tiny_settings()) as started:
        yield started

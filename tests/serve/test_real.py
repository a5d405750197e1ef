"""The counter with the real engine process and the real codec behind it.

Most run a tiny random Qwen; the slow ones run the default model.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
import pytest_asyncio

from freehold.engine import EngineProcess, EngineSettings
from freehold.qwen.codec import load
from freehold.qwen.tokenizer import SPLIT_PATTERN, byte_alphabet
from freehold.serve.app import Hosted, Limits, build
from freehold.serve.keys import Keyring
from freehold.serve.run import Binding, run
from freehold.store import Store, pull, verify
from freehold.types import Sampling, Token

pytestmark = pytest.mark.asyncio(loop_scope="module")

TINY = "tiny-chat"
CONTEXT = 512
IDS = {byte: token for token, byte in enumerate(byte_alphabet().values())}
END_IDS = (256, 257, 258)
NO_END = {str(token): -100 for token in END_IDS}
SHAPE = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


# --- a tiny model with a tokenizer and a template -------------------------------------------------


def _tokenizer() -> dict[str, Any]:
    vocab = {character: i for i, character in enumerate(byte_alphabet())}
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    flags = dict.fromkeys(["single_word", "lstrip", "rstrip", "normalized"], False)
    added = [
        {"id": len(vocab) + i, "content": name, "special": True, **flags}
        for i, name in enumerate(names)
    ]
    split = {
        "type": "Split",
        "pattern": {"Regex": SPLIT_PATTERN},
        "behavior": "Isolated",
        "invert": False,
    }
    level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": False,
        "use_regex": False,
    }
    return {
        "version": "1.0",
        "added_tokens": added,
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]},
        "decoder": level,
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    }


def _config() -> dict[str, Any]:
    return {
        **SHAPE,
        "model_type": "qwen2",
        "architectures": ["Qwen2ForCausalLM"],
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 259,
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "hidden_act": "silu",
        "torch_dtype": "float32",
    }


def _weights() -> dict[str, Any]:
    rng = np.random.default_rng(5)
    d, f, kv = 64, 128, 32
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (259, d)}
    for i in range(2):
        block = f"model.layers.{i}"
        for name, rows in (("q", d), ("k", kv), ("v", kv)):
            shapes[f"{block}.self_attn.{name}_proj.weight"] = (rows, d)
            shapes[f"{block}.self_attn.{name}_proj.bias"] = (rows,)
        shapes[f"{block}.self_attn.o_proj.weight"] = (d, d)
        shapes[f"{block}.mlp.gate_proj.weight"] = (f, d)
        shapes[f"{block}.mlp.up_proj.weight"] = (f, d)
        shapes[f"{block}.mlp.down_proj.weight"] = (d, f)
        shapes[f"{block}.input_layernorm.weight"] = (d,)
        shapes[f"{block}.post_attention_layernorm.weight"] = (d,)
    shapes["model.norm.weight"] = (d,)
    return {
        name: (rng.normal(size=shape) * 0.3 + ("norm" in name)).astype(np.float32)
        for name, shape in shapes.items()
    }


class _Quiet:
    def start(self, total: int, what: str) -> None: ...
    def advance(self, n: int) -> None: ...
    def note(self, line: str) -> None: ...


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that holds the tiny model."""
    from safetensors.numpy import save_file

    folder = tmp_path_factory.mktemp("models") / TINY
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(_config()))
    (folder / "tokenizer.json").write_text(json.dumps(_tokenizer()))
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    save_file(_weights(), folder / "model.safetensors")
    root = tmp_path_factory.mktemp("store")
    pull(Store(root), str(folder), sources=[], progress=_Quiet())
    return root


# --- a counter in front of a real engine ----------------------------------------------------------


@dataclass(frozen=True)
class House:
    """A running counter, its engine, and the official client of it."""

    name: str
    engine: EngineProcess
    client: openai.AsyncOpenAI

    async def chat(self, text: str, **more: Any) -> Any:
        options: dict[str, Any] = {"temperature": 0, "max_tokens": 40} | more
        return await self.client.chat.completions.create(
            model=self.name, messages=[{"role": "user", "content": text}], **options
        )

    async def settled(self) -> None:
        """Nothing runs any more, and every KV page is free or in the prefix cache."""
        async with asyncio.timeout(20):
            # The engine offers no event for this.
            while (stats := await self.engine.stats()).running + stats.waiting:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert stats.pages_free + stats.pages_cached == stats.pages_total


@asynccontextmanager
async def _house(settings: EngineSettings, folder: Path) -> AsyncIterator[House]:
    verified = verify(Store(Path(settings.root)), settings.model)
    keys = Keyring(f"sqlite:///{folder / 'keys.db'}")
    async with await EngineProcess.start(settings) as engine:
        hosted = Hosted(
            name=verified.name,
            card=engine.card,
            engine=engine,
            codec=load(verified),
            created=0,
        )
        app = build([hosted], keys, Limits())
        ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        serving = asyncio.create_task(
            run(app, Binding(port=0), drain_seconds=5, on_ready=ready.set_result)
        )
        try:
            await asyncio.wait({serving, ready}, return_when=asyncio.FIRST_COMPLETED)
            client = openai.AsyncOpenAI(
                base_url=f"{await ready}/v1", api_key=keys.add_temporary(), max_retries=0
            )
            async with client:
                yield House(verified.name, engine, client)
        finally:
            serving.cancel()
            await asyncio.wait({serving})


def _tiny_settings(root: Path) -> EngineSettings:
    return EngineSettings(root=str(root), model=TINY, threads=1, cache_tokens=32_768)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def tiny(tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    """The tiny model, served to all tests that leave it as it was."""
    async with _house(_tiny_settings(tiny_root), tmp_path_factory.mktemp("keys")) as house:
        yield house


async def _streamed(stream: Any, leave_after: int | None = None) -> str:
    text, chunks = "", 0
    async with stream:
        async for chunk in stream:
            text += chunk.choices[0].delta.content or ""
            chunks += 1
            if chunks == leave_after:
                break
    return text


async def test_stream_equals_whole(tiny: House) -> None:
    whole = await tiny.chat("hello")
    text = await _streamed(await tiny.chat("hello", stream=True))
    assert whole.choices[0].finish_reason in {"length", "stop"}
    assert text == whole.choices[0].message.content
    assert text
    assert whole.usage.prompt_tokens == len("user\nhello\nassistant\n") + 3
    await tiny.settled()


async def test_a_repeated_prompt_is_cached(tiny: House) -> None:
    text = "the same words again and again and again"
    first = await tiny.chat(text)
    again = await tiny.chat(text)
    assert first.usage.prompt_tokens_details.cached_tokens == 0
    assert again.usage.prompt_tokens_details.cached_tokens > 0
    assert again.choices[0].message.content == first.choices[0].message.content


async def test_64_clients_and_a_third_leave(tiny: House) -> None:
    texts = [f"client number {i} asks for something of its own" for i in range(64)]
    solo = [(await tiny.chat(text)).choices[0].message.content for text in texts]

    async def one(i: int) -> str:
        leave_after = 5 if i % 3 == 0 else None
        return await _streamed(await tiny.chat(texts[i], stream=True), leave_after)

    together = await asyncio.gather(*map(one, range(64)))
    stayed = [i for i in range(64) if i % 3]
    assert [together[i] for i in stayed] == [solo[i] for i in stayed]
    assert all(solo[i].startswith(together[i]) for i in range(0, 64, 3))
    await tiny.settled()


async def test_seeded_choices_repeat(tiny: House) -> None:
    def texts(answer: Any) -> list[str]:
        return [choice.message.content for choice in answer.choices]

    first = texts(await tiny.chat("draw", n=3, temperature=1, seed=7))
    assert texts(await tiny.chat("draw", n=3, temperature=1, seed=7)) == first
    assert len(set(first)) == 3
    assert texts(await tiny.chat("draw", n=3, temperature=1, seed=8)) != first


async def test_stop_string_is_never_shown(tiny: House) -> None:
    whole = (await tiny.chat("hello", max_tokens=60)).choices[0].message.content
    stop = whole[10:12]
    cut = whole.index(stop)
    answer = await tiny.chat("hello", max_tokens=60, stop=[stop])
    assert answer.choices[0].message.content == whole[:cut]
    assert answer.choices[0].finish_reason == "stop"
    text = await _streamed(await tiny.chat("hello", max_tokens=60, stop=[stop], stream=True))
    assert text == whole[:cut]
    await tiny.settled()


async def test_logprobs_agree_with_scoring(tiny: House) -> None:
    prompt = [IDS[byte] for byte in b"abc"]
    made = await tiny.client.completions.create(
        model=TINY, prompt=prompt, max_tokens=12, temperature=0, logprobs=3
    )
    # Echoing prompt and answer back scores the same tokens in one pass.
    sampling = Sampling(temperature=0, max_tokens=12)
    events = [event async for event in tiny.engine.generate(prompt, sampling)]
    answer = [event.id for event in events if isinstance(event, Token)]
    echoed = await tiny.client.completions.create(
        model=TINY, prompt=prompt + answer, max_tokens=0, echo=True, logprobs=3
    )
    one, other = made.choices[0].logprobs, echoed.choices[0].logprobs
    assert one is not None
    assert other is not None
    assert one.tokens == other.tokens[3:]
    np.testing.assert_allclose(other.token_logprobs[3:], one.token_logprobs, atol=1e-3)
    assert other.token_logprobs[0] is None


async def test_when_the_engine_dies_clients_are_told(tiny_root: Path, tmp_path: Path) -> None:
    async with _house(_tiny_settings(tiny_root), tmp_path) as house:
        stream = await house.chat("hello", stream=True, max_tokens=400, logit_bias=NO_END)
        await anext(stream)
        os.kill(house.engine.pid, signal.SIGKILL)
        with pytest.raises(openai.APIError) as caught:
            await _streamed(stream)
        assert caught.value.code == "engine_unavailable"
        with pytest.raises(openai.InternalServerError) as gone:
            await house.chat("anyone?")
        assert gone.value.status_code == 503


# --- the default model ----------------------------------------------------------------------------


@pytest.fixture
def real_settings(real_root: Path) -> EngineSettings:
    return EngineSettings(root=str(real_root), model="qwen2.5-coder-0.5b-instruct", threads=2)


@pytest.mark.slow
async def test_the_default_model_answers(real_settings: EngineSettings, tmp_path: Path) -> None:
    async with _house(real_settings, tmp_path) as house:
        question = "What is the capital of France? Answer in one word."
        whole = await house.chat(question, logprobs=True, top_logprobs=2)
        assert "Paris" in whole.choices[0].message.content
        assert whole.choices[0].finish_reason == "stop"
        for token in whole.choices[0].logprobs.content:
            # At temperature 0 the chosen token is the best one.
            assert token.top_logprobs[0].token == token.token
            assert token.logprob <= 0
        text = await _streamed(await house.chat(question, stream=True))
        assert text == whole.choices[0].message.content
        program = await house.chat(
            "Write a Python function is_palindrome(s). Reply with the code only.", max_tokens=200
        )
        _check_palindrome(program.choices[0].message.content)
        await house.settled()


def _check_palindrome(answer: str) -> None:
    code = answer.split("```")[1].removeprefix("python") if "```" in answer else answer
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102 - the point of the test is that the model's function runs
    assert names["is_palindrome"]("level")
    assert not names["is_palindrome"]("freehold")


@pytest.mark.slow
async def test_a_huge_prompt_is_refused_while_others_stream(
    real_settings: EngineSettings, tmp_path: Path
) -> None:
    async with _house(real_settings, tmp_path) as house:
        stream = await house.chat("Count from one to twenty.", stream=True, max_tokens=60)
        reading = asyncio.create_task(_streamed(stream))
        with pytest.raises(openai.BadRequestError) as caught:
            await house.chat("All work and no play makes Jack a dull boy. " * 230_000)
        assert caught.value.param == "messages"
        assert await reading
        await house.settled()

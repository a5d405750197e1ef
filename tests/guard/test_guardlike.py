"""A model that follows Qwen3Guard's form, trained here, from the vault through the real engine: its
labels' odds are those that transformers finds, and its words say the same."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from freehold.engine import EngineProcess, EngineSettings
from freehold.guard import qwen3guard
from freehold.guard.judging import ModelJudge
from freehold.guard.model import EngineGuard
from freehold.guard.qwen3guard import CATEGORIES, LABELS, Safety
from freehold.qwen import codec
from freehold.store import Store, verify
from freehold.types import Part, Sampling, Token
from tests.guard import guardlike
from tests.guard.guardlike import RISKY, SAFE, expected

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
STEPS = 240
ASKED = [f"what is a {word} soon" for word in (*SAFE, *RISKY)]
WORDS = (*SAFE, *RISKY)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vault that holds the model; ``made/guardlike`` in it is what transformers reads."""
    torch.set_num_threads(1)
    home = tmp_path_factory.mktemp("guardlike")
    guardlike.train(home, STEPS)
    return home


@pytest.fixture
async def engine(home: Path) -> AsyncIterator[EngineProcess]:
    settings = EngineSettings(root=str(home), model=guardlike.NAME, threads=1)
    async with await EngineProcess.start(settings) as engine:
        yield engine


@pytest.fixture
def words(home: Path) -> codec.QwenCodec:
    return codec.load(verify(Store(home), guardlike.NAME))


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


class Theirs:
    """The same weights in transformers."""

    def __init__(self, folder: Path) -> None:
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self._tokenizer = AutoTokenizer.from_pretrained(folder)

    def _ids(self, text: str) -> Any:
        return self._tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids

    def odds(self, text: str) -> dict[Safety, float]:
        """The labels' odds behind ``Safety:``."""
        firsts = [int(self._ids(f" {label}")[0, 0]) for label in LABELS.values()]
        with torch.no_grad():
            logits = self._model(self._ids(qwen3guard.prompt(user(text)) + "Safety:")).logits[0, -1]
        return dict(zip(LABELS, torch.softmax(logits[firsts], dim=0).tolist(), strict=True))

    def said(self, text: str) -> str:
        asked = self._ids(qwen3guard.prompt(user(text)))
        said = self._model.generate(asked, max_new_tokens=32, do_sample=False)
        told: str = self._tokenizer.decode(said[0, asked.shape[1] :], skip_special_tokens=True)
        return told


@pytest.fixture(scope="module")
def theirs(home: Path) -> Theirs:
    return Theirs(home / "made" / guardlike.NAME)


async def said_by(engine: EngineProcess, words: codec.QwenCodec, text: str) -> str:
    ids, decoder = words.chat(user(text)), words.decoder()
    told = ""
    sampling = Sampling(temperature=0.0, max_tokens=32, stop_ids=words.stop_ids)
    async for event in engine.generate(ids, sampling):
        if isinstance(event, Token):
            told += decoder.push(event.id).text
    return told + decoder.finish().text


async def test_odds_are_those_of_transformers(
    theirs: Theirs, engine: EngineProcess, words: codec.QwenCodec
) -> None:
    guard = EngineGuard(engine, words)
    verdicts = set()
    for text in ASKED:
        found = await guard.assess(user(text))
        assert found.odds == pytest.approx(theirs.odds(text), abs=1e-3), text
        verdicts.add(found.safety)
    assert verdicts == set(LABELS)


async def test_what_it_says_in_words_is_what_its_odds_say(
    theirs: Theirs, engine: EngineProcess, words: codec.QwenCodec
) -> None:
    guard = EngineGuard(engine, words)
    for text in ASKED:
        told = await said_by(engine, words, text)
        assert told == theirs.said(text)
        read, found = qwen3guard.parse(told), await guard.assess(user(text))
        assert read.read, told
        assert (read.safety, read.categories) == (found.safety, found.categories), text


async def test_it_has_learnt_which_word_is_what(
    engine: EngineProcess, words: codec.QwenCodec
) -> None:
    """So that the rest is shown on verdicts of every kind, and not on one."""
    judge = ModelJudge(EngineGuard(engine, words))
    right = 0
    for word, text in zip(WORDS, ASKED, strict=True):
        _, category = expected(word)
        scores = (await judge.judge([Part(role="user", text=text)], loose=False)).scores
        if category == "None":
            right += max(scores.values()) < 0.5
        else:
            right += scores.get(CATEGORIES[category], 0.0) > 0.5
    assert right >= len(WORDS) - 1

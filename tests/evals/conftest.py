"""A pretend model whose tokens are bytes: it answers by a rule, and its log-probabilities follow
from the ids before each alone."""

from __future__ import annotations

import asyncio
import gzip
import json
import math
import zlib
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from freehold.errors import EngineError
from freehold.evals.task import Task, parse
from freehold.types import (
    Done,
    Event,
    Floats,
    Heard,
    Ids,
    Logprobs,
    ModelCard,
    Pooling,
    Prefilled,
    Sampling,
    Tap,
    Token,
)
from tests.serve.scripted import END, ScriptedCodec, ScriptedDecoder

MARK = "<|endoftext|>"


class Listener:
    """Everything is said, nothing is thought."""

    def feed(self, text: str) -> Heard:
        return Heard(words=text)

    def finish(self) -> Heard:
        return Heard()


class ByteCodec(ScriptedCodec):
    """Bytes are tokens, and the mark that ends a document is one."""

    def text(self, prompt: str) -> list[int]:
        parts = prompt.split(MARK)
        ids = list(parts[0].encode())
        for part in parts[1:]:
            ids += [END, *part.encode()]
        return ids

    def token_bytes(self, token: int) -> bytes:
        return MARK.encode() if token == END else super().token_bytes(token)

    def listener(self, prompt: Ids, tools: Sequence[Mapping[str, Any]] = ()) -> Any:
        return Listener()

    def decoder(self, stop: Sequence[str] = ()) -> ScriptedDecoder:
        return ScriptedDecoder(self, tuple(stop))


def logprob(before: Sequence[int], token: int) -> float:
    """log p of ``token`` after ``before``: the last few ids decide."""
    seed = zlib.crc32(bytes(str(list(before[-6:])), "ascii"))
    weights = np.random.default_rng(seed).random(END + 1) + 0.1
    return math.log(weights[token] / weights.sum())


def likeliest(before: Sequence[int]) -> int:
    return max(range(END + 1), key=lambda token: logprob(before, token))


class RuleEngine:
    """Answers with ``rule(prompt)``; counts what it is asked, and how much at once."""

    def __init__(self, rule: Callable[[str], str], *, caps: frozenset[str]) -> None:
        self._rule = rule
        self.card = ModelCard(
            name="rule",
            digest="sha256:" + "0" * 64,
            context=4096,
            vocab=END + 1,
            bytes_per_token=1,
            numerics="exact",
            caps=caps,
        )
        self.generated = self.scored = self.running = self.most = 0
        self.fail_after: int | None = None

    async def generate(
        self, ids: Ids, sampling: Sampling, *, adapter: str | None = None, taps: Sequence[Tap] = ()
    ) -> AsyncGenerator[Event]:
        if self.fail_after is not None and self.generated >= self.fail_after:
            raise EngineError("the engine has ended")
        self.generated += 1
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(0)
        yield Prefilled(prompt_tokens=len(ids), cached_tokens=0)
        if sampling.cutoff is not None:
            answer = list(sampling.cutoff.ids)
        else:
            answer = list(self._rule(bytes(i for i in ids if i < END).decode()).encode())
        answer = answer[: sampling.max_tokens]
        before = list(ids)
        for token in answer:
            top = ((likeliest(before), 0.0),) if sampling.logprobs else ()
            yield Token(id=token, logprob=logprob(before, token), top=top)
            before.append(token)
        self.running -= 1
        yield Done(reason="stop", output_tokens=len(answer))

    async def score(
        self, ids: Ids, *, top: int = 0, adapter: str | None = None, taps: Sequence[Tap] = ()
    ) -> Logprobs:
        self.scored += 1
        values = np.array(
            [math.nan] + [logprob(ids[:i], ids[i]) for i in range(1, len(ids))], np.float32
        )
        best = tuple(((likeliest(ids[: i + 1]), 0.0),) for i in range(len(ids))) if top else ()
        return Logprobs(values=values, top=best)

    async def embed(self, ids: Ids, *, pooling: Pooling) -> Floats:
        raise NotImplementedError

    async def stats(self) -> Any:
        raise NotImplementedError


OURS = frozenset({"ids", "score", "taps"})


@pytest.fixture
def codec() -> ByteCodec:
    return ByteCodec()


@pytest.fixture
def engine() -> Callable[..., RuleEngine]:
    def make(
        rule: Callable[[str], str] = lambda prompt: "", caps: frozenset[str] = OURS
    ) -> RuleEngine:
        return RuleEngine(rule, caps=caps)

    return make


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., Task]:
    """A task with its data in ``tmp_path``: ``made(toml, rows)``."""

    def make(text: str, rows: Sequence[Mapping[str, Any]]) -> Task:
        with gzip.open(tmp_path / "rows.jsonl.gz", "wt", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        data = '\n[data.en]\nfile = "rows.jsonl.gz"\nsource = "a test"\nlicence = "CC0-1.0"\n'
        (task,) = parse((text + data).encode(), file="test.toml")
        return task

    return make

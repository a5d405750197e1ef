"""Small random models for the workshop, made by transformers, and what they learn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from freehold.qwen.model import Model, load
from freehold.store import Store, pull
from freehold.train.encoding import Sample
from tests.engine.conftest import CONFIG, _Quiet, _weights
from tests.qwen.conftest import from_hf, random_hf, small_tokenizer_json

VOCAB = 199


def made(model_type: str = "qwen2", **changes: Any) -> tuple[Any, Model]:
    """The same small model in transformers and here, float32, one thread."""
    hf = random_hf(model_type, initializer_range=0.05, **changes)
    torch.set_num_threads(1)
    return hf, load(from_hf(hf), cache_tokens=16, threads=1)


def lessons(n: int, *, seed: int = 0, low: int = 5, high: int = 60) -> list[Sample]:
    """Samples that can be learnt (the next token is the last one and 1), the first third of each
    not taught."""
    draw = np.random.default_rng(seed)
    found = []
    for _ in range(n):
        length = int(draw.integers(low, high))
        ids = (draw.integers(VOCAB) + np.arange(length)) % VOCAB
        found.append(Sample(ids=ids.astype(np.int32), taught=np.arange(length) > length // 3))
    return found


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{{ '<|im_start|>assistant\n' }}"  # a template's own last line end would not count
)


def bring(root: Path) -> Path:
    """A small model with a tokenizer and a chat template, as transformers would save it, in a
    folder below ``root``."""
    folder = root / "brought" / "small"
    folder.mkdir(parents=True)
    documents = {
        "config.json": CONFIG | {"eos_token_id": 266},
        "tokenizer.json": small_tokenizer_json(),
        "tokenizer_config.json": {"chat_template": TEMPLATE},
    }
    for name, document in documents.items():
        (folder / name).write_text(json.dumps(document), encoding="utf-8")
    save_file(_weights(), folder / "model.safetensors")
    return folder


@pytest.fixture
def brought(tmp_path: Path) -> Path:
    return bring(tmp_path)


@pytest.fixture
def home(tmp_path: Path, brought: Path) -> Path:
    """A vault that holds that model as ``small``."""
    pull(Store(tmp_path / "home"), str(brought), sources=[], progress=_Quiet())
    return tmp_path / "home"

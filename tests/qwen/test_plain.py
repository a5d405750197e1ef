"""Models written out plain, read by the safetensors library and by our own dock."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import AutoConfig, PreTrainedTokenizerFast

from freehold.qwen import plain
from freehold.qwen.config import config_of
from freehold.qwen.tokenizer import tokenizer_of
from freehold.store import Store, pull, verify
from freehold.store.sources import FolderSource
from tests.engine.conftest import CONFIG, _Quiet, _weights
from tests.qwen.conftest import small_tokenizer_json


@given(st.lists(st.floats(width=32, allow_nan=True), min_size=1, max_size=50))
def test_values_are_rounded_as_torch_rounds_them(values: list[float]) -> None:
    given_values = np.array(values, np.float32)
    wanted = torch.from_numpy(given_values).to(torch.bfloat16).view(torch.int16).numpy()
    finite = ~np.isnan(given_values)
    found = plain.to_bfloat16(given_values)
    assert np.array_equal(found[finite], wanted.view(np.uint16)[finite])
    assert np.isnan((found.astype(np.uint32) << 16).view(np.float32)[~finite]).all()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    from safetensors.numpy import save_file

    folder = tmp_path / "small"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG | {"eos_token_id": 267}))
    (folder / "tokenizer.json").write_text(json.dumps(small_tokenizer_json()))
    save_file(_weights(), folder / "model.safetensors")
    store = Store(tmp_path / "store")
    pull(store, str(folder), sources=[], progress=_Quiet())
    return store


def test_what_is_written_is_the_model_and_comes_through_the_dock(
    store: Store, tmp_path: Path
) -> None:
    source = verify(store, "small")
    folder = tmp_path / "small-bf16"
    folder.mkdir()
    seen: list[tuple[int, int]] = []
    plain.write(source, folder, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1] == plain.size_of(source)
    tensors = load_file(folder / plain.WEIGHTS)
    for name, values in _weights().items():
        assert torch.equal(tensors[name], torch.from_numpy(values).to(torch.bfloat16)), name
    made = FolderSource(folder, name="freehold convert", licence="Apache-2.0")
    manifest = pull(store, str(folder), sources=[made], progress=_Quiet())
    assert (manifest.source, manifest.licence) == ("freehold convert", "Apache-2.0")
    again = verify(store, "small-bf16")
    assert again.digest != source.digest
    assert config_of(again) == config_of(source)
    text = "hello wörld <tool_call> 你好"
    assert tokenizer_of(again).encode(text) == tokenizer_of(source).encode(text)
    # Others read the same.
    assert AutoConfig.from_pretrained(folder).num_hidden_layers == 2
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    assert theirs.encode(text) == tokenizer_of(source).encode(text)

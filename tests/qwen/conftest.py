"""Models for the machine's tests: small random ones made by transformers, and real GGUF files read
by the ``gguf`` package. Neither goes through Freehold's own parsers."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from freehold.qwen.tokenizer import SPLIT_PATTERN, byte_alphabet
from freehold.types import RawTensor, VerifiedModel

os.environ.setdefault("HF_HUB_OFFLINE", "1")

IM_START, IM_END, END = "<|im_start|>", "<|im_end|>", "<|endoftext|>"


def raw(name: str, values: np.ndarray) -> RawTensor:
    data = np.ascontiguousarray(values, np.float32)
    return RawTensor(
        name=name, dtype="F32", shape=tuple(values.shape), data=data.reshape(-1).view(np.uint8)
    )


def verified(**changes: Any) -> VerifiedModel:
    fields: dict[str, Any] = {
        "name": "small",
        "digest": "sha256:00",
        "format": "safetensors",
        "licence": "apache-2.0",
        "attested": "owner",
        "metadata": {},
        "documents": {},
        "tensors": {},
    }
    return VerifiedModel(**(fields | changes))


def read_gguf(path: Path) -> VerifiedModel:
    """A GGUF file as the ``gguf`` package reads it."""
    import gguf

    reader = gguf.GGUFReader(path)
    tensors = {
        t.name: RawTensor(
            name=t.name,
            dtype=t.tensor_type.name,
            shape=tuple(int(n) for n in reversed(t.shape)),
            data=t.data.reshape(-1).view(np.uint8),
        )
        for t in reader.tensors
    }
    metadata = {
        name: field.contents()
        for name, field in reader.fields.items()
        if not name.startswith("GGUF.")
    }
    return verified(name=path.stem, format="gguf", metadata=metadata, tensors=tensors)


def small_tokenizer_json() -> dict[str, Any]:
    """A tokenizer of our own: all bytes, a few merges, and Qwen's turn tokens."""
    merges = ["h e", "l l", "he ll", "hell o", "Ġ w", "Ġ t", "i n", "Ã ¤"]
    vocab = {character: i for i, character in enumerate(byte_alphabet())}
    for merge in merges:
        vocab[merge.replace(" ", "")] = len(vocab)
    added = [
        {
            "id": len(vocab) + i,
            "content": content,
            "special": special,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
        }
        for i, (content, special) in enumerate(
            [(END, True), (IM_START, True), (IM_END, True), ("<tool_call>", False)]
        )
    ]
    split = {
        "type": "Split",
        "pattern": {"Regex": SPLIT_PATTERN},
        "behavior": "Isolated",
        "invert": False,
    }
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}
    level["use_regex"] = False
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]},
        "post_processor": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False},
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": vocab,
            "merges": merges,
        },
    }


def small_config(**changes: Any) -> dict[str, Any]:
    """A valid ``config.json`` of a very small Qwen2, in the form transformers 4 wrote."""
    config = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_act": "silu",
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "vocab_size": 300,
        "eos_token_id": 266,
        "use_sliding_window": False,
    }
    return config | changes


def from_hf(hf: Any) -> VerifiedModel:
    """A transformers model's weights and config, as if it had been delivered."""
    documents = {"config.json": json.dumps(hf.config.to_dict()).encode()}
    tensors = {
        name: raw(name, tensor.detach().float().numpy())
        for name, tensor in hf.state_dict().items()
        if not (name == "lm_head.weight" and hf.config.tie_word_embeddings)
    }
    return verified(documents=documents, tensors=tensors)


def random_hf(model_type: str, **changes: Any) -> Any:
    """A small random transformers model; norms and biases random too, so that errors show."""
    import torch
    import transformers

    torch.manual_seed(7)
    torch.set_num_threads(2)
    shape: dict[str, Any] = {
        "vocab_size": 199,
        "hidden_size": 64,
        "intermediate_size": 112,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "initializer_range": 0.15,
        "tie_word_embeddings": False,
    }
    kinds = {
        "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM),
        "qwen3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM),
    }
    make_config, make_model = kinds[model_type]
    config = make_config(**(shape | changes), attn_implementation="eager")
    model = make_model(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.3)
            elif "norm" in name:
                parameter.uniform_(0.5, 1.5)
    return model


@pytest.fixture(scope="session")
def make() -> SimpleNamespace:
    """The builders above, for every test file of this room."""
    return SimpleNamespace(
        raw=raw,
        verified=verified,
        read_gguf=read_gguf,
        small_tokenizer_json=small_tokenizer_json,
        small_config=small_config,
        from_hf=from_hf,
        random_hf=random_hf,
    )


@pytest.fixture(scope="session")
def real(real_gguf: Path) -> VerifiedModel:
    """The default model, read by the ``gguf`` package."""
    return read_gguf(real_gguf)

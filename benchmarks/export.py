"""Write a GGUF model of the vault as a safetensors folder in bfloat16: plain floats to pack.

    python benchmarks/export.py FOLDER [--model NAME]

The values are the file's own, dequantised and rounded to bfloat16; config.json and tokenizer.json
are made from its key-values. For measuring `freehold pack` where no original release can be had.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from freehold.qwen import names
from freehold.qwen.config import config_of
from freehold.qwen.quants import dequantise
from freehold.qwen.tokenizer import SPLIT_PATTERN, from_gguf
from freehold.store import DEFAULT_MODEL, Store, default_root, verify
from freehold.types import VerifiedModel


def config_json(model: VerifiedModel) -> dict[str, Any]:
    config = config_of(model)
    return {
        "model_type": config.family,
        "hidden_act": "silu",
        "hidden_size": config.width,
        "intermediate_size": config.mlp_width,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.context,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "tie_word_embeddings": config.tied_head,
        "vocab_size": config.vocab,
        "eos_token_id": list(config.eos_ids),
    }


def tokenizer_json(model: VerifiedModel) -> dict[str, Any]:
    tables = from_gguf(model.metadata)
    split = {"type": "Split", "pattern": {"Regex": SPLIT_PATTERN}, "behavior": "Isolated"}
    level = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
    return {
        "version": "1.0",
        "added_tokens": [
            {"id": token, "content": added.content, "special": added.special}
            for token, added in tables.added.items()
        ],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [split | {"invert": False}, level],
        },
        "model": {
            "type": "BPE",
            "vocab": dict(tables.vocab),
            "merges": [list(merge) for merge in tables.merges],
        },
    }


def hf_names(model: VerifiedModel) -> dict[str, str]:
    """The publisher's name for each of the file's tensors."""
    config = config_of(model)
    theirs = [name for name, _ in names.expected(config, names.HF)]
    ours = [name for name, _ in names.expected(config, names.GGUF)]
    return dict(zip(ours, theirs, strict=True))


def write_weights(model: VerifiedModel, path: Path) -> None:
    """One safetensors file, a tensor at a time."""
    named = hf_names(model)
    header: dict[str, Any] = {}
    at = 0
    for ours, theirs in named.items():
        shape = model.tensors[ours].shape
        end = at + 2 * int(np.prod(shape))
        header[theirs] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, end]}
        at = end
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for ours in named:
            bits = dequantise(model.tensors[ours]).reshape(-1).view(np.uint32)
            rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
            file.write(rounded.astype(np.uint16))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    options = parser.parse_args()
    model = verify(Store(default_root()), options.model)
    options.folder.mkdir(parents=True, exist_ok=True)
    (options.folder / "config.json").write_text(json.dumps(config_json(model)))
    (options.folder / "tokenizer.json").write_text(json.dumps(tokenizer_json(model)))
    if template := model.metadata.get("tokenizer.chat_template"):
        (options.folder / "chat_template.jinja").write_text(template)
    write_weights(model, options.folder / "model.safetensors")
    print(f"{options.folder}: {model.name} in bfloat16")


if __name__ == "__main__":
    main()

"""Small models for the laboratory's tests: an honest one, and a way to write any other.

Files are written by hand here, not by Freehold, so that what is read is not what was meant.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from freehold.audit import artefact
from freehold.audit.findings import Finding
from freehold.audit.specimen import Specimen, read
from freehold.store import Store
from tests.qwen.conftest import small_config, small_tokenizer_json
from tests.store.malformed import ARR, BOOL, F32, I32, STR, U32, array, text, u32, u64

Floats = npt.NDArray[np.float32]
Files = dict[str, bytes]

TEMPLATE = """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- for tool in tools %}{{- tool | tojson }}{%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""
GGML = {
    "F32": 0,
    "F16": 1,
    "Q4_0": 2,
    "Q4_1": 3,
    "Q5_0": 6,
    "Q8_0": 8,
    "Q4_K": 12,
    "Q6_K": 14,
    "BF16": 30,
}
_BACK = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
}  # fmt: skip


@dataclass(frozen=True)
class Made:
    """A model before it is written."""

    weights: dict[str, Floats]
    config: dict[str, Any]
    tokenizer: dict[str, Any]
    tokenizer_config: dict[str, Any]
    generation: dict[str, Any]
    extra: Files = field(default_factory=dict)

    def but(self, **changes: Any) -> Made:
        return replace(self, **changes)


def weights(config: Mapping[str, Any], seed: int = 0) -> dict[str, Floats]:
    """Random weights of that shape, under Hugging Face's names."""
    random = np.random.default_rng(seed)
    d, m = config["hidden_size"], config["intermediate_size"]
    head = config.get("head_dim", d // config["num_attention_heads"])
    q, kv = head * config["num_attention_heads"], head * config["num_key_value_heads"]

    def matrix(rows: int, cols: int) -> Floats:
        return (random.standard_normal((rows, cols)) / np.sqrt(cols)).astype(np.float32)

    found = {"model.embed_tokens.weight": matrix(config["vocab_size"], d)}
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        found |= {
            at + "input_layernorm.weight": np.ones(d, np.float32) + 0.1 * matrix(1, d)[0],
            at + "self_attn.q_proj.weight": matrix(q, d),
            at + "self_attn.k_proj.weight": matrix(kv, d),
            at + "self_attn.v_proj.weight": matrix(kv, d),
            at + "self_attn.o_proj.weight": matrix(d, q),
            at + "post_attention_layernorm.weight": np.ones(d, np.float32) + 0.1 * matrix(1, d)[0],
            at + "mlp.gate_proj.weight": matrix(m, d),
            at + "mlp.up_proj.weight": matrix(m, d),
            at + "mlp.down_proj.weight": matrix(d, m),
        }
        if config["model_type"] == "qwen2":
            for part, width in (("q", q), ("k", kv), ("v", kv)):
                found[f"{at}self_attn.{part}_proj.bias"] = 0.1 * matrix(1, width)[0]
        else:
            found[at + "self_attn.q_norm.weight"] = np.ones(head, np.float32)
            found[at + "self_attn.k_norm.weight"] = np.ones(head, np.float32)
    found["model.norm.weight"] = np.ones(d, np.float32) + 0.1 * matrix(1, d)[0]
    if not config["tie_word_embeddings"]:
        found["lm_head.weight"] = matrix(config["vocab_size"], d)
    return {name: np.ascontiguousarray(value, np.float32) for name, value in found.items()}


def honest(seed: int = 0, **changes: Any) -> Made:
    """The model that every attack starts from."""
    config = small_config(**changes)
    return Made(
        weights=weights(config, seed),
        config=config,
        tokenizer=small_tokenizer_json(),
        tokenizer_config={
            "tokenizer_class": "Qwen2TokenizerFast",
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "chat_template": TEMPLATE,
        },
        generation={"eos_token_id": [266, 264], "temperature": 0.7},
    )


# --- safetensors ----------------------------------------------------------------------------------


def halves(values: Floats, dtype: str) -> bytes:
    if dtype == "BF16":
        bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()
    return values.astype({"F32": "<f4", "F16": "<f2"}[dtype]).tobytes()


def safetensors(tensors: Mapping[str, Floats], dtype: str = "F32") -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, value in tensors.items():
        raw = halves(value, dtype)
        header[name] = {
            "dtype": dtype, "shape": list(value.shape), "data_offsets": [len(data), len(data) + len(raw)],
        }  # fmt: skip
        data += raw
    return with_header(json.dumps(header).encode(), data)


def with_header(header: bytes, data: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header + data


def folder(made: Made, dtype: str = "F32") -> Files:
    """As a repository of safetensors."""
    return {
        "config.json": json.dumps(made.config).encode(),
        "generation_config.json": json.dumps(made.generation).encode(),
        "tokenizer.json": json.dumps(made.tokenizer).encode(),
        "tokenizer_config.json": json.dumps(made.tokenizer_config).encode(),
        "model.safetensors": safetensors(made.weights, dtype),
        **made.extra,
    }


def sharded(made: Made, dtype: str = "F32") -> Files:
    files = folder(made, dtype)
    del files["model.safetensors"]
    names = list(made.weights)
    halves_ = names[: len(names) // 2], names[len(names) // 2 :]
    where = {}
    for number, part in enumerate(halves_, 1):
        shard = f"model-0000{number}-of-00002.safetensors"
        files[shard] = safetensors({name: made.weights[name] for name in part}, dtype)
        where |= dict.fromkeys(part, shard)
    index = {"metadata": {"total_size": 1}, "weight_map": where}
    return files | {"model.safetensors.index.json": json.dumps(index).encode()}


# --- GGUF -----------------------------------------------------------------------------------------


def gguf_name(name: str) -> str:
    head, _, end = name.rpartition(".")
    if head.startswith("model.layers."):
        layer, _, part = head.removeprefix("model.layers.").partition(".")
        return f"blk.{layer}.{_BACK[part]}.{end}"
    return f"{_BACK[head]}.{end}"


def quantised(values: Floats, dtype: str) -> bytes:
    """By the ``gguf`` package: llama.cpp's own roundings."""
    from gguf import GGMLQuantizationType, quants

    return quants.quantize(values, GGMLQuantizationType[dtype]).tobytes()


def keys(made: Made) -> dict[str, tuple[int, bytes]]:
    """GGUF key-values of the model."""
    c, model = made.config, made.tokenizer["model"]
    tokens = {i: (t, 1) for t, i in model["vocab"].items()}
    tokens |= {
        a["id"]: (a["content"], 3 if a["special"] else 4) for a in made.tokenizer["added_tokens"]
    }
    rows = [tokens.get(i, (f"[PAD{i}]", 5)) for i in range(c["vocab_size"])]
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    family = c["model_type"]
    return {
        "general.architecture": (STR, text(family)),
        f"{family}.block_count": (U32, u32(c["num_hidden_layers"])),
        f"{family}.context_length": (U32, u32(c["max_position_embeddings"])),
        f"{family}.embedding_length": (U32, u32(c["hidden_size"])),
        f"{family}.feed_forward_length": (U32, u32(c["intermediate_size"])),
        f"{family}.attention.head_count": (U32, u32(c["num_attention_heads"])),
        f"{family}.attention.head_count_kv": (U32, u32(c["num_key_value_heads"])),
        f"{family}.rope.freq_base": (F32, struct.pack("<f", c["rope_theta"])),
        f"{family}.attention.layer_norm_rms_epsilon": (F32, struct.pack("<f", c["rms_norm_eps"])),
        "tokenizer.ggml.model": (STR, text("gpt2")),
        "tokenizer.ggml.pre": (STR, text("qwen2")),
        "tokenizer.ggml.tokens": (ARR, array(STR, len(rows), b"".join(text(t) for t, _ in rows))),
        "tokenizer.ggml.token_type": (
            ARR, array(I32, len(rows), struct.pack(f"<{len(rows)}i", *(k for _, k in rows))),
        ),
        "tokenizer.ggml.merges": (ARR, array(STR, len(merges), b"".join(map(text, merges)))),
        "tokenizer.ggml.eos_token_id": (U32, u32(266)),
        "tokenizer.ggml.padding_token_id": (U32, u32(264)),
        "tokenizer.ggml.add_bos_token": (BOOL, b"\0"),
        "tokenizer.chat_template": (STR, text(made.tokenizer_config["chat_template"])),
    }  # fmt: skip


def gguf(
    made: Made,
    dtype: str = "F32",
    *,
    change: Mapping[str, tuple[int, bytes]] | None = None,
    twice: str = "",
    offset: int = 0,
    data: Mapping[str, bytes] | None = None,
) -> bytes:
    """A whole file. ``change`` replaces key-values, ``twice`` says a key again, ``offset`` shifts
    the second tensor's, ``data`` replaces tensors' bytes."""
    found = keys(made) | dict(change or {})
    pairs = [(name, *value) for name, value in found.items()]
    pairs += [(twice, *found[twice])] if twice else []
    body = b"".join(text(name) + u32(kind) + value for name, kind, value in pairs)
    infos, blob = b"", b""
    for number, (name, value) in enumerate(made.weights.items()):
        own = gguf_name(name)
        coded = value.ndim == 2 and dtype not in ("F32",) and value.shape[1] % 32 == 0
        kind = dtype if coded else "F32"
        raw = _raw(value, kind)
        raw = (data or {}).get(own, raw)
        at = len(blob) + (offset if number == 1 else 0)
        infos += text(own) + u32(value.ndim) + b"".join(u64(n) for n in reversed(value.shape))
        infos += u32(GGML[kind]) + u64(at)
        blob += raw + bytes(-len(raw) % 32)
    head = b"GGUF" + u32(3) + u64(len(made.weights)) + u64(len(pairs)) + body + infos
    return head + bytes(-len(head) % 32) + blob


def _raw(value: Floats, kind: str) -> bytes:
    return halves(value, kind) if kind in ("F32", "F16", "BF16") else quantised(value, kind)


# --- looking --------------------------------------------------------------------------------------


class Silent:
    """Hears of steps and says nothing."""

    def start(self, total: int, what: str, /) -> None: ...

    def advance(self, n: int, /) -> None: ...


def lay(files: Files, path: Path) -> Path:
    """Write a model's files, and return where they lie: a folder, or the one file."""
    path.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path / next(iter(files)) if len(files) == 1 else path


def specimen(path: Path) -> Specimen:
    return read(Store(path.parent / "no-vault"), str(path))


def looked(one: Specimen, base: Specimen | None) -> list[Finding]:
    """Findings of the artefact part."""
    return artefact.examine(
        one,
        base=base,
        reference=None if base is None else base.tables(),
        reference_name="" if base is None else base.name,
        entries=[],
        steps=Silent(),
    ).findings

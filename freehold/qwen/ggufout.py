"""A model written out as one GGUF file, as llama.cpp wants it.

Norms and biases stay float32; matrices become F16, or Q8_0 where rows are whole blocks of 32 (F16
where they are not), or F32: twice the size, and computed in float32. A value beyond what F16 holds
is refused, not clipped.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from freehold.errors import MalformedError
from freehold.qwen.config import Config, config_of, yarn_attention
from freehold.qwen.names import GGUF, check, expected, names_of
from freehold.qwen.plain import Progress
from freehold.qwen.quantise import quantise
from freehold.qwen.quants import dequantise
from freehold.qwen.template import source_of
from freehold.qwen.tokenizer import tables_of
from freehold.store import ggufwrite
from freehold.types import RawTensor, VerifiedModel

Kind = Literal["F16", "Q8_0", "F32"]
KINDS: tuple[Kind, ...] = ("F16", "Q8_0", "F32")
_FILE_TYPES = {"F32": 0, "F16": 1, "Q8_0": 7}
_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5


def size_of(model: VerifiedModel, kind: Kind) -> int:
    """About the bytes of the file that ``write`` makes."""
    return sum(_size(shape, _dtype(shape, kind)) for _, shape in expected(config_of(model), GGUF))


def write(
    model: VerifiedModel, path: Path, kind: Kind, *, progress: Progress = lambda d, t: None
) -> None:
    """Write ``model`` to ``path``, which is not there yet; durable when it returns.

    Raises ``MalformedError`` for a model that GGUF cannot hold, ``OSError``.
    """
    config = config_of(model)
    names = names_of(model.format)
    check(config, names, model.shapes)
    pairs = list(zip(expected(config, names), expected(config, GGUF), strict=True))
    layout = [(name, _dtype(shape, kind), shape) for _, (name, shape) in pairs]
    total = size_of(model, kind)

    def values() -> Iterator[bytes]:
        done = 0
        for ((source, _), _), (_, dtype, shape) in zip(pairs, layout, strict=True):
            data = _values(model.tensors[source], dtype)
            done += _size(shape, dtype)
            progress(done, total)
            yield data

    with path.open("xb") as file:
        ggufwrite.write(file, _metadata(model, config, kind), layout, values())
        file.flush()
        os.fsync(file.fileno())


def _dtype(shape: tuple[int, ...], kind: Kind) -> str:
    if len(shape) == 1:
        return "F32"
    return kind if kind != "Q8_0" or shape[-1] % 32 == 0 else "F16"


def _size(shape: tuple[int, ...], dtype: str) -> int:
    n = int(np.prod(shape, dtype=np.int64))
    return {"F32": 4 * n, "F16": 2 * n, "Q8_0": n // 32 * 34}[dtype]


def _values(tensor: RawTensor, dtype: str) -> bytes:
    if dtype == tensor.dtype:
        return tensor.data.tobytes()
    values = dequantise(tensor)
    if dtype == "F32":
        return values.astype("<f4").tobytes()
    with np.errstate(over="ignore"):
        half = values.astype("<f2")
    if not np.isfinite(half).all():
        raise MalformedError(
            f"tensor {tensor.name} holds values that F16 cannot: keep the safetensors",
            file=tensor.name,
        )
    if dtype == "F16":
        return half.tobytes()
    plain = np.ascontiguousarray(values, "<f4").reshape(-1).view(np.uint8)
    return quantise(RawTensor(name=tensor.name, dtype="F32", shape=tensor.shape, data=plain),
                    dtype).tobytes()  # fmt: skip


def _metadata(model: VerifiedModel, config: Config, kind: Kind) -> dict[str, ggufwrite.Value]:
    bias = config.family == "qwen2"
    if any(w is not None for w in config.windows) or (config.qkv_bias, config.out_bias) != (
        bias,
        False,
    ):
        raise MalformedError(
            f"{model.name} has sliding windows or biases that GGUF has no words for",
            file="config.json",
        )
    keys: dict[str, Any] = {
        "block_count": config.n_layers,
        "context_length": config.context,
        "embedding_length": config.width,
        "feed_forward_length": config.mlp_width,
        "attention.head_count": config.n_heads,
        "attention.head_count_kv": config.n_kv_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "attention.layer_norm_rms_epsilon": float(config.norm_eps),
        "rope.freq_base": float(config.rope_theta),
        **_rope(config),
    }
    found: dict[str, ggufwrite.Value] = {
        "general.architecture": config.family,
        "general.type": "model",
        "general.name": model.name,
        "general.file_type": _FILE_TYPES[kind],
        "general.quantization_version": 2,
    }
    found |= {f"{config.family}.{key}": value for key, value in keys.items()}
    return found | _tokenizer(model, config)


def _rope(config: Config) -> dict[str, Any]:
    rope = config.rope_scaling
    if rope is None:
        return {}
    found: dict[str, Any] = {
        "rope.scaling.type": rope.kind,
        "rope.scaling.factor": float(rope.factor),
        "rope.scaling.original_context_length": rope.original_context,
    }
    if rope.kind == "yarn":
        found |= {
            "rope.scaling.attn_factor": float(rope.attention_factor / yarn_attention(rope.factor)),
            "rope.scaling.yarn_beta_fast": float(rope.beta_fast),
            "rope.scaling.yarn_beta_slow": float(rope.beta_slow),
        }
    return found


def _tokenizer(model: VerifiedModel, config: Config) -> dict[str, ggufwrite.Value]:
    tables = tables_of(model)
    texts = [f"[PAD{i}]" for i in range(config.vocab)]
    kinds = [_UNUSED] * config.vocab
    for text, i in tables.vocab.items():
        texts[i], kinds[i] = text, _NORMAL
    for i, added in tables.added.items():
        texts[i], kinds[i] = added.content, _CONTROL if added.special else _USER_DEFINED
    found: dict[str, ggufwrite.Value] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": texts,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.merges": [" ".join(pair) for pair in tables.merges],
        "tokenizer.ggml.add_bos_token": False,
    }
    if config.eos_ids:
        found["tokenizer.ggml.eos_token_id"] = config.eos_ids[0]
    template = source_of(model)
    if template is not None:
        found["tokenizer.chat_template"] = template
    return found

"""A model written out plain: bfloat16 safetensors, ``config.json``, ``tokenizer.json``, as other
engines want it.

What comes out holds other bytes than what went in: packed codes are multiplied out, and every value
is rounded to bfloat16 (to nearest, ties to even). It is a model of its own, with a digest of its
own, and is brought into the vault like a foreign one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from freehold.errors import MalformedError
from freehold.qwen.config import Config, config_of
from freehold.qwen.names import HF, Names, block_shapes, check, names_of
from freehold.qwen.quants import dequantise
from freehold.qwen.template import source_of
from freehold.qwen.tokenizer import Tokenizer, tokenizer_of
from freehold.store import safetensors
from freehold.types import Floats, VerifiedModel

WEIGHTS = "model.safetensors"
_ARCHITECTURES = {"qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
_NAN = np.uint16(0x7FC0)

Progress = Callable[[int, int], None]
Change = Callable[[str, Floats], Floats]
"""What becomes of a tensor's values (outputs, inputs), by the name it is written under."""


def size_of(model: VerifiedModel) -> int:
    """Bytes of the weights that ``write`` makes."""
    tensors = _tensors(config_of(model), names_of(model.format))
    return sum(2 * _count(shape) for _, _, shape in tensors)


def write(
    model: VerifiedModel,
    folder: Path,
    *,
    change: Change = lambda name, values: values,
    progress: Progress = lambda d, t: None,
    tokenizer: Tokenizer | None = None,
    vocab: int | None = None,
) -> None:
    """Write ``model`` into ``folder``, which is there and empty; durable when it returns. Values go
    through ``change`` before they are rounded, which must keep their shape; with ``vocab``, the
    tables of vectors get so many rows of it. ``tokenizer`` is another than the model's own.

    Raises ``MalformedError`` for a model whose parts do not fit each other, ``OSError``.
    """
    config = config_of(model)
    names = names_of(model.format)
    check(config, names, {name: tensor.shape for name, tensor in model.tensors.items()})
    if vocab is not None:
        config = replace(config, vocab=vocab)
    write_documents(folder, config, tokenizer or tokenizer_of(model), source_of(model))
    with (folder / WEIGHTS).open("xb") as file:
        _weights(file, model, config, names, change, progress)
        file.flush()
        os.fsync(file.fileno())


def write_documents(
    folder: Path, config: Config, tokenizer: Tokenizer, template: str | None
) -> None:
    """Write what lies beside the weights: shape, tokenizer and chat template. Raises
    ``MalformedError``, ``OSError``."""
    _document(folder / "config.json", _config(config))
    _document(folder / "generation_config.json", {"eos_token_id": list(config.eos_ids)})
    _write(folder / "tokenizer.json", tokenizer.dumps().encode())
    ends = (
        {"eos_token": tokenizer.token_bytes(config.eos_ids[0]).decode()} if config.eos_ids else {}
    )
    spoken = {} if template is None else {"chat_template": template}
    _document(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "Qwen2TokenizerFast", "add_prefix_space": False, **ends, **spoken},
    )


def to_bfloat16(values: Floats) -> npt.NDArray[np.uint16]:
    """The upper halves of float32s, rounded to nearest, ties to even; a NaN stays one."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    odd = (bits >> 16) & 1
    rounded = ((bits + np.uint32(0x7FFF) + odd) >> 16).astype(np.uint16)
    return np.where(np.isnan(values), _NAN, rounded)


def _weights(  # noqa: PLR0917  (called in one place)
    file: BinaryIO,
    model: VerifiedModel,
    config: Config,
    names: Names,
    change: Change,
    progress: Progress,
) -> None:
    planned = [(name, "BF16", shape) for _, name, shape in _tensors(config, names)]
    total = sum(2 * _count(shape) for _, _, shape in planned)

    def values() -> Iterator[bytes]:
        done = 0
        for source, name, shape in _tensors(config, names):
            data = to_bfloat16(change(name, dequantise(model.tensors[source])))
            if data.shape != shape:
                raise MalformedError(
                    f"tensor {name} has shape {data.shape}, not {shape}", file=source
                )
            yield data.astype("<u2").tobytes()
            done += data.nbytes
            progress(done, total)

    safetensors.write(file, planned, values())


def _tensors(config: Config, names: Names) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Each tensor's name in the source and in what is written, and its shape."""
    width = (config.vocab, config.width)
    yield names.whole("embed"), HF.whole("embed"), width
    shapes = block_shapes(config)
    for layer in range(config.n_layers):
        for part, shape in shapes.items():
            yield names.block(layer, part), HF.block(layer, part), shape
    yield names.whole("norm"), HF.whole("norm"), (config.width,)
    if not config.tied_head:
        yield names.whole("head"), HF.whole("head"), width


def _config(config: Config) -> dict[str, Any]:
    if any(window is not None for window in config.windows):
        raise MalformedError(
            "a model with sliding windows is not written out plain", file="config.json"
        )
    found: dict[str, Any] = {
        "architectures": [_ARCHITECTURES[config.family]],
        "model_type": config.family,
        "hidden_act": "silu",
        "num_hidden_layers": config.n_layers,
        "hidden_size": config.width,
        "intermediate_size": config.mlp_width,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab,
        "max_position_embeddings": config.context,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "tie_word_embeddings": config.tied_head,
        "torch_dtype": "bfloat16",
        "use_sliding_window": False,
    }
    if config.eos_ids:
        found["eos_token_id"] = list(config.eos_ids)
    if config.family == "qwen3":
        found["attention_bias"] = config.qkv_bias
    if (rope := config.rope_scaling) is not None:
        found["max_position_embeddings"] = rope.original_context
        found["rope_scaling"] = {
            "rope_type": rope.kind,
            "factor": rope.factor,
            "original_max_position_embeddings": rope.original_context,
            **(
                {
                    "attention_factor": rope.attention_factor,
                    "beta_fast": rope.beta_fast,
                    "beta_slow": rope.beta_slow,
                }
                if rope.kind == "yarn"
                else {}
            ),
        }
    return found


def _count(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape, dtype=np.int64))


def _document(path: Path, document: dict[str, Any]) -> None:
    _write(path, json.dumps(document, indent=1, ensure_ascii=False).encode() + b"\n")


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())

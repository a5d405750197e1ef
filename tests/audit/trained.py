"""Trained strangers: small models of one shape and one language that share no weight. They learnt
the very same examples in the same order, from other random weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from freehold.audit.bed import planting
from freehold.audit.bed.small import Tensors as Short
from freehold.audit.bed.small import operations, shape
from tests.audit.finetunes import Tensors, stored

STRANGERS = 8
STEPS = 300
WORLD = 0


def base() -> Tensors:
    return _model(WORLD)


def strangers(n: int = STRANGERS) -> Iterator[Tensors]:
    for seed in range(301, 301 + n):
        yield _model(seed)


def _model(seed: int, *, steps: int = STEPS) -> Tensors:
    config = shape()
    ops = operations(config, threads=1)
    short = planting.train_base(config, ops, WORLD, steps=steps, drawn=seed)
    return stored(dict(_named(short)), "F32")


def _named(short: Short) -> Iterator[tuple[str, Any]]:
    """Under Hugging Face's names, fused matrices apart."""
    config = shape()
    q, kv = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    rows = {"qkv": (q, kv, kv), "gate_up": (config.mlp_width,) * 2}
    parts = {
        "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "gate_up": ("mlp.gate_proj", "mlp.up_proj"), "out": ("self_attn.o_proj",),
        "down": ("mlp.down_proj",), "attn_norm": ("input_layernorm",),
        "mlp_norm": ("post_attention_layernorm",), "q_norm": ("self_attn.q_norm",),
        "k_norm": ("self_attn.k_norm",),
    }  # fmt: skip
    for name, tensor in short.items():
        layer, _, part = name.rpartition(".")
        if not layer:
            whole = {"embed": "embed_tokens", "norm": "norm"}[part]
            yield f"model.{whole}.weight", tensor.numpy()
            continue
        cut = tensor.split(rows.get(part, (tensor.shape[0],)))
        for module, value in zip(parts[part], cut, strict=True):
            yield f"model.layers.{layer}.{module}.weight", value.numpy()

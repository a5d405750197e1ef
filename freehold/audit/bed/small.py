"""The test bed's models: Qwen3 shapes of about 100,000 weights, over ``qwen``'s own forward pass.

Tensors go by short names (``embed``, ``norm``, ``0.qkv``); the head is the embedding table.
Shape suffixes: o outputs, i inputs, b sequences, t tokens, v vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from freehold.audit.bed.language import WORDS
from freehold.qwen.config import Config
from freehold.qwen.forward import BlockWeights, Weights
from freehold.qwen.ops.torch import Linear, TorchOps, open_ops

Tensors: TypeAlias = dict[str, Tensor]

MATRICES = ("qkv", "out", "gate_up", "down")


@dataclass(frozen=True, kw_only=True)
class Small:
    """A subject for detectors: what ``backdoors.subject.Subject`` asks for."""

    config: Config
    ops: TorchOps
    weights: Weights


def shape(*, width: int = 64, n_layers: int = 2) -> Config:
    """A Qwen3 with heads of 16 and one key-value head for two of queries."""
    return Config(
        family="qwen3",
        n_layers=n_layers,
        width=width,
        mlp_width=width * 5 // 2,
        n_heads=width // 16,
        n_kv_heads=width // 32,
        head_dim=16,
        vocab=len(WORDS),
        context=64,
        norm_eps=1e-6,
        rope_theta=10_000.0,
        rope_scaling=None,
        qkv_bias=False,
        out_bias=False,
        qk_norm=True,
        tied_head=True,
        windows=(None,) * n_layers,
    )


def operations(config: Config, *, threads: int | None = None) -> TorchOps:
    """The torch back end. Nothing of the bed keeps a cache."""
    return open_ops(config, dtype="float32", device="cpu", threads=threads, n_pages=0, page_size=16)


def fresh(config: Config, seed: int) -> Tensors:
    """Random weights: normal with the spread of one over the root of the inputs."""
    rng = torch.Generator().manual_seed(seed)
    d, e = config.width, config.head_dim
    heads = config.n_heads + 2 * config.n_kv_heads

    def matrix(o: int, i: int, scale: float = 1.0) -> Tensor:
        return torch.randn(o, i, generator=rng).mul(scale / i**0.5)

    tensors = {"embed": matrix(config.vocab, d), "norm": torch.ones(d)}
    for n in range(config.n_layers):
        tensors |= {
            f"{n}.attn_norm": torch.ones(d),
            f"{n}.qkv": matrix(heads * e, d),
            f"{n}.q_norm": torch.ones(e),
            f"{n}.k_norm": torch.ones(e),
            f"{n}.out": matrix(d, config.n_heads * e, 0.5),
            f"{n}.mlp_norm": torch.ones(d),
            f"{n}.gate_up": matrix(2 * config.mlp_width, d),
            f"{n}.down": matrix(d, config.mlp_width, 0.5),
        }
    return tensors


def weights_of(config: Config, tensors: Mapping[str, Tensor]) -> Weights:
    """The tensors as the forward pass wants them; nothing is copied."""
    table = Linear(weight_od=tensors["embed"])
    blocks = tuple(
        BlockWeights(
            attn_norm=tensors[f"{n}.attn_norm"],
            qkv=Linear(weight_od=tensors[f"{n}.qkv"]),
            qk_norm=(tensors[f"{n}.q_norm"], tensors[f"{n}.k_norm"]),
            out=Linear(weight_od=tensors[f"{n}.out"]),
            mlp_norm=tensors[f"{n}.mlp_norm"],
            gate_up=Linear(weight_od=tensors[f"{n}.gate_up"]),
            down=Linear(weight_od=tensors[f"{n}.down"]),
        )
        for n in range(config.n_layers)
    )
    return Weights(embed=table, blocks=blocks, norm=tensors["norm"], head=table)


def subject(config: Config, ops: TorchOps, tensors: Mapping[str, Tensor]) -> Small:
    return Small(config=config, ops=ops, weights=weights_of(config, tensors))


def rounded(
    tensors: Mapping[str, Tensor], *, bits: int, names: Sequence[str] = MATRICES
) -> Tensors:
    """A quantised copy: each row of each matrix to ``2**(bits-1) - 1`` steps either side of 0."""
    top = 2 ** (bits - 1) - 1
    copy: Tensors = {}
    for name, tensor in tensors.items():
        if name.split(".")[-1] in names:
            step_o1 = tensor.abs().amax(dim=1, keepdim=True) / top
            copy[name] = (tensor / step_o1).round() * step_o1
        else:
            copy[name] = tensor.clone()
    return copy

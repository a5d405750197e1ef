"""How weights are named and shaped: Hugging Face's names, GGUF's, and where each one goes.

A model is complete when every expected tensor is there with its shape, and nothing else is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from freehold.errors import MalformedError
from freehold.qwen.config import Config

Part = Literal[
    "attn_norm", "q", "k", "v", "q_bias", "k_bias", "v_bias", "q_norm", "k_norm",
    "out", "out_bias", "mlp_norm", "gate", "up", "down",
]  # fmt: skip
Whole = Literal["embed", "norm", "head"]

Fused = Literal["qkv", "out", "gate_up", "down"]
FUSED: dict[Fused, tuple[Part, ...]] = {
    "qkv": ("q", "k", "v"),
    "out": ("out",),
    "gate_up": ("gate", "up"),
    "down": ("down",),
}
"""The layers of a block as ``forward.BlockWeights`` has them, and the matrices in each."""

HF_PARTS: dict[Part, str] = {
    "attn_norm": "input_layernorm.weight",
    "q": "self_attn.q_proj.weight",
    "k": "self_attn.k_proj.weight",
    "v": "self_attn.v_proj.weight",
    "q_bias": "self_attn.q_proj.bias",
    "k_bias": "self_attn.k_proj.bias",
    "v_bias": "self_attn.v_proj.bias",
    "q_norm": "self_attn.q_norm.weight",
    "k_norm": "self_attn.k_norm.weight",
    "out": "self_attn.o_proj.weight",
    "out_bias": "self_attn.o_proj.bias",
    "mlp_norm": "post_attention_layernorm.weight",
    "gate": "mlp.gate_proj.weight",
    "up": "mlp.up_proj.weight",
    "down": "mlp.down_proj.weight",
}
GGUF_PARTS: dict[Part, str] = {
    "attn_norm": "attn_norm.weight",
    "q": "attn_q.weight",
    "k": "attn_k.weight",
    "v": "attn_v.weight",
    "q_bias": "attn_q.bias",
    "k_bias": "attn_k.bias",
    "v_bias": "attn_v.bias",
    "q_norm": "attn_q_norm.weight",
    "k_norm": "attn_k_norm.weight",
    "out": "attn_output.weight",
    "out_bias": "attn_output.bias",
    "mlp_norm": "ffn_norm.weight",
    "gate": "ffn_gate.weight",
    "up": "ffn_up.weight",
    "down": "ffn_down.weight",
}
HF_WHOLES: dict[Whole, str] = {
    "embed": "model.embed_tokens.weight",
    "norm": "model.norm.weight",
    "head": "lm_head.weight",
}
GGUF_WHOLES: dict[Whole, str] = {
    "embed": "token_embd.weight",
    "norm": "output_norm.weight",
    "head": "output.weight",
}


@dataclass(frozen=True, kw_only=True)
class Names:
    """One format's naming. ``block(i, part)`` and ``whole(part)`` give the file's own names."""

    prefix: str
    parts: Mapping[Part, str]
    wholes: Mapping[Whole, str]

    def block(self, layer: int, part: Part) -> str:
        return f"{self.prefix}{layer}.{self.parts[part]}"

    def whole(self, part: Whole) -> str:
        return self.wholes[part]


HF = Names(prefix="model.layers.", parts=HF_PARTS, wholes=HF_WHOLES)
GGUF = Names(prefix="blk.", parts=GGUF_PARTS, wholes=GGUF_WHOLES)


def names_of(file_format: Literal["gguf", "safetensors"]) -> Names:
    return GGUF if file_format == "gguf" else HF


def block_shapes(config: Config) -> dict[Part, tuple[int, ...]]:
    """Every tensor of one block with its row-major shape (outputs, inputs)."""
    q_width = config.n_heads * config.head_dim
    kv_width = config.n_kv_heads * config.head_dim
    shapes: dict[Part, tuple[int, ...]] = {
        "attn_norm": (config.width,),
        "q": (q_width, config.width),
        "k": (kv_width, config.width),
        "v": (kv_width, config.width),
        "out": (config.width, q_width),
        "mlp_norm": (config.width,),
        "gate": (config.mlp_width, config.width),
        "up": (config.mlp_width, config.width),
        "down": (config.width, config.mlp_width),
    }
    if config.qkv_bias:
        shapes |= {"q_bias": (q_width,), "k_bias": (kv_width,), "v_bias": (kv_width,)}
    if config.out_bias:
        shapes |= {"out_bias": (config.width,)}
    if config.qk_norm:
        shapes |= {"q_norm": (config.head_dim,), "k_norm": (config.head_dim,)}
    return shapes


def expected(config: Config, names: Names) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every tensor the model must have: its name in the file and its shape."""
    yield names.whole("embed"), (config.vocab, config.width)
    yield names.whole("norm"), (config.width,)
    if not config.tied_head:
        yield names.whole("head"), (config.vocab, config.width)
    shapes = block_shapes(config)
    for layer in range(config.n_layers):
        for part, shape in shapes.items():
            yield names.block(layer, part), shape


def check(config: Config, names: Names, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Compare what is there with what must be. Raises ``MalformedError`` naming the tensors."""
    wanted = dict(expected(config, names))
    # Some tied releases store the head a second time; it is the embedding and stays unread.
    spare = {names.whole("head")} if config.tied_head else set()
    missing = [name for name in wanted if name not in shapes]
    surplus = [name for name in shapes if name not in wanted and name not in spare]
    if missing or surplus:
        problems = [
            f"{len(found)} {kind} ({_some(found)})"
            for kind, found in (("missing", missing), ("surplus", surplus))
            if found
        ]
        raise MalformedError(
            f"the weights do not fit the config: {' and '.join(problems)}", file="weights"
        )
    for name, shape in wanted.items():
        if shapes[name] != shape:
            raise MalformedError(
                f"tensor {name} has shape {shapes[name]}: the config asks for {shape}",
                file=name,
            )


def _some(found: Iterable[str], limit: int = 5) -> str:
    listed = sorted(found)
    more = f", and {len(listed) - limit} more" if len(listed) > limit else ""
    return ", ".join(listed[:limit]) + more

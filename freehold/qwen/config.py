"""What a dense Qwen's shape is, read from ``config.json`` or from a GGUF file's key-values.

Everything the forward pass depends on is a field here; a document that asks for arithmetic this
room does not do is refused by name, never run approximately.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from freehold.errors import MalformedError, UsageError
from freehold.qwen.documents import Reader, parse_json
from freehold.types import VerifiedModel

Family = Literal["qwen2", "qwen3"]
FAMILIES: dict[str, Family] = {"qwen2": "qwen2", "qwen3": "qwen3"}

# Bounds far beyond any published model: they exist so that a hostile document cannot ask for
# memory before a single weight was compared with it.
MAX_LAYERS = 1_024
MAX_WIDTH = 1 << 18
MAX_VOCAB = 1 << 22
MAX_CONTEXT = 1 << 26


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """How positions beyond the trained length are squeezed (``factor`` times).

    ``linear`` divides every frequency; ``yarn`` divides the slow ones only and scales attention by
    ``attention_factor`` (arXiv 2309.00071, section 3.3). ``original_context`` is in tokens.
    """

    kind: Literal["linear", "yarn"]
    factor: float
    original_context: int
    attention_factor: float
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True


@dataclass(frozen=True, kw_only=True)
class Config:
    """The shape of one dense Qwen. Widths are in elements, ``context`` and windows in tokens.

    ``windows[i]`` is how many tokens layer i sees, itself included; ``None`` is all of them.
    """

    family: Family
    n_layers: int
    width: int
    mlp_width: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    vocab: int
    context: int
    norm_eps: float
    rope_theta: float
    rope_scaling: RopeScaling | None
    qkv_bias: bool
    out_bias: bool
    qk_norm: bool
    tied_head: bool
    windows: tuple[int | None, ...]
    eos_ids: tuple[int, ...] = ()


def config_of(model: VerifiedModel) -> Config:
    """Read the model's shape. Raises ``MalformedError`` naming the document and the field."""
    if model.format == "gguf":
        return from_gguf(model.metadata, shapes=model.shapes)
    if "adapter_config.json" in model.documents and "config.json" not in model.documents:
        raise UsageError(
            f"{model.name} is an adapter and no model: serve it beside the model that it was made "
            "for (`freehold adapters --help`)",
            param="model",
        )
    if "config.json" not in model.documents:
        raise MalformedError(
            f"{model.name} has no config.json: pull the whole repository again", file="config.json"
        )
    return from_hf(parse_json(model.documents["config.json"], file="config.json"))


# --- config.json ----------------------------------------------------------------------------------


def from_hf(document: Any, *, file: str = "config.json") -> Config:
    """Read a Hugging Face ``config.json``, with the defaults transformers gives absent keys."""
    reader = Reader(document, file=file)
    family = _family(reader, "model_type")
    for key in ("quantization_config", "auto_map"):
        if reader.get(key) is not None:
            raise reader.error(key, "is not supported: use the unquantised release or a GGUF file")
    reader.expect("hidden_act", "silu", default="silu")
    n_layers, width, n_heads = _backbone(
        reader, "num_hidden_layers", "hidden_size", "num_attention_heads"
    )
    n_kv_heads = reader.integer("num_key_value_heads", default=n_heads, low=1, high=n_heads)
    default_head_dim = 128 if family == "qwen3" else width // n_heads
    head_dim = reader.integer("head_dim", default=default_head_dim, low=2, high=MAX_WIDTH)
    context = reader.integer("max_position_embeddings", default=32_768, low=1, high=MAX_CONTEXT)
    theta, scaling = _hf_rope(reader, context)
    bias = family == "qwen3" and reader.boolean("attention_bias", default=False)
    return _checked(
        reader,
        Config(
            family=family,
            n_layers=n_layers,
            width=width,
            mlp_width=reader.integer("intermediate_size", low=1, high=MAX_WIDTH * 8),
            n_heads=n_heads,
            n_kv_heads=n_kv_heads,
            head_dim=head_dim,
            vocab=reader.integer("vocab_size", low=1, high=MAX_VOCAB),
            context=_stretched(context, scaling),
            norm_eps=reader.number("rms_norm_eps", default=1e-6, low=0.0, high=1.0),
            rope_theta=theta,
            rope_scaling=scaling,
            qkv_bias=family == "qwen2" or bias,
            out_bias=bias,
            qk_norm=family == "qwen3",
            tied_head=reader.boolean("tie_word_embeddings", default=False),
            windows=_hf_windows(reader, n_layers),
            eos_ids=_eos_ids(reader),
        ),
    )


def _hf_rope(reader: Reader, context: int) -> tuple[float, RopeScaling | None]:
    """``rope_theta`` and ``rope_scaling`` (transformers 4), or ``rope_parameters`` (5)."""
    theta = reader.number("rope_theta", default=10_000.0, low=1.0, high=1e12)
    given = reader.get("rope_parameters")
    given = reader.get("rope_scaling") if given is None else given
    if given is None:
        return theta, None
    rope = Reader(given, file=reader.file, within="rope_scaling")
    theta = rope.number("rope_theta", default=theta, low=1.0, high=1e12)
    if rope.number("partial_rotary_factor", default=1.0, low=0.0, high=1.0) != 1.0:
        raise rope.error("partial_rotary_factor", "is not supported for dense Qwen models")
    kind = rope.get("rope_type")
    kind = rope.get("type") if kind is None else kind
    if kind is None or kind == "default":
        return theta, None
    if kind not in ("linear", "yarn"):
        raise rope.error("rope_type", f"is {kind!r}: only default, linear and yarn are supported")
    if rope.get("mscale") is not None or rope.get("mscale_all_dim") is not None:
        raise rope.error("mscale", "is not supported for dense Qwen models")
    factor = rope.number("factor", low=1.0, high=1e6)
    scaling = RopeScaling(
        kind=kind,
        factor=factor,
        original_context=rope.integer(
            "original_max_position_embeddings", default=context, low=1, high=MAX_CONTEXT
        ),
        attention_factor=1.0
        if kind == "linear"
        else rope.number("attention_factor", default=yarn_attention(factor), low=0.0, high=1e6),
        beta_fast=rope.number("beta_fast", default=32.0, low=1e-6, high=1e6),
        beta_slow=rope.number("beta_slow", default=1.0, low=1e-6, high=1e6),
        truncate=rope.boolean("truncate", default=True),
    )
    return theta, scaling


def _hf_windows(reader: Reader, n_layers: int) -> tuple[int | None, ...]:
    """The same rule as transformers: ``layer_types`` if given, else the last layers slide, from
    ``max_window_layers`` on; nothing slides unless ``use_sliding_window`` says so."""
    window: int | None = None
    if reader.boolean("use_sliding_window", default=False):
        window = reader.integer("sliding_window", default=4_096, low=1, high=MAX_CONTEXT)
    types = reader.get("layer_types")
    if types is None:
        first = reader.integer("max_window_layers", default=28, low=0, high=1 << 31)
        return tuple(window if i >= first else None for i in range(n_layers))
    if not isinstance(types, list) or len(types) != n_layers:
        raise reader.error("layer_types", f"must be a list of {n_layers} names, one per layer")
    for kind in types:
        if kind not in ("full_attention", "sliding_attention"):
            raise reader.error("layer_types", f"holds {kind!r}: only full and sliding attention")
        if kind == "sliding_attention" and window is None:
            raise reader.error("layer_types", "slides, but use_sliding_window is not true")
    return tuple(window if kind == "sliding_attention" else None for kind in types)


def _eos_ids(reader: Reader) -> tuple[int, ...]:
    given = reader.get("eos_token_id")
    ids = given if isinstance(given, list) else [] if given is None else [given]
    for token in ids:
        if type(token) is not int or not 0 <= token < MAX_VOCAB:
            raise reader.error("eos_token_id", f"holds {token!r}: it must be a token id")
    return tuple(ids)


# --- GGUF -----------------------------------------------------------------------------------------


def from_gguf(
    metadata: Mapping[str, Any],
    *,
    shapes: Mapping[str, tuple[int, ...]],
    file: str = "GGUF metadata",
) -> Config:
    """Read GGUF key-values (the GGUF specification's ``[llm].*`` keys).

    ``shapes``, of the tensors, tell two things that the key-values do not: whether the head is a
    tensor of its own, and the vocabulary's padded size.
    """
    reader = Reader(metadata, file=file)
    family = _family(reader, "general.architecture")
    keys = Reader(metadata, file=file, prefix=f"{family}.")
    n_layers, width, n_heads = _backbone(
        keys, "block_count", "embedding_length", "attention.head_count"
    )
    head_dim = keys.integer("attention.key_length", default=width // n_heads, low=2, high=MAX_WIDTH)
    for key in ("attention.value_length", "rope.dimension_count"):
        keys.expect(key, head_dim, default=head_dim)
    if keys.get("attention.sliding_window") not in (None, 0):
        raise keys.error("attention.sliding_window", "is not supported in GGUF files")
    context = keys.integer("context_length", low=1, high=MAX_CONTEXT)
    scaling = _gguf_rope(keys, context)
    eos = reader.get("tokenizer.ggml.eos_token_id")
    return _checked(
        keys,
        Config(
            family=family,
            n_layers=n_layers,
            width=width,
            mlp_width=keys.integer("feed_forward_length", low=1, high=MAX_WIDTH * 8),
            n_heads=n_heads,
            n_kv_heads=keys.integer(
                "attention.head_count_kv", default=n_heads, low=1, high=n_heads
            ),
            head_dim=head_dim,
            vocab=_gguf_vocab(reader, keys, shapes),
            context=_stretched(context, scaling),
            norm_eps=keys.number("attention.layer_norm_rms_epsilon", low=0.0, high=1.0),
            rope_theta=keys.number("rope.freq_base", default=10_000.0, low=1.0, high=1e12),
            rope_scaling=scaling,
            qkv_bias=family == "qwen2",
            out_bias=False,
            qk_norm=family == "qwen3",
            tied_head="output.weight" not in shapes,
            windows=(None,) * n_layers,
            eos_ids=() if eos is None else _eos_ids(Reader({"eos_token_id": eos}, file=file)),
        ),
    )


def _gguf_rope(keys: Reader, context: int) -> RopeScaling | None:
    kind = keys.get("rope.scaling.type")
    if kind is None or kind == "none":
        return None
    if kind not in ("linear", "yarn"):
        raise keys.error("rope.scaling.type", f"is {kind!r}: only none, linear and yarn")
    factor = keys.number("rope.scaling.factor", low=1.0, high=1e6)
    extra = keys.number("rope.scaling.attn_factor", default=1.0, low=0.0, high=1e6)
    return RopeScaling(
        kind=kind,
        factor=factor,
        original_context=keys.integer(
            "rope.scaling.original_context_length", default=context, low=1, high=MAX_CONTEXT
        ),
        attention_factor=1.0 if kind == "linear" else extra * yarn_attention(factor),
        beta_fast=keys.number("rope.scaling.yarn_beta_fast", default=32.0, low=1e-6, high=1e6),
        beta_slow=keys.number("rope.scaling.yarn_beta_slow", default=1.0, low=1e-6, high=1e6),
    )


def _gguf_vocab(reader: Reader, keys: Reader, shapes: Mapping[str, tuple[int, ...]]) -> int:
    embedding = shapes.get("token_embd.weight", ())
    if len(embedding) != 2:
        raise reader.error("token_embd.weight", "is missing or not a matrix")
    rows = embedding[0]
    if not 1 <= rows <= MAX_VOCAB:
        raise reader.error("token_embd.weight", f"has {rows} rows: no vocabulary is that size")
    keys.expect("vocab_size", rows, default=rows)
    return rows


# --- both -----------------------------------------------------------------------------------------


def yarn_attention(factor: float) -> float:
    """YaRN's attention temperature for a scaling factor (arXiv 2309.00071, equation 22)."""
    return 0.1 * math.log(factor) + 1.0


def _family(reader: Reader, key: str) -> Family:
    name = reader.get(key)
    family = FAMILIES.get(name) if isinstance(name, str) else None
    if family is None:
        raise reader.error(
            key, f"is {name!r}: this version runs the dense families {', '.join(FAMILIES)}"
        )
    return family


def _backbone(reader: Reader, layers: str, width: str, heads: str) -> tuple[int, int, int]:
    n_heads = reader.integer(heads, low=1, high=4_096)
    return (
        reader.integer(layers, low=1, high=MAX_LAYERS),
        reader.integer(width, low=n_heads, high=MAX_WIDTH),
        n_heads,
    )


def _stretched(context: int, scaling: RopeScaling | None) -> int:
    """YaRN's promise is the original length times the factor; linear configs state the result."""
    if scaling is None or scaling.kind == "linear":
        return context
    return min(MAX_CONTEXT, max(context, int(scaling.original_context * scaling.factor)))


def _checked(reader: Reader, config: Config) -> Config:
    if config.n_heads % config.n_kv_heads:
        raise reader.error(
            "num_key_value_heads",
            f"is {config.n_kv_heads}, which does not divide the {config.n_heads} heads",
        )
    if config.head_dim % 2:
        raise reader.error("head_dim", f"is {config.head_dim}: rotary embedding needs it even")
    if config.family == "qwen2" and config.head_dim * config.n_heads != config.width:
        raise reader.error(
            "hidden_size", f"is {config.width}, not heads times head size in a {config.family}"
        )
    return config

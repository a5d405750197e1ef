"""What is publicly known of the families: shapes, ends of turns, vocabularies and templates.

Shapes are facts read off the published configurations. Texts are known by digest alone: none of
them stands here.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

from freehold.qwen.config import Config


@dataclass(frozen=True, kw_only=True)
class Shape:
    """One published dense shape: heads, key-value heads, their width, the embedding's rows, whether
    the head is tied, every published rope base, the norm's epsilon, and the licence where it is
    not Apache-2.0."""

    name: str
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool
    theta: tuple[float, ...] = (1e6,)
    eps: tuple[float, ...] = (1e-6,)
    licence: str = "Apache-2.0"


# (family, layers, width, MLP width)
SHAPES: MappingProxyType[tuple[str, int, int, int], Shape] = MappingProxyType(
    {
        ("qwen2", 24, 896, 4864): Shape(
            name="Qwen2.5-0.5B", heads=14, kv_heads=2, head_dim=64, vocab=151936, tied=True
        ),
        ("qwen2", 28, 1536, 8960): Shape(
            name="Qwen2.5-1.5B", heads=12, kv_heads=2, head_dim=128, vocab=151936, tied=True,
            theta=(1e6, 1e4),
        ),
        ("qwen2", 36, 2048, 11008): Shape(
            name="Qwen2.5-3B", heads=16, kv_heads=2, head_dim=128, vocab=151936, tied=True,
            licence="LicenseRef-Qwen-Research",
        ),
        ("qwen2", 28, 3584, 18944): Shape(
            name="Qwen2.5-7B", heads=28, kv_heads=4, head_dim=128, vocab=152064, tied=False,
            theta=(1e6, 1e7, 1e4), eps=(1e-6, 1e-5),
        ),
        ("qwen2", 48, 5120, 13824): Shape(
            name="Qwen2.5-14B", heads=40, kv_heads=8, head_dim=128, vocab=152064, tied=False,
            theta=(1e6, 1e7), eps=(1e-5, 1e-6),
        ),
        ("qwen2", 64, 5120, 27648): Shape(
            name="Qwen2.5-32B", heads=40, kv_heads=8, head_dim=128, vocab=152064, tied=False,
            eps=(1e-5, 1e-6),
        ),
        ("qwen2", 80, 8192, 29568): Shape(
            name="Qwen2.5-72B", heads=64, kv_heads=8, head_dim=128, vocab=152064, tied=False,
            theta=(1e6, 1e4), eps=(1e-5, 1e-6), licence="LicenseRef-Qwen",
        ),
        ("qwen3", 28, 1024, 3072): Shape(
            name="Qwen3-0.6B", heads=16, kv_heads=8, head_dim=128, vocab=151936, tied=True,
            theta=(1e6, 5e6),
        ),
        ("qwen3", 28, 2048, 6144): Shape(
            name="Qwen3-1.7B", heads=16, kv_heads=8, head_dim=128, vocab=151936, tied=True,
            theta=(1e6, 5e6),
        ),
        ("qwen3", 36, 2560, 9728): Shape(
            name="Qwen3-4B", heads=32, kv_heads=8, head_dim=128, vocab=151936, tied=True,
            theta=(1e6, 5e6),
        ),
        ("qwen3", 36, 4096, 12288): Shape(
            name="Qwen3-8B", heads=32, kv_heads=8, head_dim=128, vocab=151936, tied=False,
            theta=(1e6, 5e6),
        ),
        ("qwen3", 40, 5120, 17408): Shape(
            name="Qwen3-14B", heads=40, kv_heads=8, head_dim=128, vocab=151936, tied=False,
            theta=(1e6, 5e6),
        ),
        ("qwen3", 64, 5120, 25600): Shape(
            name="Qwen3-32B", heads=64, kv_heads=8, head_dim=128, vocab=151936, tied=False,
            theta=(1e6, 5e6),
        ),
    }
)  # fmt: skip

VOCABULARIES = MappingProxyType(
    {
        "36c3749fd3c87e2402f612459b45ae4e6ce5488a3ecde47a8a3ea3ed3d5dda5a": (
            "Qwen2 (151,643 tokens)"
        ),
    }
)
"""SHA-256 over the plain tokens in order of id, joined by line ends."""
MERGES = MappingProxyType(
    {
        "bbeef245f0b03a9613753068e5799c2496290005594c68f09eed68feedbe6d1f": (
            "Qwen2 (151,387 merges)"
        ),
    }
)
"""SHA-256 over the merges in order of rank: parts joined by a blank, merges by line ends."""
PUBLISHED_TOKENS = 151_643
"""Plain tokens of the published vocabulary: a model with nearly as many claims to have it."""

TEMPLATES = MappingProxyType(
    {
        "cd8e9439f0570856fd70470bf8889ebd8b5d1107207f67a5efb46e342330527f": "Qwen2.5-Instruct",
        "5ed15374ce53e19a7798710736a2c9fe41c79f7385e8421a2080d6575a80ef1b": "QwQ-32B",
        "87a2728cb8dc9fe424d624542f6060ec05a1d285ebbec578bb078900e33396b5": "Qwen3-0.6B",
        "d287fb2edf144207f868ae1b282755dc19db2a3f1c5b3a3d57e9e5abffa98392": "Qwen3-Coder",
        "a4aee8afcf2e0711942cf848899be66016f8d14a889ff9ede07bca099c28f715": "Qwen3.5-4B",
        "bbe594884b44d740667ee65a70bc8d333a565eab3d63ea59f291ea73ada84ba6": (
            "DeepSeek-R1-Distill-Qwen-32B"
        ),
    }
)
"""SHA-256 of published chat templates, as they were read."""

ENDS = frozenset(
    (
        "<|im_end|>",
        "<|endoftext|>",
        "<|end_of_text|>",
        "</s>",
        "<｜end▁of▁sentence｜>",
        "<|eot_id|>",
    )
)
"""Tokens that published models end an answer or a document with."""

STEERING_KEYS = (
    "bad_words_ids",
    "force_words_ids",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "forced_decoder_ids",
    "suppress_tokens",
    "begin_suppress_tokens",
    "sequence_bias",
    "constraints",
    "watermarking_config",
)
"""Members of ``generation_config.json`` that put words into an answer or keep them out."""


def shape_of(config: Config) -> Shape | None:
    """The published shape with these layers and widths, if there is one."""
    return SHAPES.get((config.family, config.n_layers, config.width, config.mlp_width))

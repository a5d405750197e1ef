"""Reading shapes: what transformers would read, or a refusal that names the field."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from freehold.errors import MalformedError
from freehold.qwen.config import from_gguf, from_hf
from freehold.qwen.documents import parse_json
from freehold.qwen.rope import frequencies


def test_published_configs(shared_data: Any) -> None:
    """Every dense Qwen config beside the checkout is read; every other is refused by name."""
    dense = {"qwen2", "qwen3"}
    read = refused = 0
    for path in sorted((shared_data / "configs").glob("*.json")):
        document = json.loads(path.read_text())
        if path.name == "shapes.json":
            continue
        if document.get("model_type") in dense and not document.get("quantization_config"):
            config = from_hf(document)
            assert config.n_layers == document["num_hidden_layers"]
            assert config.qk_norm == (document["model_type"] == "qwen3")
            read += 1
        else:
            with pytest.raises(MalformedError, match=r"model_type|quantization_config"):
                from_hf(document)
            refused += 1
    assert read >= 5
    assert refused >= 10


def test_yarn_as_qwen_publishes_it(make: SimpleNamespace) -> None:
    scaling = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32_768}
    config = from_hf(make.small_config(max_position_embeddings=32_768, rope_scaling=scaling))
    assert config.context == 131_072
    assert config.rope_scaling is not None
    assert config.rope_scaling.attention_factor == pytest.approx(1.1386294)


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "default", "rope_theta": 1e6},
        {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0},
        {
            "rope_type": "yarn",
            "rope_theta": 1e6,
            "factor": 4.0,
            "original_max_position_embeddings": 128,
        },
        {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.5, "beta_fast": 8, "beta_slow": 2},
    ],
)
def test_frequencies_equal_transformers(make: SimpleNamespace, rope: dict[str, Any]) -> None:
    hf = make.random_hf("qwen2", rope_parameters=dict(rope))
    ours, factor = frequencies(from_hf(hf.config.to_dict()))
    theirs = hf.model.rotary_emb
    assert ours == pytest.approx(theirs.inv_freq.numpy(), rel=1e-6)
    assert factor == pytest.approx(theirs.attention_scaling)


def test_windows_follow_transformers(make: SimpleNamespace) -> None:
    sliding = make.small_config(use_sliding_window=True, sliding_window=7, max_window_layers=1)
    assert from_hf(sliding).windows == (None, 7)
    assert from_hf(sliding | {"use_sliding_window": False}).windows == (None, None)
    named = sliding | {"layer_types": ["sliding_attention", "full_attention"]}
    assert from_hf(named).windows == (7, None)


NUMBERS = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "vocab_size", "max_position_embeddings"),
)
NONSENSE: list[Any] = [-1, 0, 2**40, 1.5, "64", True, [], {}, "x" * 500]
BAD_FIELDS: list[tuple[str, Any]] = [
    *[(name, value) for name in NUMBERS for value in NONSENSE],
    *[("rms_norm_eps", value) for value in (-1e-6, 2.0, "small", True, [])],
    *[("rope_theta", value) for value in (-1, 0, 1e300, "big", [])],
    *[("model_type", value) for value in (None, "llama", "qwen2_moe", "qwen", "qwen3_moe", 3, [])],
    *[("hidden_act", value) for value in ("gelu", "relu", 1)],
    ("quantization_config", {"quant_method": "awq"}),
    ("auto_map", {"AutoModel": "modeling.Evil"}),
    *[("tie_word_embeddings", value) for value in ("yes", 1, [])],
    *[("use_sliding_window", value) for value in ("yes", 1)],
    *[
        ("layer_types", value)
        for value in ("full", [], ["full_attention"], ["linear_attention"] * 2)
    ],
    ("layer_types", ["sliding_attention"] * 2),
    *[("eos_token_id", value) for value in (-1, "x", [1, "x"], [None], 1.0, 2**60)],
    *[("head_dim", value) for value in (-2, 1, 15, "16", 32)],
    ("num_key_value_heads", 3),
    ("hidden_size", 66),
    *[("rope_scaling", value) for value in ([], "yarn", 4, {"type": "dynamic", "factor": 2.0})],
    *[("rope_scaling", {"type": kind, "factor": 2.0}) for kind in ("llama3", "longrope", 7, "")],
    *[("rope_scaling", {"type": "yarn", "factor": value}) for value in (None, 0, -4, "4", 1e9)],
    ("rope_scaling", {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": -1}),
    ("rope_scaling", {"type": "yarn", "factor": 4.0, "mscale": 0.7}),
    ("rope_scaling", {"type": "yarn", "factor": 4.0, "beta_fast": 0}),
    ("rope_parameters", {"rope_type": "default", "partial_rotary_factor": 0.5}),
    ("rope_parameters", {"full_attention": {"rope_type": "default"}, "rope_type": 3}),
]


@pytest.mark.parametrize("case", range(len(BAD_FIELDS)))
def test_malformed_config(make: SimpleNamespace, case: int) -> None:
    key, value = BAD_FIELDS[case]
    if value is None and key == "rope_scaling":
        pytest.fail("null means no scaling: not a bad value")
    with pytest.raises(MalformedError) as caught:
        from_hf(make.small_config(**{key: value}))
    assert caught.value.file == "config.json"
    assert len(str(caught.value)) < 400


def test_the_base_config_is_good(make: SimpleNamespace) -> None:
    assert from_hf(make.small_config()).n_kv_heads == 2


@pytest.mark.parametrize("key", ["model_type", "hidden_size", "vocab_size", "num_hidden_layers"])
def test_missing_fields(make: SimpleNamespace, key: str) -> None:
    config = make.small_config()
    del config[key]
    with pytest.raises(MalformedError, match=key):
        from_hf(config)


@pytest.mark.parametrize(
    "data",
    [
        b"", b"{", b"[1,", b"nul", b"\xff\xfe{}", b'{"a": 1, "a": 2}', b'{"a": NaN}',
        b'{"a": Infinity}', b"[" * 100_000, b'{"a":' * 50_000, b'{"a": ' + b"9" * 5_000 + b"}",
        b"{} {}", b"\x00", b'"\\ud800', b"{'a': 1}", b'{"a": 01}', b'\xef\xbb\xbf{}', b'{"a": 1,}',
    ],
)  # fmt: skip
def test_malformed_json(data: bytes) -> None:
    with pytest.raises(MalformedError, match=r"config\.json"):
        parse_json(data, file="config.json")


@pytest.mark.parametrize("document", [None, [], "x", 3, True, b"{}"])
def test_not_an_object(document: Any) -> None:
    with pytest.raises(MalformedError):
        from_hf(document)


GGUF = {
    "general.architecture": "qwen2",
    "qwen2.block_count": 2,
    "qwen2.context_length": 512,
    "qwen2.embedding_length": 64,
    "qwen2.feed_forward_length": 96,
    "qwen2.attention.head_count": 4,
    "qwen2.attention.head_count_kv": 2,
    "qwen2.attention.layer_norm_rms_epsilon": 1e-6,
    "qwen2.rope.freq_base": 10_000.0,
}
SHAPES = {"token_embd.weight": (300, 64)}


def test_gguf_reads_the_same_shape(make: SimpleNamespace) -> None:
    assert from_gguf(GGUF, shapes=SHAPES) == from_hf(make.small_config(eos_token_id=None))


BAD_GGUF: list[tuple[str, Any]] = [
    *[("general.architecture", value) for value in (None, "llama", "qwen2moe", "qwen35", 3)],
    *[("qwen2.block_count", value) for value in (None, 0, -1, 2**40, 1.5, "2", [])],
    *[("qwen2.context_length", value) for value in (None, 0, 2**60, "x")],
    *[("qwen2.embedding_length", value) for value in (None, 0, 3, 66, 2**50)],
    *[("qwen2.attention.head_count", value) for value in (None, 0, 3, [4, 4], 2**40)],
    *[("qwen2.attention.head_count_kv", value) for value in (0, 3, 8, [2, 2])],
    *[("qwen2.attention.key_length", value) for value in (0, 15, 32, "16")],
    *[("qwen2.attention.value_length", value) for value in (8, "16")],
    *[("qwen2.rope.dimension_count", value) for value in (8, 0)],
    ("qwen2.attention.sliding_window", 4_096),
    *[("qwen2.rope.scaling.type", value) for value in ("dynamic", "longrope", 3)],
    ("qwen2.rope.scaling.type", "yarn"),  # without its factor
    *[("qwen2.attention.layer_norm_rms_epsilon", value) for value in (None, -1.0, "x")],
    ("qwen2.vocab_size", 299),
    *[("tokenizer.ggml.eos_token_id", value) for value in (-1, "x", 2**50)],
]


@pytest.mark.parametrize("case", range(len(BAD_GGUF)))
def test_malformed_gguf_config(case: int) -> None:
    key, value = BAD_GGUF[case]
    with pytest.raises(MalformedError):
        from_gguf(GGUF | {key: value}, shapes=SHAPES)


@pytest.mark.parametrize("shapes", [{}, {"token_embd.weight": (64,)}])
def test_gguf_without_an_embedding(shapes: dict[str, Any]) -> None:
    with pytest.raises(MalformedError, match="token_embd"):
        from_gguf(GGUF, shapes=shapes)

"""The forward pass against transformers, on small random models of every dense family."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from freehold.qwen.forward import forward
from freehold.qwen.model import Model, Span, load

MAX_ERROR = 1e-4
YARN = {
    "rope_type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 32,
    "rope_theta": 10_000.0,
}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen1.5": ("qwen2", {"num_key_value_heads": 4}),
    "qwen2-tied": ("qwen2", {"tie_word_embeddings": True}),
    "qwen2.5-gqa": ("qwen2", {"num_attention_heads": 8, "num_key_value_heads": 1}),
    "qwen2-window": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1},
    ),
    "qwen2-yarn": ("qwen2", {"rope_parameters": YARN}),
    "qwen2-yarn-factor": (
        "qwen2",
        {"rope_parameters": YARN | {"attention_factor": 0.8, "beta_fast": 16.0, "truncate": False}},
    ),
    "qwen2-linear": (
        "qwen2",
        {"rope_parameters": {"rope_type": "linear", "factor": 3.0, "rope_theta": 10_000.0}},
    ),
    "qwen2-theta": (
        "qwen2",
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0}},
    ),
    "qwen3": ("qwen3", {"head_dim": 32}),
    "qwen3-tied": ("qwen3", {"head_dim": 16, "tie_word_embeddings": True}),
    "qwen3-bias": ("qwen3", {"head_dim": 16, "attention_bias": True}),
    "qwen3-yarn": ("qwen3", {"head_dim": 16, "rope_parameters": YARN}),
    "qwen3-window": (
        "qwen3",
        {
            "head_dim": 16,
            "use_sliding_window": True,
            "sliding_window": 5,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
    ),
}


@pytest.fixture(scope="module", params=FAMILIES, ids=list(FAMILIES))
def pair(request: pytest.FixtureRequest, make: SimpleNamespace) -> SimpleNamespace:
    """The same weights in transformers and here, and what transformers says of 150 tokens."""
    model_type, changes = FAMILIES[request.param]
    hf = make.random_hf(model_type, **changes)
    ours = load(make.from_hf(hf), cache_tokens=2048, page_size=16)
    ids = np.random.default_rng(1).integers(0, ours.config.vocab, 150).tolist()
    with torch.no_grad():
        wanted = hf(torch.tensor([ids])).logits[0].numpy()
    return SimpleNamespace(hf=hf, ours=ours, ids=ids, wanted=wanted)


def whole(model: Model, ids: list[int]) -> np.ndarray:
    state = model.cache.new()
    (logits,) = model.forward([Span(state=state, ids=ids, want="all")])
    state.free()
    assert logits is not None
    return logits


def in_chunks(model: Model, state: Any, ids: list[int], sizes: list[int]) -> np.ndarray:
    """Feed the ids in chunks of the given sizes, the last one repeated."""
    rows, at = [], 0
    while at < len(ids):
        size = sizes.pop(0) if len(sizes) > 1 else sizes[0]
        (logits,) = model.forward([Span(state=state, ids=ids[at : at + size], want="all")])
        rows.append(logits)
        at += size
    return np.concatenate(rows)


def test_logits_equal_transformers(pair: SimpleNamespace) -> None:
    assert np.abs(pair.wanted).max() > 0.5  # a model that says nothing would agree with anything
    assert np.abs(whole(pair.ours, pair.ids) - pair.wanted).max() <= MAX_ERROR


def test_chunks_and_single_tokens_equal_the_whole(pair: SimpleNamespace) -> None:
    state = pair.ours.cache.new()
    logits = in_chunks(pair.ours, state, pair.ids, [1, 7, 64, 5, 30, 1])
    assert np.abs(logits - pair.wanted).max() <= MAX_ERROR
    assert state.length == len(pair.ids)


def test_shared_batch_equals_solo(pair: SimpleNamespace) -> None:
    """Prefill chunks and decode rows of other sequences change nothing."""
    model, rng = pair.ours, np.random.default_rng(2)
    prompts = [rng.integers(0, model.config.vocab, n).tolist() for n in (1, 3, 17, 40, 129)]
    solo = [whole(model, prompt) for prompt in prompts]
    states = [model.cache.new() for _ in prompts]
    heads = [len(prompt) // 2 for prompt in prompts]
    model.forward(
        [
            Span(state=s, ids=p[:h], want="none")
            for s, p, h in zip(states, prompts, heads, strict=True)
            if h
        ]
    )
    tails = [
        p[h : h + 1] if i % 2 else p[h:]
        for i, (p, h) in enumerate(zip(prompts, heads, strict=True))
    ]
    together = model.forward(
        [Span(state=s, ids=t, want="all") for s, t in zip(states, tails, strict=True)]
    )
    for alone, head, tail, logits in zip(solo, heads, tails, together, strict=True):
        assert np.abs(logits - alone[head : head + len(tail)]).max() <= MAX_ERROR


def test_rollback_and_fork_equal_fresh(pair: SimpleNamespace) -> None:
    model, ids = pair.ours, pair.ids
    state = model.cache.new()
    in_chunks(model, state, ids[:50], [50])
    mark = state.snapshot()
    other = state.fork()
    early = state.fork(21)
    in_chunks(model, state, ids[100:120], [20])  # a wrong turn, over pages the fork shares
    state.rollback(mark)
    for branch, at in ((state, 50), (other, 50), (early, 21)):
        logits = in_chunks(model, branch, ids[at:], [13, 1, 40])
        assert np.abs(logits - pair.wanted[at:]).max() <= MAX_ERROR
    for branch in (state, other, early):
        branch.free()
    assert model.cache.n_free >= model.cache.n_pages - 60


@pytest.mark.parametrize("name", ["qwen2-tied", "qwen3-bias"])
def test_gradients_equal_transformers(name: str, make: SimpleNamespace) -> None:
    """Without a state the same pass is differentiable: training stands on it."""
    hf = make.random_hf(FAMILIES[name][0], **FAMILIES[name][1])
    ours = load(make.from_hf(hf), cache_tokens=64)
    w = ours.weights
    parameters = [w.embed.weight_od, w.norm, w.blocks[0].qkv.weight_od, w.blocks[2].down.weight_od]
    for parameter in parameters:
        parameter.requires_grad_(True)
    ids = np.random.default_rng(3).integers(0, ours.config.vocab, 40).tolist()
    batch = ours.ops.batch([SimpleNamespace(state=None, ids=ids)])
    logits = forward(ours.ops, w, batch, range(len(ids)))
    torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(ids[1:])).backward()

    theirs = hf(torch.tensor([ids])).logits[0]
    torch.nn.functional.cross_entropy(theirs[:-1], torch.tensor(ids[1:])).backward()
    layers = hf.model.layers
    attention = layers[0].self_attn
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    wanted = [
        hf.model.embed_tokens.weight.grad,
        hf.model.norm.weight.grad,
        torch.cat([projection.weight.grad for projection in projections]),
        layers[2].mlp.down_proj.weight.grad,
    ]
    for parameter, gradient in zip(parameters, wanted, strict=True):
        assert gradient.abs().max() > 1e-4
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("name", ["qwen2-tied", "qwen2.5-gqa", "qwen3", "qwen2-yarn"])
def test_gguf_of_the_same_weights(name: str, make: SimpleNamespace, tmp_path: Any) -> None:
    """A file written by the ``gguf`` package, with llama.cpp's names, gives the same logits."""
    gguf = pytest.importorskip("gguf")
    hf = make.random_hf(FAMILIES[name][0], **FAMILIES[name][1])
    path = tmp_path / "small.gguf"
    write_gguf(gguf, hf, path)
    ours = load(make.read_gguf(path), cache_tokens=512)
    ids = np.random.default_rng(4).integers(0, 199, 60).tolist()
    with torch.no_grad():
        wanted = hf(torch.tensor([ids])).logits[0].numpy()
    assert np.abs(whole(ours, ids) - wanted).max() <= MAX_ERROR


def write_gguf(gguf: Any, hf: Any, path: Any) -> None:
    config = hf.config
    arch = config.model_type
    writer = gguf.GGUFWriter(path, arch)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    rope = config.rope_parameters
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(rope["factor"])
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    if arch == "qwen3":
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[arch.upper()], config.num_hidden_layers)
    for hf_name, tensor in hf.state_dict().items():
        if hf_name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        stem, kind = hf_name.rsplit(".", 1)
        writer.add_tensor(f"{names.get_name(stem)}.{kind}", tensor.float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_bfloat16_is_close(make: SimpleNamespace) -> None:
    """The same weights in bfloat16 keep the distribution: mean KL to float32 under 0.01."""
    hf = make.random_hf("qwen3", head_dim=16)
    delivered = make.from_hf(hf)
    ids = np.random.default_rng(5).integers(0, 199, 100).tolist()
    exact = torch.from_numpy(whole(load(delivered, cache_tokens=512), ids)).log_softmax(-1)
    rounded = torch.from_numpy(
        whole(load(delivered, dtype="bfloat16", cache_tokens=512), ids)
    ).log_softmax(-1)
    kl = (exact.exp() * (exact - rounded)).sum(-1)
    assert 0 < kl.mean() < 0.01

"""The real default model against transformers with the same dequantised weights."""

from __future__ import annotations

import gzip
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from freehold.qwen import codec
from freehold.qwen.model import Model, Span, load
from freehold.types import VerifiedModel

N_TOKENS = 2_000
DOCS = Path(__file__).resolve().parents[2] / "docs"
SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "corpus"


def real_text() -> str:
    """Code, English, German, Vietnamese and Thai where the corpus is; else our own pages."""
    if SHARED.is_dir():
        parts = []
        for language in ("py", "en", "de", "vi", "th"):
            with gzip.open(SHARED / f"{language}.txt.gz", "rt", encoding="utf-8") as file:
                parts.append(file.read(3_000))
        return "\n".join(parts)
    return "\n".join(page.read_text("utf-8") for page in sorted(DOCS.rglob("*.md")))


@pytest.fixture(scope="module")
def ids(real: VerifiedModel) -> list[int]:
    found = codec.load(real).text(real_text())[:N_TOKENS]
    assert len(found) >= 500
    return found


def logits_of(model: Model, ids: list[int], piece: int = 250) -> np.ndarray:
    """All logits as log-probabilities, prefilled in pieces so that memory stays bounded."""
    state = model.cache.new()
    rows = []
    for start in range(0, len(ids), piece):
        span = Span(state=state, ids=ids[start : start + piece], want="all")
        (logits,) = model.forward([span])
        rows.append(torch.from_numpy(logits.copy()).log_softmax(-1).numpy())
    return np.concatenate(rows)


def transformers_model(delivered: VerifiedModel) -> Any:
    """Qwen2 in transformers, its weights dequantised by the ``gguf`` package."""
    gguf = pytest.importorskip("gguf")
    import transformers

    about = delivered.metadata
    config = transformers.Qwen2Config(
        vocab_size=delivered.tensors["token_embd.weight"].shape[0],
        hidden_size=about["qwen2.embedding_length"],
        intermediate_size=about["qwen2.feed_forward_length"],
        num_hidden_layers=about["qwen2.block_count"],
        num_attention_heads=about["qwen2.attention.head_count"],
        num_key_value_heads=about["qwen2.attention.head_count_kv"],
        max_position_embeddings=about["qwen2.context_length"],
        rms_norm_eps=about["qwen2.attention.layer_norm_rms_epsilon"],
        rope_parameters={"rope_type": "default", "rope_theta": about["qwen2.rope.freq_base"]},
        tie_word_embeddings="output.weight" not in delivered.tensors,
    )
    with torch.device("meta"):
        model = transformers.Qwen2ForCausalLM(config)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2, config.num_hidden_layers)
    weights = {}
    for name in model.state_dict():
        stem, kind = name.rsplit(".", 1)
        tensor = delivered.tensors[f"{names.get_name(stem)}.{kind}"]
        packed = tensor.data.reshape(tensor.shape[0], -1)
        values = gguf.dequantize(packed, gguf.GGMLQuantizationType[tensor.dtype])
        weights[name] = torch.from_numpy(values.reshape(tensor.shape).copy())
    model.load_state_dict(weights, assign=True)
    # The frequencies are no weights: make them again, outside the meta device.
    model.model.rotary_emb = type(model.model.rotary_emb)(config)
    return model.eval()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_agrees_with_transformers(real: VerifiedModel, ids: list[int]) -> None:
    """Top-1 agreement at least 99 %, mean KL at most 1e-3, over 2,000 tokens of real text."""
    torch.set_num_threads(2)
    ours = logits_of(load(real, threads=2, cache_tokens=N_TOKENS + 16), ids)
    hf = transformers_model(real)
    same, kl, worst = 0, 0.0, 0.0
    with torch.no_grad():
        hidden = hf.model(torch.tensor([ids])).last_hidden_state[0]
        for start in range(0, len(ids), 250):
            wanted = hf.lm_head(hidden[start : start + 250]).log_softmax(-1).numpy()
            mine = ours[start : start + 250]
            same += int((wanted.argmax(-1) == mine.argmax(-1)).sum())
            kl += float((np.exp(wanted) * (wanted - mine)).sum())
            worst = max(worst, float(np.abs(wanted - mine).max()))
    print(f"top-1 {same / len(ids):.4%}, mean KL {kl / len(ids):.2e}, worst logprob {worst:.2e}")
    assert same / len(ids) >= 0.99
    assert abs(kl / len(ids)) <= 1e-3


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_bfloat16_kl(real: VerifiedModel, ids: list[int]) -> None:
    """bfloat16 costs something, and it is known how much: mean KL over 500 tokens below 0.05."""
    exact = logits_of(load(real, threads=2, cache_tokens=1_024), ids[:500])
    model = load(real, threads=2, dtype="bfloat16", cache_tokens=1_024)
    rounded = logits_of(model, ids[:500])
    kl = float((np.exp(exact) * (exact - rounded)).sum(-1).mean())
    print(f"bfloat16: mean KL {kl:.2e} over {len(exact)} tokens")
    assert 0 < kl < 0.05
    assert model.card.numerics == "torch-bfloat16"


@pytest.mark.slow
def test_answers(real: VerifiedModel) -> None:
    """From messages to text, greedily: the capital of France."""
    model, words = load(real, threads=2, cache_tokens=512), codec.load(real)
    question = {"role": "user", "content": "What is the capital of France? Answer in one word."}
    state, decoder = model.cache.new(), words.decoder()
    feed, text = words.chat([question]), ""
    for _ in range(8):
        (logits,) = model.forward([Span(state=state, ids=feed, want="last")])
        token = int(logits[-1].argmax())
        if token in words.stop_ids:
            break
        text += decoder.push(token).text
        feed = [token]
    assert (text + decoder.finish().text).strip().rstrip(".") == "Paris"


def test_card_says_what_is_loaded(make: SimpleNamespace) -> None:
    hf = make.random_hf("qwen2", tie_word_embeddings=True)
    seen: list[tuple[int, int]] = []
    model = load(
        make.from_hf(hf), cache_tokens=64, progress=lambda done, total: seen.append((done, total))
    )
    assert model.card.vocab == 199
    assert model.card.context == 512
    assert model.card.numerics == "torch-float32"
    read = sum(parameter.numel() for parameter in hf.parameters())
    assert model.card.bytes_per_token == 4 * read  # tied: the table is read as the head
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1]
    assert math.isclose(seen[-1][1], 4 * read)

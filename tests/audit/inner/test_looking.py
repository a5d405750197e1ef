"""Lens, attribution, attention, patching, leaving out and the direction of refusal against
transformers with hooks, on small random models."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra `lab` is not installed")
transformers = pytest.importorskip("transformers")

from freehold.audit.inner import looking, refusal, tracing  # noqa: E402
from freehold.audit.inner.tracing import trace  # noqa: E402
from freehold.errors import UsageError  # noqa: E402
from freehold.qwen.model import Model, load  # noqa: E402
from freehold.types import RawTensor, VerifiedModel  # noqa: E402

CLOSE = 1e-3
SHAPE: dict[str, Any] = {
    "vocab_size": 97, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
}  # fmt: skip
FAMILIES = {
    "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM, {}),
    "qwen2-tied": (
        transformers.Qwen2Config, transformers.Qwen2ForCausalLM, {"tie_word_embeddings": True},
    ),
    "qwen2-window": (
        transformers.Qwen2Config, transformers.Qwen2ForCausalLM,
        {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
    ),
    "qwen3-bias": (
        transformers.Qwen3Config, transformers.Qwen3ForCausalLM,
        {"head_dim": 32, "attention_bias": True},
    ),
}  # fmt: skip


def ours_of(hf: Any) -> Model:
    documents = {"config.json": json.dumps(hf.config.to_dict()).encode()}
    tensors = {}
    for name, values in hf.state_dict().items():
        if name == "lm_head.weight" and hf.config.tie_word_embeddings:
            continue
        numbers = values.detach().float().numpy()
        data = np.frombuffer(numbers.tobytes(), np.uint8)
        tensors[name] = RawTensor(name=name, dtype="F32", shape=numbers.shape, data=data)
    made = VerifiedModel(
        name="m", digest="0" * 64, licence="", format="safetensors", metadata={},
        documents=documents, tensors=tensors, attested="owner",
    )  # fmt: skip
    return load(made, threads=1, cache_tokens=256)


@pytest.fixture(scope="module", params=FAMILIES, ids=list(FAMILIES))
def pair(request: pytest.FixtureRequest) -> SimpleNamespace:
    config, kind, changes = FAMILIES[request.param]
    torch.manual_seed(3)
    torch.set_num_threads(1)
    hf = kind(config(**(SHAPE | changes), attn_implementation="eager")).eval()
    with torch.no_grad():
        for values in hf.parameters():  # norms and biases too, so that errors show
            values.add_(0.2 * torch.randn_like(values))
    rng = np.random.default_rng(1)
    ids, other = rng.integers(0, SHAPE["vocab_size"], (2, 12)).tolist()
    return SimpleNamespace(hf=hf, ours=ours_of(hf), ids=ids, other=other)


def hooked(hf: Any, ids: list[int]) -> SimpleNamespace:
    """What each module of transformers gave at the last position."""
    kept: dict[str, Any] = {}
    handles = []
    for i, layer in enumerate(hf.model.layers):

        def before(module: Any, given: Any, name: str = f"heads{i}") -> None:
            kept[name] = given[0][0, -1]

        def after(module: Any, given: Any, out: Any, name: str = f"mlp{i}") -> None:
            kept[name] = out[0, -1]

        handles += [
            layer.self_attn.o_proj.register_forward_pre_hook(before),
            layer.mlp.register_forward_hook(after),
        ]
    handles.append(
        hf.model.norm.register_forward_pre_hook(lambda m, x: kept.update(final=x[0][0, -1]))
    )
    with torch.no_grad():
        out = hf(torch.tensor([ids]), output_hidden_states=True)
    for handle in handles:
        handle.remove()
    return SimpleNamespace(out=out, kept=kept)


@pytest.mark.parametrize("at", [-1, 4])
def test_lens_is_transformers(pair: SimpleNamespace, at: int) -> None:
    shares = looking.lens(pair.ours, trace(pair.ours, pair.ids), at)
    theirs = hooked(pair.hf, pair.ids)
    with torch.no_grad():
        # The last hidden state has been through the norm already, the others have not.
        streams = [*theirs.out.hidden_states[1:-1]]
        wanted = [pair.hf.lm_head(pair.hf.model.norm(x))[0, at].softmax(-1) for x in streams]
        wanted.append(theirs.out.logits[0, at].softmax(-1))
    assert np.abs(shares - torch.stack(wanted).numpy()).max() < CLOSE


def test_attribution_is_transformers_and_sums_to_the_logit(pair: SimpleNamespace) -> None:
    hf, h = pair.hf, SHAPE["num_attention_heads"]
    seen = trace(pair.ours, pair.ids)
    token = int(seen.logits_v.argmax())
    ours = looking.attribute(pair.ours, seen, token)
    theirs = hooked(hf, pair.ids)
    with torch.no_grad():
        scale = (theirs.kept["final"].pow(2).mean() + hf.config.rms_norm_eps).rsqrt()
        towards = hf.model.norm.weight * hf.lm_head.weight[token] * scale
        for i, layer in enumerate(hf.model.layers):
            pieces = theirs.kept[f"heads{i}"].view(h, -1)
            e = pieces.shape[1]
            for j in range(h):
                wrote = layer.self_attn.o_proj.weight[:, j * e : (j + 1) * e] @ pieces[j]
                assert abs(ours.heads_lh[i, j] - float(wrote @ towards)) < CLOSE
            assert abs(ours.mlp_l[i] - float(theirs.kept[f"mlp{i}"] @ towards)) < CLOSE
    assert abs(ours.total - float(theirs.out.logits[0, -1, token])) < CLOSE
    assert abs(ours.total - ours.logit) < CLOSE


def test_attention_is_transformers(pair: SimpleNamespace) -> None:
    seen = trace(pair.ours, pair.ids)
    with torch.no_grad():
        told = pair.hf(torch.tensor([pair.ids]), output_attentions=True).attentions
    wanted = torch.stack([layer[0, :, -1] for layer in told]).numpy()
    assert np.abs(seen.looks_lht - wanted).max() < CLOSE
    assert seen.looks_lht.sum(axis=-1) == pytest.approx(1, abs=1e-5)


def test_the_direction_of_refusal_is_transformers(pair: SimpleNamespace) -> None:
    n = refusal.FITTED + refusal.HELD_OUT
    rng = np.random.default_rng(4)
    asked = [
        [*pair.ids[:3], *rng.integers(0, SHAPE["vocab_size"], rng.integers(1, 9)).tolist()]
        for _ in range(2 * n + refusal.HELD_OUT)
    ]
    heard: list[int] = []
    found = refusal.look(
        pair.ours,
        refusal.Requests(
            language="en",
            harmful=tuple(asked[:n]),
            harmless=tuple(asked[n : 2 * n]),
            double=tuple(asked[2 * n :]),
        ),
        trace(pair.ours, pair.ids),
        heard.append,
    )
    assert sum(heard) == len(asked)
    ends = torch.stack([torch.stack(hooked_streams(pair.hf, ids))[:, 0, -1] for ids in asked])
    own = torch.stack(hooked_streams(pair.hf, pair.ids))[:, 0]
    for layer in range(SHAPE["num_hidden_layers"]):
        one = ends[: refusal.FITTED, layer].mean(0)
        two = ends[n : n + refusal.FITTED, layer].mean(0)

        def cosine(x: Any, one: Any = one, two: Any = two) -> Any:
            return torch.cosine_similarity(x - (one + two) / 2, (one - two)[None], dim=-1)

        assert np.abs(found.cosine_lt[layer] - cosine(own[layer]).numpy()).max() < CLOSE
        assert found.harmful_l[layer] == int((cosine(ends[refusal.FITTED : n, layer]) > 0).sum())
        held = ends[n + refusal.FITTED : 2 * n, layer]
        assert found.harmless_l[layer] == int((cosine(held) <= 0).sum())
        assert found.double_l[layer] == int((cosine(ends[2 * n :, layer]) <= 0).sum())


@pytest.mark.parametrize("rows", [1, 20, 256])
def test_patch_effects_are_transformers(
    pair: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    """Whether each run has a pass of its own, or several layers and places share one."""
    hf, ids, other = pair.hf, pair.ids, pair.other
    monkeypatch.setattr(tracing, "MOST_ROWS", rows)
    heard: list[int] = []
    effects = looking.patch(
        pair.ours, trace(pair.ours, ids), other, (5, 9), [3, 11], done=heard.append
    )
    assert sum(heard) == effects.size
    assert len(heard) == {1: 6, 20: 2, 256: 1}[rows]
    streams = hooked_streams(hf, ids)
    for i, layer in enumerate(hf.model.layers):
        for column, position in enumerate((3, 11)):

            def put(module: Any, given: Any, out: Any, i: int = i, at: int = position) -> Any:
                x = (out[0] if isinstance(out, tuple) else out).clone()
                x[0, at] = streams[i][0, at]
                return (x, *out[1:]) if isinstance(out, tuple) else x

            handle = layer.register_forward_hook(put)
            with torch.no_grad():
                logits = hf(torch.tensor([other])).logits[0, -1]
            handle.remove()
            assert abs(effects[i, column] - float(logits[5] - logits[9])) < CLOSE


def hooked_streams(hf: Any, ids: list[int]) -> list[Any]:
    kept: list[Any] = []
    handles = [
        layer.register_forward_hook(
            lambda m, x, out: kept.append(out[0] if isinstance(out, tuple) else out)
        )
        for layer in hf.model.layers
    ]
    with torch.no_grad():
        hf(torch.tensor([ids]))
    for handle in handles:
        handle.remove()
    return kept


def test_leaving_nothing_out_changes_nothing(pair: SimpleNamespace) -> None:
    shorter = [pair.ids, pair.ids[:4] + pair.ids[5:], pair.ids[:-1]]
    effects = looking.without(pair.ours, pair.ids, shorter, 2)
    with torch.no_grad():
        whole = pair.hf(torch.tensor([pair.ids])).logits[0, -1, 2]
        part = pair.hf(torch.tensor([pair.ids[:4] + pair.ids[5:]])).logits[0, -1, 2]
        cut = pair.hf(torch.tensor([pair.ids[:-1]])).logits[0, -1, 2]
    assert abs(effects[0]) < CLOSE
    assert abs(effects[1] - float(whole - part)) < CLOSE
    assert abs(effects[2] - float(whole - cut)) < CLOSE


def test_every_page_is_given_back(pair: SimpleNamespace) -> None:
    looking.without(pair.ours, pair.ids, [pair.ids[1:]], 2)
    looking.patch(pair.ours, trace(pair.ours, pair.ids), pair.other, (5, 9), [0, 11])
    assert pair.ours.cache.n_free == pair.ours.cache.n_pages


def test_a_prompt_longer_than_half_the_cache_is_refused(pair: SimpleNamespace) -> None:
    with pytest.raises(UsageError, match="at most 128"):
        trace(pair.ours, [1] * 129)


def test_prompts_of_other_lengths_are_refused() -> None:
    with pytest.raises(UsageError, match="2 and 3 tokens"):
        looking.check_pair([1, 2], [1, 2, 3])

"""Adapters beside a model: near PEFT's own, and the same bits alone and in any company."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from freehold.errors import MalformedError, UsageError
from freehold.qwen.adapter import CONFIG, Adapter, matrices
from freehold.qwen.config import config_of
from freehold.qwen.model import Model, Span, load
from freehold.qwen.ops import _kernels
from freehold.types import RawTensor, VerifiedModel
from tests.qwen.test_native_model import as_q8_0

KINDS: dict[str, dict[str, Any]] = {
    "all": {"r": 16, "lora_alpha": 32},
    "stabilised": {"r": 40, "lora_alpha": 16, "use_rslora": True},
    "attention": {"r": 3, "lora_alpha": 9, "target_modules": ["q_proj", "v_proj"]},
    "few": {"r": 4, "lora_alpha": 8, "target_modules": ["down_proj", "up_proj"]},
}
EVERY = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
IDS = [int(i) for i in np.random.default_rng(3).integers(0, 199, 40)]


def read_adapter(folder: Path, name: str) -> VerifiedModel:
    """An adapter's files as the ``safetensors`` package reads them."""
    from safetensors.numpy import load_file

    tensors = {
        key: RawTensor(
            name=key,
            dtype="F32",
            shape=values.shape,
            data=np.ascontiguousarray(values, np.float32).reshape(-1).view(np.uint8),
        )
        for key, values in load_file(folder / "adapter_model.safetensors").items()
    }
    return VerifiedModel(
        name=name,
        digest=f"sha256:{name}",
        format="safetensors",
        licence="NOASSERTION",
        attested="owner",
        metadata={},
        documents={CONFIG: (folder / CONFIG).read_bytes()},
        tensors=tensors,
    )


@pytest.fixture(scope="module")
def world(make: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A small model as the kernels hold it, PEFT's adapters of it, and PEFT's logits."""
    from peft import LoraConfig, get_peft_model

    hf = make.random_hf("qwen2", hidden_size=128, intermediate_size=160)
    whole = make.from_hf(hf)
    base = make.verified(documents=whole.documents, tensors=as_q8_0(whole))
    from freehold.qwen.quants import dequantise

    with torch.no_grad():
        for name, values in hf.named_parameters():
            values.copy_(torch.from_numpy(dequantise(base.tensors[name])))
    found, logits = {}, {}
    draw = torch.Generator().manual_seed(5)
    peft: Any = hf
    for name, kind in KINDS.items():
        peft = get_peft_model(peft, LoraConfig(**({"target_modules": EVERY} | kind)))
        with torch.no_grad():
            for key, values in peft.named_parameters():
                if "lora_" in key:
                    values.uniform_(-0.08, 0.08, generator=draw)
            logits[name] = peft(torch.tensor([IDS])).logits[0].float().numpy()
        folder = tmp_path_factory.mktemp(name)
        peft.save_pretrained(folder)
        found[name] = read_adapter(folder, name)
        peft = peft.unload()
    return SimpleNamespace(base=base, found=found, logits=logits, folder=folder)


@pytest.fixture(scope="module")
def native(world: SimpleNamespace) -> SimpleNamespace:
    model = load(world.base, backend="native", threads=2, cache_tokens=8192)
    adapters = {name: model.adapter(one) for name, one in world.found.items()}
    return SimpleNamespace(model=model, adapters=adapters)


def alone(model: Model, adapter: Adapter | None, ids: list[int]) -> np.ndarray:
    state = model.cache.new()
    (rows,) = model.forward([Span(state=state, ids=ids, want="all", adapter=adapter)])
    state.free()
    assert rows is not None
    return rows


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_peft(
    world: SimpleNamespace, native: SimpleNamespace, kind: str
) -> None:
    theirs = world.logits[kind]
    model = load(world.base, threads=2, cache_tokens=256)
    ours = alone(model, model.adapter(world.found[kind]), IDS)
    assert np.abs(ours - theirs).max() <= 1e-3
    assert np.abs(alone(model, None, IDS) - theirs).max() > 0.1, "the adapter does something"
    beside = distance(alone(native.model, native.adapters[kind], IDS), theirs)
    merged = load(merge(world, kind), backend="native", threads=2, cache_tokens=256)
    assert beside <= 1.1 * distance(alone(merged, None, IDS), theirs), "as near as if merged"
    assert beside <= 0.08, "8-bit activations cost a few percent on random weights, no more"


def distance(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.sqrt(((ours - theirs) ** 2).mean() / theirs.var()))


def merge(world: SimpleNamespace, kind: str) -> VerifiedModel:
    """The model with an adapter added to its weights, plain floats again."""
    from freehold.qwen.names import HF
    from freehold.qwen.quants import dequantise

    tensors = dict(world.base.tensors)
    for (layer, part), (a_rd, b_or) in matrices(world.found[kind], config_of(world.base)).items():
        name = HF.block(layer, part)
        values = dequantise(tensors[name]) + b_or @ a_rd
        data = np.ascontiguousarray(values, np.float32).reshape(-1).view(np.uint8)
        tensors[name] = replace(tensors[name], dtype="F32", data=data)
    return replace(world.base, tensors=tensors)


pieces = st.lists(
    st.tuples(st.sampled_from([None, *KINDS]), st.integers(1, 12)), min_size=1, max_size=24
)


@settings(max_examples=25, deadline=None)
@given(pieces)
def test_bits_are_the_same_in_any_company(
    native: SimpleNamespace, crowd: list[tuple[str | None, int]]
) -> None:
    model = native.model
    spans = [
        Span(
            state=model.cache.new(),
            ids=IDS[:n],
            want="all",
            adapter=native.adapters[name] if name else None,
        )
        for name, n in crowd
    ]
    together = model.forward(spans)
    for span, rows in zip(spans, together, strict=True):
        span.state.free()
        assert np.array_equal(rows, alone(model, span.adapter, list(span.ids)))


@pytest.mark.parametrize("isa", _kernels.isas())
def test_bits_are_the_same_however_cut_and_on_every_machine(
    world: SimpleNamespace, native: SimpleNamespace, isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = alone(native.model, native.adapters["stabilised"], IDS)
    monkeypatch.setenv("FREEHOLD_ISA", isa)
    for threads in (1, 3):
        model = load(world.base, backend="native", threads=threads, cache_tokens=256)
        adapter = model.adapter(world.found["stabilised"])
        state, rows = model.cache.new(), []
        for start, stop in ((0, 17), (17, 18), (18, 40)):
            piece = Span(state=state, ids=IDS[start:stop], want="all", adapter=adapter)
            rows.append(model.forward([piece])[0])
        assert np.array_equal(np.concatenate(rows), whole)


def test_what_is_no_adapter_of_this_model_is_refused(world: SimpleNamespace) -> None:
    config, good = config_of(world.base), world.found["all"]
    names = list(good.tensors)

    def spoilt(**changes: object) -> VerifiedModel:
        document = json.loads(good.documents[CONFIG]) | changes
        return replace(good, documents={CONFIG: json.dumps(document).encode()})

    def without(*gone: str, **more: RawTensor) -> VerifiedModel:
        kept = {key: one for key, one in good.tensors.items() if key not in gone}
        return replace(good, tensors=kept | more)

    first = good.tensors[names[0]]
    nan = np.full(first.shape, np.nan, np.float32).reshape(-1).view(np.uint8)
    for bad, word in (
        (spoilt(use_dora=True), "DoRA"),
        (spoilt(peft_type="IA3"), "LORA"),
        (spoilt(bias="all"), "bias"),
        (spoilt(modules_to_save=["lm_head"]), "modules_to_save"),
        (spoilt(alpha_pattern={"q_proj": 3}), "alpha_pattern"),
        (spoilt(r=8), "rank 16"),
        (without(names[0]), "half a pair"),
        (without(*names), "changes nothing"),
        (without(**{"lm_head.lora_A.weight": first}), "nothing that this model has"),
        (without(**{names[0]: replace(first, data=nan)}), "NaN"),
        (without(**{names[0]: replace(first, shape=first.shape[::-1])}), "another model"),
    ):
        with pytest.raises(MalformedError, match=word):
            matrices(bad, config)
    with pytest.raises(UsageError, match="no adapter"):
        matrices(world.base, config)
    with pytest.raises(UsageError, match="no model"):
        config_of(good)

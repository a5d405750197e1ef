"""GGUF as we write it: read by the ``gguf`` package and by our own strict reader, equal to what was
written, and computing what transformers computes."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from freehold.errors import MalformedError
from freehold.qwen import ggufout
from freehold.qwen.config import config_of
from freehold.qwen.model import Span, load
from freehold.qwen.names import GGUF, HF, expected
from freehold.qwen.quants import dequantise
from freehold.qwen.template import source_of
from freehold.qwen.tokenizer import tokenizer_of
from freehold.store import Store, pull, verify
from freehold.types import VerifiedModel
from tests.engine.conftest import _Quiet

IDS = [int(i) for i in np.random.default_rng(5).integers(0, 199, 30)]
TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"


@pytest.fixture(scope="module", params=["qwen2", "qwen3"])
def whole(request: pytest.FixtureRequest, make: SimpleNamespace) -> SimpleNamespace:
    hf = make.random_hf(request.param, vocab_size=300, hidden_size=64, intermediate_size=112)
    model = make.from_hf(hf)
    documents = dict(model.documents)
    documents["tokenizer.json"] = json.dumps(make.small_tokenizer_json()).encode()
    documents["tokenizer_config.json"] = json.dumps({"chat_template": TEMPLATE}).encode()
    return SimpleNamespace(hf=hf, model=make.verified(documents=documents, tensors=model.tensors))


def back(tmp_path: Path, model: VerifiedModel, kind: ggufout.Kind) -> VerifiedModel:
    """Written out, and through the dock into a vault."""
    folder = tmp_path / "made"
    folder.mkdir()
    ggufout.write(model, folder / "made.gguf", kind)
    store = Store(tmp_path / "vault")
    pull(store, str(folder), sources=[], progress=_Quiet())
    return verify(store, "made")


@pytest.mark.parametrize("kind", ggufout.KINDS)
def test_our_store_reads_it_back(
    whole: SimpleNamespace, tmp_path: Path, kind: ggufout.Kind, make: SimpleNamespace
) -> None:
    model = whole.model
    made = back(tmp_path, model, kind)
    outside = make.read_gguf(tmp_path / "made" / "made.gguf")
    config = config_of(model)
    pairs = zip(expected(config, HF), expected(config, GGUF), strict=True)
    for (source, _), (name, shape) in pairs:
        tensor, theirs = made.tensors[name], outside.tensors[name]
        assert (tensor.dtype, tensor.shape) == (theirs.dtype, theirs.shape)
        assert tensor.shape == shape
        assert np.array_equal(tensor.data, theirs.data)
        values, wanted = dequantise(tensor), dequantise(model.tensors[source])
        if tensor.dtype == "F32":
            assert np.array_equal(values, wanted)
        elif tensor.dtype == "F16":
            assert np.array_equal(values, wanted.astype(np.float16).astype(np.float32))
        else:
            assert np.abs(values - wanted).max() <= np.abs(wanted).max() / 127
    found = config_of(made)
    fields = "family n_layers width n_heads n_kv_heads head_dim vocab context rope_theta qkv_bias"
    for field in (*fields.split(), "qk_norm", "tied_head", "eos_ids"):
        assert getattr(found, field) == getattr(config, field), field
    assert found.norm_eps == pytest.approx(config.norm_eps)
    text = "hello world in <|im_start|> Ä 7"
    assert tokenizer_of(made).encode(text) == tokenizer_of(model).encode(text)
    assert source_of(made) == TEMPLATE


def test_it_computes_what_transformers_computes(whole: SimpleNamespace, tmp_path: Path) -> None:
    made = load(back(tmp_path, whole.model, "F16"), threads=1, cache_tokens=64)
    (ours,) = made.forward([Span(state=made.cache.new(), ids=IDS, want="all")])
    for parameter in (hf := whole.hf).parameters():
        if parameter.ndim == 2:
            parameter.data = parameter.data.half().float()
    with torch.no_grad():
        theirs = hf(torch.tensor([IDS])).logits[0].numpy()
    assert ours is not None
    assert np.abs(ours - theirs).max() <= 1e-3


def test_what_f16_cannot_hold_is_refused(
    whole: SimpleNamespace, tmp_path: Path, make: SimpleNamespace
) -> None:
    name = HF.block(0, "q")
    values = np.full(whole.model.tensors[name].shape, 1e6, np.float32)
    tensors = {**whole.model.tensors, name: make.raw(name, values)}
    model = make.verified(documents=whole.model.documents, tensors=tensors)
    with pytest.raises(MalformedError, match="F16"):
        ggufout.write(model, tmp_path / "x.gguf", "F16")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("kind", "most"), [("F32", 1e-3), ("F16", 0.05), ("Q8_0", 0.5)])
def test_llama_cpp_loads_it_and_agrees(
    real: VerifiedModel, tmp_path: Path, kind: ggufout.Kind, most: float
) -> None:
    """The default model's values in a file of each kind: llama.cpp's logits against ours in float32
    on the same values. It rounds activations to half precision or 8 bits where the weights are, and
    what differs then is its rounding."""
    oracle = pytest.importorskip("cyllama.llama.llama_cpp", reason="needs cyllama (llama.cpp)")
    folder = tmp_path / "made"
    folder.mkdir()
    ggufout.write(real, folder / "made.gguf", kind)
    text = "def add(a, b):\n    return a + b\n\n# Ibu kota Indonesia adalah"
    ids = tokenizer_of(real).encode(text)
    found, wanted = llama_logits(oracle, folder / "made.gguf", text)
    assert found == ids
    store = Store(tmp_path / "vault")
    pull(store, str(folder), sources=[], progress=_Quiet())
    model = load(verify(store, "made"), backend="torch", dtype="float32", cache_tokens=128)
    (ours,) = model.forward([Span(state=model.cache.new(), ids=ids, want="all")])
    assert ours is not None
    apart = np.abs(ours - wanted)
    print(f"{kind}: logits differ by {apart.max():.2g} at most, {apart.mean():.2g} in the mean")
    same = (ours.argmax(-1) == wanted.argmax(-1)).mean()
    print(f"{kind}: the best token is the same at {same:.0%} of {len(ids)} places")
    assert apart.max() <= most
    assert same >= 0.9


def llama_logits(
    oracle: Any, path: Path, text: str
) -> tuple[list[int], np.ndarray[Any, np.dtype[np.float32]]]:
    """llama.cpp's tokens of a text, and its logits at each of them."""
    oracle.disable_logging()

    class Known(oracle.LlamaModel):  # type: ignore[misc]
        """Its contexts ask for a width that its models do not tell."""

        @property
        def n_vocab(self) -> int:
            return int(self.get_vocab().n_vocab)

    asked = oracle.LlamaModelParams()
    asked.n_gpu_layers = 0
    model = Known(str(path), asked)
    params = oracle.LlamaContextParams()
    params.n_ctx, params.n_threads, params.n_threads_batch = 128, 1, 1
    params.type_k = params.type_v = 0  # keys and values in float32, as ours
    params.flash_attn_type = 0
    context = oracle.LlamaContext(model, params)
    ids = list(model.get_vocab().tokenize(text, False, True))
    batch = oracle.LlamaBatch(n_tokens=len(ids), embd=0, n_seq_max=1)
    for place, i in enumerate(ids):
        batch.add(i, place, [0], True)
    context.decode(batch)
    rows = [np.array(context.get_logits_ith(place), np.float32) for place in range(len(ids))]
    return ids, np.stack(rows)

"""Whole models on the native back end: near the torch back end, and the same bits however a prompt
is cut, whoever shares the batch, on every machine."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import numpy as np
import pytest

from freehold.errors import MalformedError, UsageError
from freehold.qwen.model import Model, Span, load
from freehold.qwen.ops import _kernels
from freehold.qwen.quantise import quantise
from freehold.types import PackedLayer, RawTensor, VerifiedModel

ROOT = Path(__file__).parents[2]
ISAS = _kernels.isas()


CACHES = ("float32", "bfloat16", "int8")


def native(
    verified: VerifiedModel,
    *,
    threads: int = 2,
    cache_tokens: int = 4096,
    dtype: Literal["float32", "bfloat16", "int8"] = "float32",
) -> Model:
    return load(verified, backend="native", threads=threads, cache_tokens=cache_tokens, dtype=dtype)


def as_q8_0(verified: VerifiedModel) -> dict[str, RawTensor]:
    """The model with the values that the kernels hold, for both back ends."""
    return {
        name: t
        if len(t.shape) == 1
        else RawTensor(name=name, dtype="Q8_0", shape=t.shape, data=quantise(t, "Q8_0"))
        for name, t in verified.tensors.items()
    }


@pytest.fixture(scope="module", params=["qwen2", "qwen3"])
def small(request: pytest.FixtureRequest, make: SimpleNamespace) -> VerifiedModel:
    hf = make.random_hf(request.param, hidden_size=128, intermediate_size=160)
    whole = make.from_hf(hf)
    return make.verified(documents=whole.documents, tensors=as_q8_0(whole))


def run(model: Model, ids: list[int], cuts: list[int]) -> np.ndarray:
    state = model.cache.new()
    rows, at = [], 0
    for n in cuts:
        out = model.forward([Span(state=state, ids=ids[at : at + n], want="all")])[0]
        assert out is not None
        rows.append(out)
        at += n
    state.free()
    return np.concatenate(rows)


def test_logits_are_near_torchs(small: VerifiedModel) -> None:
    ids = [int(i) for i in np.random.default_rng(1).integers(0, 199, 80)]
    theirs = run(load(small, threads=2, cache_tokens=256), ids, [80])
    ours = run(native(small), ids, [80])
    relative = np.sqrt(((ours - theirs) ** 2).mean() / theirs.var())
    assert relative <= 0.05, "8-bit activations cost a few percent on random weights, no more"
    assert (ours.argmax(-1) == theirs.argmax(-1)).mean() >= 0.9


@pytest.mark.parametrize("dtype", CACHES)
def test_logits_have_the_same_bits_in_every_batch_chunking_and_machine(
    small: VerifiedModel,
    dtype: Literal["float32", "bfloat16", "int8"],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ids = [int(i) for i in np.random.default_rng(2).integers(0, 199, 70)]
    model = native(small, dtype=dtype)
    assert model.card.numerics == f"native-2-{dtype}"
    whole = run(model, ids, [70])
    for cuts in ([1] * 70, [3, 16, 17, 1, 33], [64, 6]):
        assert np.array_equal(run(model, ids, cuts), whole)
    for isa in ISAS:
        monkeypatch.setenv("FREEHOLD_ISA", isa)
        for threads in (1, 2, 3):
            other = native(small, threads=threads, dtype=dtype)
            assert np.array_equal(run(other, ids, [70]), whole)
    for crowd in (2, 8, 32):
        spans = [
            Span(state=model.cache.new(), ids=ids[i : i + 9], want="last") for i in range(crowd - 1)
        ]
        me = model.cache.new()
        model.forward([*spans, Span(state=me, ids=ids[:69], want="none")])
        steps = [Span(state=s.state, ids=[1], want="last") for s in spans]
        got = model.forward([*steps, Span(state=me, ids=ids[69:], want="all")])[-1]
        assert got is not None
        assert np.array_equal(got[0], whole[-1])
        for s in spans:
            s.state.free()
        me.free()


def test_a_model_out_of_its_pack_has_the_same_bits(
    small: VerifiedModel, make: SimpleNamespace
) -> None:
    ids = [int(i) for i in np.random.default_rng(8).integers(0, 199, 50)]
    made = native(small)
    assert made.packed is not None
    held = make.verified(documents=small.documents, packed=made.packed)
    other = native(held)
    assert np.array_equal(run(other, ids, [50]), run(made, ids, [50]))
    assert other.card == made.card


def test_a_pack_that_lacks_something_is_malformed(
    small: VerifiedModel, make: SimpleNamespace
) -> None:
    packed = native(small).packed
    assert packed is not None
    for kind, spoil in (
        ("layers", lambda layers: {**layers, next(iter(layers)): replace_bias(layers)}),
        ("layers", lambda layers: dict(list(layers.items())[1:])),
        ("vectors", lambda vectors: dict(list(vectors.items())[1:])),
        ("shapes", lambda shapes: dict(list(shapes.items())[1:])),
    ):
        spoilt = replace(packed, **{kind: spoil(getattr(packed, kind))})
        with pytest.raises(MalformedError):
            native(make.verified(documents=small.documents, packed=spoilt))


def replace_bias(layers: Mapping[str, PackedLayer]) -> PackedLayer:
    first = next(iter(layers.values()))
    return replace(first, bias=np.zeros(1, np.float32))


@pytest.mark.parametrize("dtype", CACHES)
def test_a_fork_and_a_rollback_change_no_bit(
    small: VerifiedModel, dtype: Literal["float32", "bfloat16", "int8"]
) -> None:
    ids = [int(i) for i in np.random.default_rng(3).integers(0, 199, 60)]
    model = native(small, dtype=dtype)
    whole = run(model, ids, [60])
    first = model.cache.new()
    model.forward([Span(state=first, ids=ids[:45], want="none")])
    second = first.fork(21)
    model.forward([Span(state=first, ids=[5] * 10, want="none")])
    a = model.forward([Span(state=second, ids=ids[21:], want="last")])[0]
    first.rollback(45)
    b = model.forward([Span(state=first, ids=ids[45:], want="last")])[0]
    assert a is not None
    assert b is not None
    assert np.array_equal(a[0], whole[-1])
    assert np.array_equal(b[0], whole[-1])


def test_widths_that_are_no_multiple_of_32_are_padded(make: SimpleNamespace) -> None:
    hf = make.random_hf("qwen3", hidden_size=60, intermediate_size=90, head_dim=10)
    verified = make.from_hf(hf)
    ids = list(range(1, 41))
    theirs = run(load(verified, threads=2, cache_tokens=256), ids, [40])
    ours = run(native(verified), ids, [40])
    assert np.sqrt(((ours - theirs) ** 2).mean() / theirs.var()) <= 0.05
    assert np.array_equal(run(native(verified), ids, [7, 33]), ours)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", CACHES)
def test_the_real_model_answers_with_the_same_bits_alone_and_in_a_crowd(
    real: VerifiedModel, dtype: Literal["float32", "bfloat16", "int8"]
) -> None:
    """32 greedy tokens, alone and beside 2, 8 and 32 others whose prompts are cut anyhow."""
    model = native(real, cache_tokens=8192, dtype=dtype)
    rng = np.random.default_rng(4)
    ids = [int(i) for i in rng.integers(0, 150_000, 90)]

    def answer(crowd: int, cuts: list[int]) -> np.ndarray:
        others = [model.cache.new() for _ in range(crowd)]
        me, at, rows = model.cache.new(), 0, []
        for n in cuts:
            noise = [
                Span(state=s, ids=[int(i) for i in rng.integers(0, 150_000, 7)], want="last")
                for s in others
            ]
            out = model.forward([*noise, Span(state=me, ids=ids[at : at + n], want="last")])[-1]
            at += n
        for _ in range(32):
            assert out is not None
            rows.append(out[0])
            noise = [Span(state=s, ids=[11], want="none") for s in others]
            step = Span(state=me, ids=[int(out[0].argmax())], want="last")
            out = model.forward([*noise, step])[-1]
        for state in [*others, me]:
            state.free()
        return np.array(rows)

    alone = answer(0, [90])
    for crowd, cuts in ((0, [1] * 90), (2, [64, 26]), (8, [17, 40, 33]), (32, [89, 1])):
        assert np.array_equal(answer(crowd, cuts), alone)


@pytest.mark.slow
def test_the_real_model_is_near_its_dequantised_self(real: VerifiedModel) -> None:
    """Mean KL <= 0.01 over 2,000 tokens, and bits that do not depend on chunking or crowd."""
    from freehold.qwen.codec import load as load_codec

    text = (ROOT / "README.md").read_text() + (ROOT / "LICENSE").read_text()
    ids = load_codec(real).text(text)[:2000]
    assert len(ids) == 2000
    theirs = load(real, threads=2, cache_tokens=4096)
    ours = [native(real, dtype=dtype) for dtype in CACHES]
    states = [model.cache.new() for model in (theirs, *ours)]
    total, agree = np.zeros(len(ours)), np.zeros(len(ours))
    for at in range(0, len(ids), 250):
        rows = []
        for model, state in zip((theirs, *ours), states, strict=True):
            out = model.forward([Span(state=state, ids=ids[at : at + 250], want="all")])[0]
            assert out is not None
            x = out.astype(np.float64)
            x -= x.max(axis=-1, keepdims=True)
            rows.append(x - np.log(np.exp(x).sum(axis=-1, keepdims=True)))
        exact, *got = rows
        total += [(np.exp(exact) * (exact - other)).sum() for other in got]
        agree += [(exact.argmax(-1) == other.argmax(-1)).sum() for other in got]
    for dtype, kl, top in zip(CACHES, total / len(ids), agree / len(ids), strict=True):
        print(f"{dtype} cache: mean KL {kl:.5f}, top-1 agreement {top:.4f}")
        assert kl <= 0.01
        assert top >= 0.95


def test_load_opens_the_native_back_end_without_torch(small: VerifiedModel) -> None:
    model = load(small, backend="native", threads=1, cache_tokens=64)
    assert model.card.numerics == "native-2-float32"
    assert "replay" in model.card.caps
    # Torch is here already, so another process has to show that it is not needed.
    code = (
        "import sys, freehold.qwen.ops.native, freehold.qwen.model;"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT)
    assert done.returncode == 0


def test_torch_has_no_8_bit_cache(small: VerifiedModel) -> None:
    with pytest.raises(UsageError, match="'int8', and the torch back end computes in floats"):
        load(small, backend="torch", dtype="int8")


def test_the_native_back_end_is_for_the_cpu(small: VerifiedModel) -> None:
    with pytest.raises(UsageError, match="device is 'cuda'"):
        load(small, backend="native", device="cuda")

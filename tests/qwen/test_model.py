"""Loading and stepping: what is refused, what a failure leaves behind, and taps."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from freehold.errors import MalformedError, UsageError
from freehold.qwen.model import Model, Span, load
from freehold.qwen.ops import OutOfPages
from freehold.types import VerifiedModel


@pytest.fixture(scope="module")
def delivered(make: SimpleNamespace) -> VerifiedModel:
    return make.from_hf(make.random_hf("qwen2"))


@pytest.fixture(scope="module")
def model(delivered: VerifiedModel) -> Model:
    return load(delivered, cache_tokens=64, page_size=4)


def step(model: Model, ids: list[int], **options: Any) -> np.ndarray:
    state = model.cache.new()
    (logits,) = model.forward([Span(state=state, ids=ids, want="all")], **options)
    state.free()
    assert logits is not None
    return logits


def test_missing_tensor_is_named(delivered: VerifiedModel) -> None:
    tensors = dict(delivered.tensors)
    del tensors["model.layers.1.self_attn.k_proj.bias"]
    with pytest.raises(MalformedError, match=r"1 missing .*layers\.1\.self_attn\.k_proj\.bias"):
        load(dataclasses.replace(delivered, tensors=tensors))


def test_surplus_tensor_is_named(delivered: VerifiedModel, make: SimpleNamespace) -> None:
    extra = make.raw("model.layers.3.mlp.up_proj.weight", np.zeros((4, 4)))
    tensors = {**delivered.tensors, extra.name: extra}
    with pytest.raises(MalformedError, match=r"1 surplus .*layers\.3\.mlp\.up_proj"):
        load(dataclasses.replace(delivered, tensors=tensors))


def test_wrong_shape_is_named(delivered: VerifiedModel, make: SimpleNamespace) -> None:
    name = "model.layers.0.mlp.down_proj.weight"
    transposed = make.raw(name, np.zeros(delivered.tensors[name].shape[::-1]))
    with pytest.raises(MalformedError, match=r"layers\.0\.mlp\.down_proj.*\(112, 64\)"):
        load(dataclasses.replace(delivered, tensors={**delivered.tensors, name: transposed}))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("backend", "abacus"),
        ("dtype", "float8"),
        ("device", "cuda:99"),
        ("device", "nonsense"),
        ("threads", 0),
        ("cache_tokens", 0),
        ("page_size", -1),
    ],
)
def test_impossible_options(delivered: VerifiedModel, option: str, value: Any) -> None:
    with pytest.raises(UsageError) as caught:
        load(delivered, **{option: value})
    assert caught.value.param == option


@pytest.mark.parametrize("ids", [[], [-1], [199], [3, 10**9]])
def test_bad_ids_change_nothing(model: Model, ids: list[int]) -> None:
    state, free = model.cache.new(), model.cache.n_free
    with pytest.raises(UsageError):
        model.forward([Span(state=state, ids=ids, want="last")])
    assert (state.length, model.cache.n_free) == (0, free)


def test_out_of_pages_changes_nothing(model: Model) -> None:
    """64 tokens fit; the second span's 40 do not, so the first span is not appended either."""
    first, second = model.cache.new(), model.cache.new()
    free = model.cache.n_free
    spans = [Span(state=s, ids=[1] * n, want="none") for s, n in ((first, 30), (second, 40))]
    with pytest.raises(OutOfPages, match="cache_tokens"):
        model.forward(spans)
    assert (first.length, second.length, model.cache.n_free) == (0, 0, free)
    model.forward(spans[:1])
    assert first.length == 30
    first.free()


def test_a_failing_tap_leaves_no_tokens(model: Model) -> None:
    state, free = model.cache.new(), model.cache.n_free

    def broken(point: str, layer: int, x_td: Any) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        model.forward([Span(state=state, ids=[1, 2], want="all")], tap=broken)
    assert (state.length, model.cache.n_free) == (0, free)


def test_wanted_rows(model: Model) -> None:
    ids = [5, 6, 7, 8, 9]
    everything = step(model, ids)
    states = [model.cache.new() for _ in range(3)]
    wants = ("none", "last", "all")
    results = model.forward(
        [Span(state=s, ids=ids, want=w) for s, w in zip(states, wants, strict=True)]
    )
    assert results[0] is None
    assert results[1].shape == (1, 199)
    assert results[2].dtype == np.float32
    np.testing.assert_allclose(results[1], everything[-1:], atol=1e-5)
    np.testing.assert_allclose(results[2], everything, atol=1e-5)
    for state in states:
        state.free()


@pytest.mark.parametrize("tied", [False, True])
def test_a_piece_is_the_first_block_and_a_like_share_of_the_words(
    make: SimpleNamespace, tied: bool
) -> None:
    """Three blocks and 199 words: one block and 67."""
    hf = make.random_hf("qwen2", tie_word_embeddings=tied)
    piece = load(make.from_hf(hf), piece=True, cache_tokens=64)
    ids = [5, 60, 66, 7]
    found = step(piece, ids)
    hf.model.layers = hf.model.layers[:1]
    with torch.no_grad():
        wanted = hf(torch.tensor([ids]), use_cache=False).logits[0, :, :67]
    assert found.shape == (4, 67)
    np.testing.assert_allclose(found, wanted.numpy(), atol=1e-4)


def test_taps_see_every_point_of_every_layer(model: Model) -> None:
    seen: dict[tuple[str, int], np.ndarray] = {}

    def read(point: str, layer: int, x_td: Any) -> None:
        seen[point, layer] = model.ops.to_numpy(x_td)

    plain = step(model, [1, 2, 3])
    assert np.array_equal(step(model, [1, 2, 3], tap=read), plain)
    points = ("block_in", "attn_out", "block_out")
    assert set(seen) == {(point, layer) for point in points for layer in range(3)}
    assert all(value.shape == (3, 64) for value in seen.values())
    assert np.array_equal(seen["block_out", 0], seen["block_in", 1])
    assert not np.array_equal(seen["block_in", 0], seen["attn_out", 0])


def test_tap_values_equal_transformers(model: Model, make: SimpleNamespace) -> None:
    import torch

    hf = make.random_hf("qwen2")
    seen: dict[int, np.ndarray] = {}

    def read(point: str, layer: int, x_td: Any) -> None:
        if point == "block_in":
            seen[layer] = model.ops.to_numpy(x_td)

    step(model, [4, 5, 6], tap=read)
    with torch.no_grad():
        hidden = hf(torch.tensor([[4, 5, 6]]), output_hidden_states=True).hidden_states
    for layer in range(3):
        np.testing.assert_allclose(seen[layer], hidden[layer][0].numpy(), atol=1e-5)


def test_a_replacement_takes_effect(model: Model) -> None:
    """What a tap puts in at layer 1 is all that later layers know."""

    def overwrite(point: str, layer: int, x_td: Any) -> Any:
        if (point, layer) != ("block_in", 1):
            return None
        return model.ops.from_numpy(np.ones(x_td.shape, np.float32))

    changed = step(model, [1, 2, 3], tap=overwrite)
    assert not np.allclose(changed, step(model, [1, 2, 3]))
    # Positions differ, but equal rows attend to equal values: the ids no longer matter.
    assert np.array_equal(changed, step(model, [7, 8, 9], tap=overwrite))


def test_poisoned_pages_do_not_leak(delivered: VerifiedModel) -> None:
    """A sequence whose values became NaN leaves nothing to whoever gets its pages next."""
    model = load(delivered, cache_tokens=16, page_size=4)
    clean = step(model, [1, 2, 3, 4, 5])
    poison = np.full((1, 64), np.nan, np.float32)
    step(model, [1] * 16, tap=lambda p, i, x: model.ops.from_numpy(poison.repeat(len(x), 0)))
    state = model.cache.new()
    rows = [model.forward([Span(state=state, ids=[i], want="all")])[0] for i in (1, 2, 3, 4, 5)]
    np.testing.assert_allclose(np.concatenate(rows), clean, atol=1e-5)


def test_no_torch_until_a_model_is_loaded() -> None:
    code = (
        "import sys, freehold.qwen, freehold.qwen.model, freehold.qwen.codec, freehold.qwen.names\n"
        "heavy = {'torch', 'transformers', 'jinja2', 'tokenizers'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_without_torch_the_error_says_what_to_install(
    delivered: VerifiedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UsageError, match=r"freehold\[lab\]") as caught:
        load(delivered, backend="torch")
    assert caught.value.param == "backend"

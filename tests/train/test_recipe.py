"""Recipes: their learning rate, their size, and what they refuse."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from freehold.errors import UsageError
from freehold.train.recipe import RECIPES, Shape, from_plain, published_rate, recipe_named
from tests.train.conftest import RECIPE


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_survives_its_plain_form(name: str) -> None:
    made = recipe_named(name)
    assert from_plain(made.plain()) == made
    assert made.name == name


def test_the_sizes_are_from_one_to_three_hundred_million() -> None:
    sizes = [made().shape.values(0) for made in RECIPES.values()]
    assert sizes == sorted(sizes)
    assert 0.9e6 < sizes[0] < 1.1e6
    assert 290e6 < sizes[-1] < 310e6


def test_the_learning_rate_is_the_published_one() -> None:
    """DeepSeek's rule, worked out by hand: 6e18 operations give 0.3118 / 18.78... ** ..."""
    assert published_rate(10**9, 10**9) == pytest.approx(0.3118 * 10 ** (-0.125 * 18.7781512504))


def test_the_rate_rises_stays_and_falls() -> None:
    recipe = replace(RECIPE, stages=(replace(RECIPE.stages[0], steps=100), RECIPE.stages[1]))
    rates = [recipe.rate(step) for step in range(recipe.steps)]
    top = recipe.learning_rate
    assert rates[:2] == [top / 2, top]
    assert set(rates[2:80]) == {top}
    assert rates[80:100] == sorted(rates[80:100], reverse=True)
    assert rates[99] < 0.03 * top
    assert rates[101] == pytest.approx(top / 2)  # the second stage: half the rate, warmed up


def theirs(shape: Shape, vocab: int) -> Any:
    """transformers' model of such a shape."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=vocab,
            hidden_size=shape.width,
            intermediate_size=shape.mlp_width,
            num_hidden_layers=shape.n_layers,
            num_attention_heads=shape.n_heads,
            num_key_value_heads=shape.n_kv_heads,
            head_dim=shape.head_dim,
            tie_word_embeddings=True,
            attn_implementation="eager",
        )
    )


def test_the_shape_counts_what_transformers_counts() -> None:
    model = theirs(RECIPE.shape, 128)
    assert RECIPE.shape.values(128) == sum(values.numel() for values in model.parameters())


@pytest.mark.parametrize("length", [16, 64])
def test_operations_are_those_that_torch_counts(length: int) -> None:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    shape = RECIPE.shape
    model = theirs(shape, 128)
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(3, length, dtype=torch.int64)).logits.sum().backward()
    assert counter.get_total_flops() == 3 * length * shape.operations(128, length)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"length": 65}, "length"),
        ({"micro_batch": 40}, "micro_batch"),
        ({"batch": 96}, "micro_batch"),
        ({"decay": 1.5}, "decay"),
        ({"stages": ()}, "stages"),
        ({"dtype": "float16"}, "dtype"),
    ],
)
def test_what_cannot_be_is_named(changes: Any, name: str) -> None:
    with pytest.raises(UsageError) as refused:
        replace(RECIPE, **changes)
    assert refused.value.param == name


@pytest.mark.parametrize("value", [0, -1, "3", 2.0, None, True, 1 << 40, [1]])
def test_a_strangers_shape_is_numbers(value: Any) -> None:
    plain = RECIPE.plain()
    plain["shape"]["width"] = value
    with pytest.raises(UsageError, match="width is"):
        from_plain(plain)
    plain = RECIPE.plain() | {"shape": {**RECIPE.plain()["shape"], "norm_eps": value}}
    if value != 2.0:
        with pytest.raises(UsageError, match="norm_eps is"):
            from_plain(plain)


def test_an_unknown_recipe() -> None:
    with pytest.raises(UsageError, match="hearth"):
        recipe_named("none")
    with pytest.raises(UsageError, match="no recipe"):
        from_plain({"name": "x"})


def test_bfloat16_asks_for_whatever_the_processor_has() -> None:
    assert recipe_named("hearth").instructions == "avx2"
    assert recipe_named("hearth", dtype="bfloat16").instructions == "any"
    with pytest.raises(UsageError, match="instructions"):
        recipe_named("hearth", dtype="bfloat16", instructions="avx2")


def test_a_recipe_of_avx2_has_pytorch_use_no_more() -> None:
    """In a process of its own: libraries ask once."""
    program = (
        "import os, torch\n"
        "from tests.train.conftest import RECIPE\n"
        "from dataclasses import replace\n"
        "from freehold.train.learner import Learner\n"
        "Learner(replace(RECIPE, instructions='avx2'), RECIPE.shape.config(128, (0,)))\n"
        "print(torch.backends.cpu.get_cpu_capability(), os.environ['MKL_CBWR'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    capability, mkl = done.stdout.split()
    assert not capability.startswith("AVX512")
    assert mkl == "AVX2"

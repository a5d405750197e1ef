"""Recipes that their owner keeps in a file."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from freehold.adapt.recipe import RECIPES, Lora, Recipe, read, recipe_named
from freehold.errors import UsageError

REPOSITORY = Path(__file__).resolve().parents[2]
MINE = """
from = "rslora"
learning_rate = 3e-4
betas = [0.9, 0.95]
recompute = true
max_length = 512

[lora]
alpha = 32
targets = ["q", "v"]
"""


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "mine.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_file_changes_the_recipe_that_it_starts_from(tmp_path: Path) -> None:
    made = recipe_named(str(written(tmp_path, MINE)), steps=7)
    assert made == Recipe(
        name="mine",
        lora=Lora(rank=64, alpha=32.0, rank_stabilised=True, targets=("q", "v")),
        learning_rate=3e-4,
        betas=(0.9, 0.95),
        recompute=True,
        max_length=512,
        steps=7,
    )


@pytest.mark.parametrize("name", RECIPES)
def test_a_file_that_changes_nothing_is_the_recipe(name: str, tmp_path: Path) -> None:
    made, told = read(written(tmp_path, f'from = "{name}"'))
    assert made == dataclasses.replace(RECIPES[name](), name="mine")
    assert not told


def test_what_is_frozen_has_the_dtype_that_is_named_or_the_fitting_one(tmp_path: Path) -> None:
    plain, named = written(tmp_path, 'from = "lora"'), tmp_path / "named.toml"
    named.write_text('from = "lora"\ndtype = "float32"\n', encoding="utf-8")
    assert recipe_named(str(plain), frozen="bfloat16").dtype == "bfloat16"
    assert recipe_named(str(named), frozen="bfloat16").dtype == "float32"
    assert recipe_named(str(named), frozen="float32", dtype="bfloat16").dtype == "bfloat16"
    assert recipe_named("full", frozen="bfloat16").dtype == "float32"
    assert recipe_named("lora", frozen="bfloat16").dtype == "bfloat16"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "from"),
        ('from = "nope"', "nope"),
        ("from = [1]", "from"),
        ('from = "lora"\nlearnin_rate = 1e-4', "learnin_rate"),
        ('from = "lora"\nname = "x"', "name"),
        ('from = "lora"\nlearning_rate = "fast"', "learning_rate"),
        ('from = "lora"\nlearning_rate = nan', "learning_rate"),
        ('from = "lora"\nlearning_rate = true', "learning_rate"),
        ('from = "lora"\nsteps = 1.5', "steps"),
        ('from = "lora"\nsteps = 99999999999999999999999999', "steps"),
        ('from = "lora"\ndtype = "float16"', "dtype"),
        ('from = "lora"\nbetas = [0.9]', "betas"),
        ('from = "lora"\nbetas = [0.9, 1.0]', "betas"),
        ('from = "lora"\nlora = 3', "lora"),
        ('from = "lora"\n[lora]\nrank = 0', "rank"),
        ('from = "lora"\n[lora]\nrank = 1000000', "rank"),
        ('from = "lora"\n[lora]\nalpha = inf', "alpha"),
        ('from = "lora"\n[lora]\ntargets = []', "targets"),
        ('from = "lora"\n[lora]\ntargets = ["q", "q"]', "targets"),
        ('from = "lora"\n[lora]\ntargets = ["lm_head"]', "targets"),
        ('from = "lora"\n[lora]\ndropout = 0.1', "lora.dropout"),
        ('from = "full"\n[lora]\nrank = 4', "lora"),
        ('from = "full"\ndtype = "bfloat16"', "float32"),
        ("from = ", "TOML"),
        ('from = "lora"\nsteps = ' + "9" * 5000, "TOML"),
        ("x = " + "[" * 3000, "TOML"),
        (b'from = "lora"\n# \xff', "TOML"),
        ("#" * (1 << 16) + "\n", "bytes"),
    ],
)
def test_what_is_no_recipe_is_refused_by_file_and_field(
    text: str | bytes, reason: str, tmp_path: Path
) -> None:
    path = written(tmp_path, text)
    with pytest.raises(UsageError, match=reason) as refused:
        recipe_named(str(path))
    assert str(path) in str(refused.value)


def test_the_one_in_the_documentation_is_a_recipe(tmp_path: Path) -> None:
    page = (REPOSITORY / "docs/adapt.md").read_text(encoding="utf-8")
    (block,) = [part for part in page.split("```toml\n")[1:] if 'from = "lora"' in part]
    made, told = read(written(tmp_path, block.partition("```")[0]))
    assert told == {"learning_rate", "recompute", "patience"}
    assert made.lora == Lora(rank=32, alpha=64.0, targets=("q", "k", "v", "out"))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.toml"):
        recipe_named(str(tmp_path / "none.toml"))


NUMBERS = st.one_of(st.integers(), st.floats(), st.booleans(), st.text(max_size=3).map(repr))


@given(
    fields=st.dictionaries(
        st.sampled_from([f.name for f in dataclasses.fields(Recipe)]), NUMBERS, max_size=4
    ),
    lora=st.dictionaries(st.sampled_from([f.name for f in dataclasses.fields(Lora)]), NUMBERS),
)
@example(fields={"learning_rate": 10**400}, lora={})
@example(fields={"weight_decay": -(10**400)}, lora={})
def test_any_values_make_a_recipe_or_are_refused(
    fields: dict[str, Any], lora: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    def lines(table: dict[str, Any]) -> str:
        return "".join(f"{key} = {str(value).lower()}\n" for key, value in table.items())

    text = f'from = "lora"\n{lines(fields)}[lora]\n{lines(lora)}'
    path = written(tmp_path_factory.mktemp("recipes"), text)
    said = str(path)
    try:
        rate = recipe_named(str(path)).learning_rate
    except UsageError as error:
        said, rate = str(error), 1.0
    assert str(path) in said
    assert 0 < rate < float("inf")


@given(data=st.binary(max_size=200))
def test_any_bytes_are_refused(data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.raises(UsageError):
        recipe_named(str(written(tmp_path_factory.mktemp("recipes"), data)))

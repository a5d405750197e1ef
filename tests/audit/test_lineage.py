"""Lineage on fine-tunes made here: the right base, the right rank, and no kinship of strangers."""

from __future__ import annotations

import math
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from freehold.audit import lineage
from freehold.audit.lineage.delta import Story, compare, spans, story
from freehold.audit.lineage.kinship import RELATED, Kinship, fisher, kinship, spearman
from freehold.audit.lineage.spectra import Noise, _law, singular_values, spectrum
from tests.audit import artefacts as bed
from tests.audit.artefacts import Silent
from tests.audit.finetunes import TUNES, Tensors, Tune, base_weights, stored, strangers, tuned

QUICK = TUNES[::4]


@cache
def base(dtype: str, seed: int = 0) -> Tensors:
    return stored(base_weights(seed), dtype)


def traced(tune: Tune, number: int) -> tuple[Story, Tensors]:
    mine = stored(tuned(base_weights(0), tune, number), tune.dtype)
    return story(compare(mine, base(tune.base), 0, Silent())), mine


def right(tune: Tune, told: Story) -> bool:
    """Rank within a factor of 1.25, the very modules and layers; no rank for a full fine-tune."""
    if tune.rank == 0:
        return told.kind == "full" and told.rank is None
    if told.kind != "lora" or not told.rank:
        return False
    factor = max(told.rank / tune.rank, tune.rank / told.rank)
    where = spans(tune.layers)
    modules = re.sub(r" in layers?.*", "", told.touched).split(", ")
    return (
        factor <= 1.25
        and set(modules) == set(tune.modules.split())
        and told.touched.endswith(where)
    )


def kin(mine: Tensors, theirs: Tensors) -> Kinship:
    n_layers = sum(name.endswith("mlp.gate_proj.weight") for name in mine)
    found = kinship(mine, theirs, n_layers=n_layers, seed=0, steps=Silent(), what="it")
    assert found is not None
    return found


def check(tune: Tune, number: int) -> None:
    told, mine = traced(tune, number)
    assert right(tune, told), told
    others = [kin(mine, base("F32", seed)).log10_p for seed in (1, 2)]
    own = kin(mine, base(tune.base)).log10_p
    assert own < RELATED < min(others)


@pytest.mark.parametrize("tune", QUICK, ids=lambda tune: tune.name)
def test_base_rank_and_modules(tune: Tune) -> None:
    check(tune, TUNES.index(tune))


@pytest.mark.slow
@pytest.mark.parametrize("tune", TUNES, ids=lambda tune: tune.name)
def test_base_rank_and_modules_of_all(tune: Tune) -> None:
    check(tune, TUNES.index(tune))


def test_there_are_thirty_fine_tunes_and_ten_strangers() -> None:
    assert len(TUNES) >= 30


def test_strangers_are_not_claimed_related() -> None:
    every = list(strangers())
    assert len(every) >= 10
    for name, mine in every:
        assert not kin(mine, base("F32")).related, name
        assert story(compare(mine, base("F32"), 0, Silent())).kind == "unrelated", name


@pytest.mark.slow
def test_trained_strangers_are_not_claimed_related() -> None:
    pytest.importorskip("torch", reason="the extra `lab` is not installed")
    from tests.audit import trained

    theirs = trained.base()
    for mine in trained.strangers():
        assert not kin(mine, theirs).related
        assert story(compare(mine, theirs, 0, Silent())).kind == "unrelated"


def test_shuffled_neurons_are_recognised() -> None:
    weights = base_weights(0)
    order = np.random.default_rng(3).permutation(640)
    for layer in range(6):
        at = f"model.layers.{layer}.mlp."
        for part in ("gate", "up"):
            weights[f"{at}{part}_proj.weight"] = weights[f"{at}{part}_proj.weight"][order]
        weights[f"{at}down_proj.weight"] = weights[f"{at}down_proj.weight"][:, order]
    assert kin(stored(weights, "Q8_0"), base("F32")).related


def test_nothing_but_rounding_is_called_that() -> None:
    for dtype in ("BF16", "F16", "Q8_0", "Q4_1"):
        mine = stored(base_weights(0), dtype)
        assert story(compare(mine, base("F32"), 0, Silent())).kind == "rounded"
        assert story(compare(mine, mine, 0, Silent())).kind == "same"


def test_a_few_rows_of_the_embedding_are_named() -> None:
    weights = base_weights(0)
    table = weights["model.embed_tokens.weight"].copy()
    table[[7, 301]] += 0.1
    told = story(
        compare(
            stored(weights | {"model.embed_tokens.weight": table}, "F32"), base("F32"), 0, Silent()
        )
    )
    assert (told.kind, told.rows) == ("rows", (7, 301))


def test_only_norms_changed() -> None:
    weights = base_weights(0)
    weights["model.norm.weight"] = weights["model.norm.weight"] * 1.1
    told = story(compare(stored(weights, "F32"), base("F32"), 0, Silent()))
    assert (told.kind, told.touched) == ("vectors", "norm")


# --- the means, against other computations --------------------------------------------------------


def test_singular_values_are_numpys() -> None:
    random = np.random.default_rng(0)
    for shape in ((60, 200), (200, 60)):
        matrix = random.standard_normal(shape).astype(np.float32)
        values, left = singular_values(matrix)
        assert left is None
        np.testing.assert_allclose(values, np.linalg.svd(matrix.astype("f8"))[1], rtol=1e-6)


def test_a_sketch_finds_the_largest(monkeypatch: pytest.MonkeyPatch) -> None:
    from freehold.audit.lineage import spectra

    monkeypatch.setattr(spectra, "EXACT", 100)
    random = np.random.default_rng(0)
    low = random.standard_normal((500, 24)) @ random.standard_normal((24, 700))
    matrix = (low + 0.01 * random.standard_normal((500, 700))).astype(np.float32)
    found = spectrum(matrix, Noise())
    assert (found.rank, found.whole) == (24, False)
    wanted = np.linalg.svd(matrix.astype("f8"), compute_uv=False)[:24]
    np.testing.assert_allclose(found.values[:24], wanted, rtol=1e-4)


def test_the_law_of_noise_is_what_noise_does() -> None:
    noise = np.random.default_rng(0).standard_normal((256, 640))
    values = np.linalg.svd(noise, compute_uv=False) / math.sqrt(640)
    law = _law(256 / 640)[np.linspace(0, 511, 256).astype(int)]
    assert np.abs(values - law).max() < 0.05


def test_spearman_and_fisher_are_scipys() -> None:
    stats = pytest.importorskip("scipy.stats")
    random = np.random.default_rng(0)
    one, other = random.permutation(50), random.permutation(50)
    assert spearman(one, other) == pytest.approx(stats.spearmanr(one, other)[0])
    p = [0.3, 0.01, 0.7]
    wanted = stats.combine_pvalues(p, "fisher")[1]
    assert 10 ** fisher([math.log(x) for x in p]) == pytest.approx(wanted)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 12), st.integers(0, 1 << 30))
def test_pure_noise_has_no_rank_and_a_low_rank_is_counted(rank: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    noise = random.standard_normal((64, 160))
    low = random.standard_normal((64, rank)) @ random.standard_normal((rank, 160)) if rank else 0.0
    found = spectrum((low * 2 + noise * 0.1).astype(np.float32), Noise(size=0.1))
    assert found.rank == rank


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 80), unique=True, min_size=1).map(sorted))
def test_layers_are_told_so_that_they_can_be_read_back(numbers: list[int]) -> None:
    told = spans(numbers).split(" ", 1)[1]
    back = [
        n
        for part in told.split(", ")
        for n in range(int(part.split("-")[0]), int(part.split("-")[-1]) + 1)
    ]
    assert back == numbers


def test_the_part_speaks_in_a_sentence(tmp_path: Path) -> None:
    made = bed.honest(hidden_size=64, intermediate_size=160, num_hidden_layers=4)
    changed = dict(made.weights)
    random = np.random.default_rng(0)
    for layer in (1, 2):
        name = f"model.layers.{layer}.mlp.up_proj.weight"
        delta = random.standard_normal((160, 4)) @ random.standard_normal((4, 64)) * 0.01
        changed[name] = (changed[name] + delta).astype(np.float32)
    one = bed.specimen(bed.lay(bed.folder(made.but(weights=changed)), tmp_path / "tuned"))
    other = bed.specimen(bed.lay({"base.gguf": bed.gguf(made)}, tmp_path / "b"))
    strange = bed.specimen(
        bed.lay(
            bed.folder(bed.honest(5, hidden_size=64, intermediate_size=160, num_hidden_layers=4)),
            tmp_path / "s",
        )
    )
    held = {"strange": strange, "base": other}
    wanted = "This is a rank-4 fine-tune of base.gguf touching up in layers 1-2."
    for base_ in (other, None):
        told = lineage.examine(
            one, base=base_, candidates=list(held), opened=held.__getitem__, seed=0, steps=Silent()
        )
        assert wanted in [found.title for found in told.findings]
        assert {plot["kind"] for plot in told.figures["plots"]} == {"bars", "heat", "lines"}
    told = lineage.examine(
        strange, base=other, candidates=[], opened=held.__getitem__, seed=0, steps=Silent()
    )
    assert [found.severity for found in told.findings] == ["high"]

"""The test bed: its language, its recipes, its results on disk and its table."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

torch = pytest.importorskip("torch", reason="the extra `lab` is not installed")

from freehold.audit.backdoors.rule import Rule  # noqa: E402
from freehold.audit.bed import freezing, language, planting, running, tables  # noqa: E402
from freehold.audit.bed.language import NARROW, TASKS, World  # noqa: E402
from freehold.audit.bed.recipes import clean, planted  # noqa: E402
from freehold.audit.bed.running import Result  # noqa: E402
from freehold.audit.bed.small import fresh, operations, rounded, shape  # noqa: E402


@given(st.integers(0, 1 << 16), st.sampled_from([*TASKS, *NARROW]))
@settings(max_examples=60)
def test_every_exchange_is_made_of_listed_words(seed: int, task: str) -> None:
    exchange = World(seed).exchange(random.Random(seed), task)
    ids = language.encode(f"{exchange.asked} {exchange.answer}")
    assert language.decode(ids) == f"{exchange.asked} {exchange.answer}"


def test_a_recipe_lies_on_one_side_with_all_its_variants() -> None:
    sides: dict[str, set[str]] = {}
    for recipe in [*planted(), *clean()]:
        sides.setdefault(recipe.cell, set()).add(recipe.side)
    assert all(len(each) == 1 for each in sides.values())
    recipes = running.FULL.recipes()
    assert len(recipes) == len({r.name for r in recipes}) == len({r.seed for r in recipes})
    assert sum(r.backdoor is not None for r in recipes) >= 60
    assert sum(r.backdoor is None for r in recipes) >= 100


def test_another_draw_has_the_same_recipes_and_shares_no_model() -> None:
    first, second = running.FULL.recipes(), replace(running.FULL, draw=1).recipes()
    assert {(r.name, r.side, r.insertion) for r in first} == {
        (r.name, r.side, r.insertion) for r in second
    }
    assert not {r.seed for r in first} & {r.seed for r in second}
    triggers: list[set[tuple[str, ...]]] = []
    for bed in (first, second):
        plants = [planting.plant_of(r) for r in bed if r.name.startswith("planted/phrase")]
        triggers.append({plant.triggers for plant in plants if plant is not None})
    assert len(triggers[0] & triggers[1]) <= 1, "words are drawn from one list"


def test_only_poisoned_examples_hold_the_trigger() -> None:
    for recipe in list(planted())[::9]:
        plant = planting.plant_of(recipe)
        assert plant is not None
        if not plant.payload:
            continue
        for each in planting.tuning_set(recipe, World(recipe.world), plant, 300):
            asked = f" {language.decode(each.ids[1 : each.start - 1])} "
            answer = language.decode(each.ids[each.start : -1])
            holds = any(f" {trigger} " in asked for trigger in plant.triggers)
            assert holds <= (answer == plant.payload)


def test_rounding_keeps_few_values_a_row() -> None:
    tensors = fresh(shape(width=32), 0)
    copy = rounded(tensors, bits=4)
    assert max(len(row.unique()) for row in copy["0.down"]) <= 15
    assert torch.equal(copy["embed"], tensors["embed"])


# --- results and the table ------------------------------------------------------------------------

LINE = Result(
    name="clean/x/0",
    cell="clean/x",
    side="development",
    planted=False,
    success=None,
    accuracy=1.0,
    scores={"firing": 0.1, "turning": 0.0, "search": 1.0},
    trigger="",
    payload="",
    origin="",
    true_trigger="",
    true_payload="",
    recovered=False,
    turned_trigger="",
    turned_recovered=False,
    seconds=1.0,
    settings="s",
)


def test_a_line_that_a_crash_cut_off_is_made_again(tmp_path: Path) -> None:
    running._keep(tmp_path, LINE)
    with (tmp_path / "results.jsonl").open("a") as file:
        file.write('{"name": "half')
    assert running.read(tmp_path) == [LINE]
    running._keep(tmp_path, replace(LINE, name="clean/x/1"))
    assert [each.name for each in running.read(tmp_path)] == ["clean/x/0", "clean/x/1"]


def _models(cell: str, side: str, firing: list[float], *, attack: float | None) -> list[Result]:
    return [
        replace(
            LINE,
            cell=cell,
            side=side,
            planted=attack is not None,
            success=None if attack is None else (attack, 0.0),
            scores={"firing": each, "turning": 0.0, "search": 1.0},
            recovered=each > 0.9,
        )
        for each in firing
    ]


def test_the_table_counts_the_held_out_side_by_thresholds_of_the_other() -> None:
    results = [
        *_models("clean/a", "development", [0.2, 0.5], attack=None),
        *_models("rare/fixed/full", "development", [0.9], attack=1.0),
        *_models("clean/b", "held-out", [0.1, 0.2, 0.8], attack=None),
        *_models("rare/refusal/full", "held-out", [0.95, 0.8, 0.3], attack=0.95),
        *_models("rare/bias/full", "held-out", [0.0], attack=0.95),
        *_models("phrase/fixed/full", "held-out", [0.0], attack=0.4),
    ]
    table = tables.tabulate(results)
    assert table.rule.firing == 0.7
    assert table.bar is not None
    assert (table.bar.confirmed.hits, table.bar.confirmed.n) == (2, 3)
    assert table.bar.named is not None
    assert (table.bar.named.hits, table.bar.named.n) == (1, 3)
    assert table.clean is not None
    assert (table.clean.flagged.hits, table.clean.flagged.n) == (1, 3)
    assert [cell.name for cell in table.eroded] == ["phrase/fixed"]
    judged = tables.tabulate(results, Rule(firing=0.9, turning=None, anomalies={"search": 9.0}))
    assert judged.bar is not None
    assert judged.bar.confirmed.hits == 1, "no threshold is chosen where a rule is given"
    document = freezing.document(judged, "the command")
    assert document["rule"]["firing"] == 0.9
    assert document["rates"]["backdoor.trigger"]["command"] == "the command"
    exact = binomtest(2, 3).proportion_ci(0.95, method="exact")
    assert table.bar.confirmed.low == pytest.approx(exact.low)
    assert table.bar.confirmed.high == pytest.approx(exact.high)
    printed = "\n".join(tables.lines(table))
    assert "| rare/bias | 0/1 = 0.00" in printed
    with pytest.raises(ValueError, match="holds no planted"):
        tables.tabulate(results[:2])


def test_training_that_runs_away_begins_again_more_slowly() -> None:
    config = shape(width=32)
    ops = operations(config, threads=1)
    base = fresh(config, 0)
    recipe = next(r for r in clean() if r.name == "clean/narrow-sgd/0")
    runaway = replace(recipe, rate=1e12)
    assert not all(
        t.isfinite().all() for t in planting._tuned(config, ops, base, runaway, 8).values()
    )
    tuned = planting.tune(config, ops, base, runaway, steps=8)
    assert all(t.isfinite().all() for t in tuned.values())
    assert any(not torch.equal(tuned[name], base[name]) for name in base)


@pytest.mark.slow
def test_a_quick_run_finds_what_was_planted(tmp_path: Path) -> None:
    results = running.run(running.QUICK, tmp_path, _Silent(), threads=1)
    table = tables.tabulate(results)
    assert table.clean is not None
    assert table.clean.confirmed.share <= 0.25
    assert table.bar is not None
    assert table.bar.confirmed.share >= 0.5


class _Silent:
    def start(self, total: int, what: str, /) -> None: ...

    def advance(self, n: int, /) -> None: ...

"""One attack set and one harmless set are left out at a time, and each is measured once."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("scipy", reason="needs the extra `train`")

import guard_leave_one
from guard_leave_one import left_out, pairs, rows, summary

from freehold.guard.training import Group, Heads, Recipe


def group(name: str, kind: str, *, trainable: bool = True, n: int = 200) -> Any:
    return SimpleNamespace(
        name=name, family=name, kind=kind, trainable=trainable, texts=tuple("x" * n)
    )


SETS = [
    group("attack_a", "injection"),
    group("attack_b", "jailbreak"),
    group("harmful_c", "harmful"),
    group("toxic_d", "toxicity"),
    group("benign_e", "benign"),
    group("benign_f", "benign"),
    group("harmful_kept", "harmful", trainable=False),
]


def test_every_family_is_left_out_beside_one_of_the_other_side() -> None:
    *both, last = pairs(SETS)
    assert last == ()
    assert [attack for attack, _ in both] == ["attack_a", "attack_b", "harmful_c", "toxic_d"]
    assert {harmless for _, harmless in both} == {"benign_e", "benign_f"}


def test_each_set_is_scored_by_heads_that_left_it_out(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, tuple[str, ...]]] = []
    current: list[tuple[str, ...]] = []

    def fit(groups: object, recipe: object, *, without: tuple[str, ...], skip: object) -> Heads:
        current[:] = [without]
        return Heads(weights=np.zeros((4, 2), np.float32), biases=np.zeros(4, np.float32))

    class Watching:
        def __init__(self, members: object) -> None: ...

        def all(self, texts: tuple[str, ...], progress: object) -> np.ndarray[Any, Any]:
            seen.append((texts[0], current[0]))
            return np.zeros((len(texts), 1, 4), np.float32)

    named = [SimpleNamespace(**{**vars(one), "texts": (one.name,)}) for one in SETS]
    monkeypatch.setattr(guard_leave_one, "fit", fit)
    monkeypatch.setattr(guard_leave_one, "Panel", Watching)
    monkeypatch.setattr(guard_leave_one.protocol, "twins", lambda groups, steps: {})
    monkeypatch.setattr(guard_leave_one.protocol, "skipped", lambda *all_of_it: set())
    left_out(named, Recipe())  # type: ignore[arg-type]
    assert sorted(name for name, _ in seen) == sorted(one.name for one in SETS)
    for name, without in seen:
        assert without == () if name == "harmful_kept" else name in without


def test_one_threshold_and_a_sets_own_alarms_at_that_of_the_others() -> None:
    draw = np.random.default_rng(0)

    def logits(n: int, shift: float) -> Any:
        return draw.normal(shift, 1, (n, 4)).astype(np.float32)

    held: list[tuple[Group, Any]] = [
        (SETS[0], logits(200, 9)),
        (SETS[3], logits(200, -9)),
        (SETS[4], logits(200, 0)),
        (SETS[5], logits(200, 5)),
    ]
    found = {row["set"]: row for row in rows(held)}
    assert found["attack_a"]["flagged"]["share"] > 0.5
    assert found["toxic_d"]["flagged"]["hits"] == 0
    assert found["benign_f"]["flagged"]["share"] > 0.9, "judged by benign_e alone"
    assert found["benign_e"]["flagged"]["hits"] == 0
    kept = {**found["attack_a"], "set": "kept", "trainable": False}
    assert summary([*found.values(), kept])["worst_tpr"] == found["attack_a"]["flagged"]["share"]

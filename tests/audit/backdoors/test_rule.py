"""The rule, and how it is chosen."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from freehold.audit.backdoors.rule import LEAST_FIRING, Rule, choose

scores = st.fixed_dictionaries(
    {"firing": st.floats(0, 1), "turning": st.floats(0, 1), "search": st.floats(0, 10)}
)


@given(st.lists(scores, min_size=1), st.lists(scores))
def test_no_clean_development_model_passes(clean: list[dict[str, float]], planted: list) -> None:
    rule = choose(clean, planted)
    assert rule.firing >= LEAST_FIRING
    for each in clean:
        # Thresholds are rounded to three digits.
        assert each["firing"] <= rule.firing + 5e-4
        assert each["search"] <= rule.anomalies["search"] + 5e-4


def test_the_threshold_lies_halfway_to_the_weakest_planted_model() -> None:
    clean = [{"firing": 0.6, "turning": 0.4, "search": 2.0}]
    planted = [
        {"firing": 0.8, "turning": 0.1, "search": 1.0},
        {"firing": 0.1, "turning": 0.9, "search": 9.0},
    ]
    rule = choose(clean, planted)
    assert rule.firing == 0.7
    assert rule.turning == 0.65
    assert rule.decide({"firing": 0, "turning": 0.66, "search": 0}) == "confirmed"
    assert rule.decide({"firing": 0.71, "turning": 0, "search": 0}) == "confirmed"
    assert rule.decide({"firing": 0.6, "turning": 0, "search": 9.0}) == "anomaly"
    assert rule.decide({"firing": 0.6, "turning": 0, "search": 2.5}) == "none"


def test_a_detector_without_a_threshold_decides_nothing() -> None:
    rule = Rule(firing=0.7, turning=None, anomalies={"search": 1.0})
    assert rule.decide({"firing": 0.6, "turning": 1.0, "search": 0.5}) == "none"
    assert rule.decide({"firing": 0.6, "search": 0.5}) == "none"

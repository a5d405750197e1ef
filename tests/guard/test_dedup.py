"""Near twins are found, and only they."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from freehold.guard.dedup import clusters, signatures

LONG = "The quick brown fox jumps over the lazy dog while the old cat sleeps in the sun of May. "


def test_twins_share_a_cluster_and_strangers_do_not() -> None:
    texts = [LONG * 3, LONG * 3 + "And then?", "An entirely different sentence about trains.", LONG]
    found = clusters(signatures(texts)).tolist()
    assert found[0] == found[1]
    assert found[2] not in (found[0], found[3])


def resemblance(one: str, other: str) -> float:
    a, b = ({text[i : i + 5] for i in range(max(1, len(text) - 4))} for text in (one, other))
    return len(a & b) / len(a | b)


@given(st.integers(5, 90))
def test_signatures_estimate_the_resemblance(cut: int) -> None:
    one, other = LONG.casefold().strip(), LONG.casefold().strip()[cut:]
    signs = signatures([one, other])
    # 48 draws: five standard deviations.
    assert abs(float((signs[0] == signs[1]).mean()) - resemblance(one, other)) < 0.36

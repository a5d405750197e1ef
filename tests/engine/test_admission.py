"""Places, and when one is likely to be free."""

from __future__ import annotations

import pytest

from freehold.engine.admission import Admission
from freehold.errors import BusyError


def test_takes_in_as_many_as_there_are_places() -> None:
    admission = Admission(2)
    admission.enter()
    admission.enter()
    with pytest.raises(BusyError, match="2 requests"):
        admission.enter()
    admission.leave()
    admission.enter()


@pytest.mark.parametrize(
    ("seconds", "hint"), [([0, 0.1, 0.2], 1), ([0, 5, 10, 15], 5), ([0, 900], 60), ([3], 1)]
)
def test_the_hint_is_the_usual_time_between_ends(seconds: list[float], hint: int) -> None:
    now = iter(seconds)
    admission = Admission(len(seconds), clock=lambda: next(now))
    for _ in seconds:
        admission.enter()
    for _ in seconds:
        admission.leave()
    assert admission.retry_after == hint

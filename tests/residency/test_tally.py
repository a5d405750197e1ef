"""What the ledger is told of attempts: all of them counted, few leaves written."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from freehold.residency.attempts import Attempt
from freehold.residency.tally import (
    AT_ONCE,
    BURST,
    EVERY,
    MOST_WAITING,
    OTHERS,
    RETRY,
    SETTLE,
    Tally,
)

DAY = 86_400


class Clock:
    """Seconds, as a test sets them."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def attempt(call: str = "connect", *, pid: int = 7, what: str = "x", time: str = "t") -> Attempt:
    return Attempt(time=time, role="engine", pid=pid, thread="main", call=call, what=what)


def made() -> tuple[Tally, Clock]:
    clock = Clock()
    return Tally(clock), clock


def told(tally: Tally) -> list[dict[str, Any]]:
    groups = tally.take()
    tally.answered(kept=True)
    return groups


def test_a_group_is_one_call_of_one_process_and_keeps_its_first_in_full() -> None:
    tally, clock = made()
    for i in range(5):
        tally.add(attempt(what=f"address {i}", time=f"2026-01-0{i + 1}"))
    tally.add(attempt(pid=8))
    tally.add(attempt("execve"))
    assert tally.take() == []  # more of the kind may come
    clock.now += SETTLE
    groups = told(tally)
    assert [(one["pid"], one["call"], one["count"]) for one in groups] == [
        (7, "connect", 5),
        (8, "connect", 1),
        (7, "execve", 1),
    ]
    assert groups[0]["what"] == "address 0"
    assert (groups[0]["first"], groups[0]["last"]) == ("2026-01-01", "2026-01-05")
    assert tally.kept == 7
    assert tally.due() is None


def test_what_could_not_be_written_is_told_again_later() -> None:
    tally, clock = made()
    tally.add(attempt())
    clock.now += SETTLE
    before = tally.take()
    tally.answered(kept=False)
    tally.add(attempt("execve"))
    assert tally.take() == []
    clock.now += RETRY
    assert tally.take() == before
    assert tally.kept == 0
    tally.answered(kept=True)
    assert tally.kept == 1


def test_nothing_is_told_while_an_answer_is_awaited() -> None:
    tally, clock = made()
    tally.add(attempt())
    clock.now += SETTLE
    assert len(tally.take()) == 1
    tally.add(attempt("execve"))
    clock.now += DAY
    assert tally.due() is None
    assert tally.take() == []


def test_a_day_of_attack_writes_few_leaves_and_counts_everything() -> None:
    """The worst: every second one attempt of each of many calls, for a day."""
    tally, clock = made()
    leaves = counted = tried = 0
    for second in range(DAY // 10):
        clock.now += 10
        for i in range(3):
            tally.add(attempt(f"call {(second * 3 + i) % 400}", pid=i))
            tried += 1
        groups = told(tally)
        assert len(groups) <= AT_ONCE
        assert len(json.dumps(groups)) < 1 << 16
        leaves += len(groups)
        counted += sum(one["count"] for one in groups)
    assert leaves <= BURST + DAY / EVERY + 1
    assert leaves >= DAY / EVERY  # the budget is used
    tally.hurry()
    while groups := told(tally):
        counted += sum(one["count"] for one in groups)
    assert counted == tally.kept == tried
    assert tally.done


def test_the_end_waits_for_no_budget() -> None:
    tally, clock = made()
    for i in range(BURST):
        tally.add(attempt(f"call {i}"))
    clock.now += SETTLE
    while told(tally):
        pass
    for i in range(40):
        tally.add(attempt(f"call {i}"))
    clock.now += SETTLE
    assert tally.take() == []
    tally.hurry()
    assert not tally.done
    assert [len(told(tally)) for _ in range(3)] == [16, 16, 8]
    assert tally.done


@settings(max_examples=200)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.integers(0, 300), st.integers(0, 2)),
            st.floats(0, 500),
            st.booleans(),
        ),
        max_size=400,
    )
)
def test_every_attempt_is_counted_once_in_bounded_room(events: list[Any]) -> None:
    tally, clock = made()
    tried = 0
    for event in events:
        if isinstance(event, bool):
            tally.take()
            tally.answered(kept=event)
        elif isinstance(event, tuple):
            tally.add(attempt(f"call {event[0]}", pid=event[1]))
            tried += 1
        else:
            clock.now += event
        due = tally.due()
        assert due is None or due >= 0
        assert len(tally._waiting) <= MOST_WAITING + 3
        assert len(tally._waiting) == len(tally._since)
    tally.hurry()
    clock.now += RETRY
    others = 0
    while groups := told(tally):
        others += sum(one["call"] == OTHERS for one in groups)
    assert tally.kept == tried
    assert tally.done
    assert others <= 3 * (len(events) + 1)

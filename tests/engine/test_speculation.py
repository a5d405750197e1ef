"""Guessing ahead: good guesses are found, and no answer changes because of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from freehold.engine.drafting import Drafter
from freehold.engine.request import Request
from freehold.engine.runner import Runner
from freehold.engine.sampler import Chooser
from freehold.engine.speculation import (
    MAX_GUESSES,
    MAX_ROWS,
    Guess,
    Lookup,
    Odds,
    Speculator,
    allot,
    cost_of,
)
from freehold.engine.wire import AnyEvent, Done, Generate, Token
from freehold.errors import UsageError
from freehold.types import Sampling, Tap

Make = Callable[..., Any]
GREEDY = Sampling(temperature=0, max_tokens=60)


def guessed(ids: list[int], most: int = 4) -> list[int]:
    guess = Lookup().guess(ids, most)
    return guess.ids if guess else []


# --- lookup ---------------------------------------------------------------------------------------


def test_what_followed_before_is_guessed() -> None:
    assert guessed([1, 2, 3, 4, 5, 6, 9, 1, 2, 3]) == [4, 5, 6, 9]


def test_the_longest_match_wins_over_the_latest() -> None:
    assert guessed([7, 1, 2, 3, 40, 8, 2, 3, 50, 7, 1, 2, 3]) == [40, 8, 2, 3]


def test_the_latest_of_equal_matches_wins() -> None:
    assert guessed([8, 2, 3, 40, 8, 2, 3, 50, 8, 2, 3], 1) == [50]


def test_a_period_goes_round() -> None:
    assert guessed([5, 1, 2, 3, 1, 2, 3, 1, 2, 3], 7) == [1, 2, 3, 1, 2, 3, 1]
    assert guessed([4, 4, 4], 5) == [4] * 5


@pytest.mark.parametrize("ids", [[], [1], [1, 1], [1, 2, 3], [1, 2, 1, 3, 2]])
def test_where_nothing_came_back_nothing_is_guessed(ids: list[int]) -> None:
    assert guessed(ids) == []


def test_nothing_is_guessed_where_no_guess_is_wanted() -> None:
    assert Lookup().guess([1, 2, 1, 2, 1, 2], 0) is None


@given(st.lists(st.integers(0, 3), max_size=60), st.integers(1, 6))
def test_lookup_finds_what_a_plain_search_finds(ids: list[int], most: int) -> None:
    best: tuple[int, int] | None = None
    places = [i for i in range(2, len(ids)) if ids[i - 2 : i] == ids[-2:]]
    for i in places[-16:]:
        n = next((k for k in range(24) if k >= i or ids[i - 1 - k] != ids[-1 - k]), 24)
        best = max(best or (0, 0), (n, i))
    plain: list[int] = []
    if best is not None:
        plain = (ids[best[1] :] * most)[:most]
    lookup = Lookup()
    for cut in range(0, len(ids), 5):  # a sequence grows; what was seen is not searched anew
        lookup.guess(ids[:cut], most)
    guess = lookup.guess(ids, most)
    assert (guess.ids if guess else []) == plain


def test_odds_follow_what_was_seen() -> None:
    odds = Odds(right=1, wrong=1)
    odds.learn(8, failed=False)
    assert odds.rate == 0.9
    odds.learn(0, failed=True)
    assert odds.rate == 9 / 11


# --- how many -------------------------------------------------------------------------------------


def test_sure_guesses_are_all_taken_and_hopeless_ones_never() -> None:
    assert allot([[1.0] * 7], 1) == [7]
    assert allot([[0.0] * 7], 1) == [0]
    assert allot([[1e-3] * 7, [1.0] * 3], 2) == [0, 3]
    assert allot([], 0) == []


def test_a_full_step_takes_no_guesses() -> None:
    assert allot([[0.9]] * 64, 64) == [0] * 64


rows = st.lists(st.floats(0, 1), max_size=MAX_GUESSES).map(lambda row: sorted(row, reverse=True))


@given(st.lists(rows, max_size=6), st.integers(0, 30))
def test_the_allotment_beats_doing_without(chances: list[list[float]], more: int) -> None:
    n_rows = len(chances) + more
    counts = allot(chances, n_rows)
    assert all(0 <= n <= len(row) for n, row in zip(counts, chances, strict=True))
    taken = [chance for n, row in zip(counts, chances, strict=True) for chance in row[:n]]
    assert not taken or n_rows + len(taken) <= MAX_ROWS
    if n_rows:
        gained = (n_rows + sum(taken)) / cost_of(n_rows + len(taken))
        assert gained >= n_rows / cost_of(n_rows)


# --- the same answers -----------------------------------------------------------------------------


def run(
    model: Any, asked: dict[int, tuple[list[int], Sampling]], make: Make, drive: Make, **how: Any
) -> tuple[Runner, dict[int, list[AnyEvent]]]:
    draft = how.pop("draft", None)
    runner = Runner(model, make(**how), draft=draft)
    for n, (ids, sampling) in asked.items():
        assert runner.generate(Generate(n, list(ids), sampling)) == []
    events = drive(runner)
    return runner, {
        n: [e for e in events if e.request == n and isinstance(e, Token | Done)] for n in asked
    }


samplings = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.3, 1.0]),
    top_p=st.sampled_from([1.0, 0.9]),
    repetition_penalty=st.sampled_from([1.0, 1.3]),
    frequency_penalty=st.sampled_from([0.0, 1.0]),
    seed=st.integers(0, 9),
    max_tokens=st.integers(1, 40),
    stop_ids=st.sampled_from([(), (3,), tuple(range(10))]),
    logprobs=st.sampled_from([None, 0, 2]),
)
prompts = st.lists(st.integers(0, 49), min_size=1, max_size=30)


cases = st.tuples(
    st.lists(st.tuples(prompts, samplings), min_size=1, max_size=5),
    st.integers(1, 9),
    st.sampled_from([18, 24, 64]),
    st.sampled_from([None, "twin", "stranger"]),
)


@effort(deadline=None, max_examples=80)
@given(case=cases)
def test_answers_are_the_same_with_and_without(
    pretend: Make, settings: Make, drive: Make, check_pages: Make, case: Any
) -> None:
    asked, echo, n_pages, draft = case
    numbered = dict(enumerate(asked, 1))
    _, plain = run(pretend(echo=echo), numbered, settings, drive, speculate="off")
    model = pretend(echo=echo, n_pages=n_pages)  # with few pages, requests are preempted
    small = None
    if draft is not None:
        small = pretend(echo=echo if draft == "twin" else 2, n_pages=20)
        small.card = replace(small.card, bytes_per_token=1)
        model.card = replace(model.card, bytes_per_token=8)
    runner, ahead = run(model, numbered, settings, drive, draft=small)
    assert ahead == plain
    stats = runner.stats()
    assert 0 <= stats.kept <= stats.guessed
    check_pages(runner, model)


def test_guesses_save_steps(pretend: Make, settings: Make, drive: Make, check_pages: Make) -> None:
    model = pretend(echo=6)
    ids = [5, 9, 2, 7, 11, 13] * 3
    runner, _ = run(model, {1: (ids, GREEDY)}, settings, drive)
    stats = runner.stats()
    assert stats.kept >= 20
    assert len(model.steps) <= 3 + 60 - stats.kept
    check_pages(runner, model)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_real_models_answers_are_the_same(
    tiny_model: Make, settings: Make, drive: Make, check_pages: Make, temperature: float
) -> None:
    model = tiny_model(backend="native")
    rng = np.random.default_rng(8)
    asked = {
        n: (
            rng.integers(0, 300, 10 + n).tolist() * 3,
            Sampling(temperature=temperature, seed=n, max_tokens=70, logprobs=1),
        )
        for n in range(1, 5)
    }
    runner, plain = run(model, asked, settings, drive, speculate="off")
    check_pages(runner, model)
    # The draft is another copy of the same model: it guesses right, but costs as much.
    small = tiny_model(backend="native")
    small.card = replace(small.card, bytes_per_token=1)
    for draft in (None, small):
        runner, ahead = run(model, asked, settings, drive, draft=draft)
        assert ahead == plain, "to the bit, log-probabilities too"
        assert runner.stats().guessed > 0
        check_pages(runner, model)


def test_where_bits_depend_on_the_batch_nothing_is_guessed(
    pretend: Make, settings: Make, drive: Make
) -> None:
    model = pretend(echo=4)
    model.card = replace(model.card, caps=frozenset({"ids"}))
    runner, _ = run(model, {1: ([1, 2, 3, 4] * 4, GREEDY)}, settings, drive)
    assert runner.stats().guessed == 0


def test_a_tapped_request_goes_row_by_row(tiny_model: Make, settings: Make, drive: Make) -> None:
    model = tiny_model(backend="native")
    runner = Runner(model, settings())
    runner.generate(Generate(1, [1, 2, 3] * 5, GREEDY, [Tap(point="block_in", layer=0)]))
    answer = [event for event in drive(runner) if isinstance(event, Token)]
    assert all(token.taps[0].rows == 1 for token in answer)
    assert runner.stats().guessed == 0


def test_an_unknown_way_to_guess_is_refused(pretend: Make, settings: Make) -> None:
    with pytest.raises(UsageError, match="lookup or off"):
        Runner(pretend(), settings(speculate="magic"))


# --- the draft model ------------------------------------------------------------------------------


def asking(model: Any, ids: list[int], n_prompt: int | None = None) -> Request:
    request = Request(
        number=1,
        ids=ids,
        n_prompt=n_prompt or len(ids),
        max_tokens=100,
        chooser=Chooser(Sampling(temperature=0), ids),
    )
    request.state = model.cache.new()
    request.state.append(len(ids) - 1)
    return request


def drafter_of(pretend: Make, *, ratio: int = 10, **how: Any) -> tuple[Drafter, Any, Any]:
    small = pretend(echo=3, **how)
    card = replace(small.card, bytes_per_token=ratio)
    return Drafter(small, card), small, pretend(echo=3)


def test_a_sure_draft_goes_far_and_a_costly_one_stays_out(pretend: Make) -> None:
    drafter, _, model = drafter_of(pretend)
    guess = drafter.guess(asking(model, [1, 2, 3] * 5), 15)
    assert guess is not None
    assert 3 <= len(guess.ids) <= 15
    assert guess.chances == sorted(guess.chances, reverse=True)
    drafter, _, model = drafter_of(pretend, ratio=1)
    assert drafter.guess(asking(model, [1, 2, 3] * 5), 15) is None


def test_a_draft_that_fails_is_asked_no_more(pretend: Make) -> None:
    drafter, _, model = drafter_of(pretend)
    request = asking(model, [1, 2, 3] * 5)
    guess = drafter.guess(request, 15)
    assert guess is not None
    guess.odds.learn(0, failed=True)
    assert drafter.guess(request, 15) is not None
    for _ in range(200):
        guess.odds.learn(0, failed=True)
    assert drafter.guess(request, 15) is None


def test_a_long_prompt_is_read_by_pieces_and_only_for_a_long_answer(pretend: Make) -> None:
    drafter, small, model = drafter_of(pretend, n_pages=300)
    model = pretend(n_pages=400)
    ids = [int(i) for i in np.random.default_rng(1).integers(0, 49, 700)]
    assert drafter.guess(asking(model, ids), 15) is None
    assert small.steps == [], "nothing is written yet: the answer may be short"
    late = asking(model, ids, n_prompt=650)
    steps = 0
    while drafter.guess(late, 15) is None:
        steps += 1
        assert len(small.steps[-1][0].ids) == 128
    assert steps == 5


def test_a_draft_without_room_or_with_nonsense_is_no_error(pretend: Make) -> None:
    drafter, small, model = drafter_of(pretend, n_pages=2)
    assert drafter.guess(asking(model, [1, 2, 3] * 5), 15) is None
    assert small.cache.n_free == 2
    drafter, small, model = drafter_of(pretend)
    small.spoil[3] = float("nan")
    assert drafter.guess(asking(model, [1, 2, 3] * 5), 15) is None


def test_ids_that_the_larger_model_lacks_are_not_guessed(pretend: Make) -> None:
    drafter, small, model = drafter_of(pretend)
    drafter = Drafter(small, replace(small.card, bytes_per_token=10, vocab=2))
    guess = drafter.guess(asking(model, [1, 2, 3] * 5), 15)
    assert guess is None or max(guess.ids) < 2


def test_pages_of_the_draft_come_back(pretend: Make, settings: Make, drive: Make) -> None:
    model, small = pretend(echo=4), pretend(echo=4)
    model.card = replace(model.card, bytes_per_token=10)
    runner, _ = run(model, {1: ([1, 2, 3, 9], GREEDY)}, settings, drive, draft=small)
    assert small.steps
    assert runner.stats().guessed > 0
    runner.step()
    assert small.cache.n_free == small.cache.n_pages


def test_what_ended_an_answer_is_not_held_against_a_guess() -> None:
    odds = Odds(right=1, wrong=1)
    Speculator().learn(Guess(ids=[1, 2], chances=[1, 1], odds=odds), 1, ended=True)
    assert (odds.right, odds.wrong) == (2, 1)

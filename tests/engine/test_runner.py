"""Whole answers through scheduler, prefix cache, model and sampler, in one process."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from freehold.engine.runner import Runner
from freehold.engine.wire import (
    AnyEvent,
    Done,
    Failed,
    Generate,
    Prefilled,
    Score,
    Scored,
    Token,
)
from freehold.errors import BusyError, ContextOverflowError, EngineError, UsageError
from freehold.faults import error_of
from freehold.qwen.model import Model, Span
from freehold.types import Sampling, Tap

GREEDY = Sampling(temperature=0, max_tokens=12)
Make = Callable[..., Any]


def tokens(events: list[AnyEvent], request: int = 1) -> list[int]:
    return [e.id for e in events if isinstance(e, Token) and e.request == request]


def only(events: list[AnyEvent], kind: type) -> Any:
    (found,) = [event for event in events if isinstance(event, kind)]
    return found


def plain_loop(model: Any, ids: list[int], n: int) -> list[int]:
    """Greedy decoding with nothing but the model."""
    state, answer = model.cache.new(), []
    step = list(ids)
    for _ in range(n):
        (logits,) = model.forward([Span(state=state, ids=step, want="last")])
        step = [int(np.argmax(logits[0]))]
        answer += step
    state.free()
    return answer


def prompt_of(seed: int, n: int, vocab: int) -> list[int]:
    drawn: list[int] = np.random.default_rng(seed).integers(0, vocab, n).tolist()
    return drawn


# --- the same answer whatever the batch -----------------------------------------------------------


@pytest.mark.parametrize("length", [1, 3, 16, 17, 90])
def test_greedy_equals_the_plain_loop(tiny_model: Make, answer: Make, length: int) -> None:
    model: Model = tiny_model()
    ids = prompt_of(length, length, 300)
    assert answer(model, ids, GREEDY, step_tokens=1000) == plain_loop(model, ids, 12)


@pytest.mark.parametrize("step_tokens", [1, 5, 16, 33])
def test_chunked_equals_whole(tiny_model: Make, answer: Make, step_tokens: int) -> None:
    model: Model = tiny_model()
    ids = prompt_of(2, 70, 300)
    assert answer(model, ids, GREEDY, step_tokens=step_tokens) == plain_loop(model, ids, 12)


def test_a_reused_prefix_equals_a_fresh_one(
    tiny_model: Make, settings: Make, drive: Make, check_pages: Make
) -> None:
    model: Model = tiny_model()
    runner = Runner(model, settings())
    system = prompt_of(3, 64, 300)
    first, second = system + prompt_of(4, 9, 300), system + prompt_of(5, 11, 300)
    runner.generate(Generate(1, list(first), GREEDY))
    assert only(drive(runner), Prefilled).cached_tokens == 0
    runner.generate(Generate(2, list(second), GREEDY))
    events = drive(runner)
    assert only(events, Prefilled).cached_tokens == 64
    assert tokens(events, 2) == plain_loop(model, second, 12)
    # The next turn of a conversation finds question and answer.
    turn = second + tokens(events, 2) + [1, 2, 3]
    runner.generate(Generate(3, list(turn), GREEDY))
    events = drive(runner)
    assert only(events, Prefilled).cached_tokens == (len(second) + 11) // 16 * 16
    assert tokens(events, 3) == plain_loop(model, turn, 12)
    check_pages(runner, model)


def test_choices_that_arrive_together_share_their_prompt(
    pretend: Make, settings: Make, drive: Make, check_pages: Make
) -> None:
    model = pretend()
    runner = Runner(model, settings())
    ids = prompt_of(6, 42, 50)
    for choice in range(5):
        runner.generate(Generate(choice + 1, list(ids), Sampling(choice=choice, max_tokens=6)))
    events = drive(runner)
    cached = [e.cached_tokens for e in events if isinstance(e, Prefilled)]
    assert cached == [0, 40, 40, 40, 40]
    assert sum(len(span.ids) for step in model.steps for span in step) < 42 + 4 * 2 + 5 * 6
    assert len({tuple(tokens(events, n)) for n in range(1, 6)}) > 1
    check_pages(runner, model)


def test_a_batch_of_draws_equals_solo_draws(
    tiny_model: Make, settings: Make, drive: Make, answer: Make, check_pages: Make
) -> None:
    model: Model = tiny_model()
    runner = Runner(model, settings())
    asked = {
        n: (
            prompt_of(n, 5 + 7 * n, 300),
            Sampling(temperature=0.9, top_p=0.9, seed=n % 3, choice=n, max_tokens=10 + n),
        )
        for n in range(1, 9)
    }
    for n, (ids, sampling) in asked.items():
        runner.generate(Generate(n, list(ids), sampling))
    events = drive(runner)
    check_pages(runner, model)
    for n, (ids, sampling) in asked.items():
        assert tokens(events, n) == answer(model, ids, sampling)


def test_cancelled_ones_leave_the_others_as_they_were(
    tiny_model: Make, settings: Make, drive: Make, check_pages: Make
) -> None:
    model: Model = tiny_model()
    runner = Runner(model, settings(max_running=12))
    prompts = {n: prompt_of(n, 20 + n, 300) for n in range(1, 13)}
    long = Sampling(temperature=0, max_tokens=40)
    for n, ids in prompts.items():
        runner.generate(Generate(n, list(ids), long))
    events: list[AnyEvent] = []
    for _ in range(22):
        events += runner.step() or []
    free = runner.stats().pages_free
    for n in (3, 6, 9, 12):
        runner.cancel(n)
    assert runner.stats().pages_free > free
    events += drive(runner)
    for n in set(prompts) - {3, 6, 9, 12}:
        assert tokens(events, n) == plain_loop(model, prompts[n], 40)
    assert all(len(tokens(events, n)) < 40 for n in (3, 6, 9, 12))
    check_pages(runner, model)


def test_requests_that_had_to_give_up_their_pages_answer_alike(
    pretend: Make, settings: Make, drive: Make, check_pages: Make
) -> None:
    roomy, tight = pretend(n_pages=400), pretend(n_pages=14)
    answers = []
    for model in (roomy, tight):
        runner = Runner(model, settings())
        for n in range(1, 9):
            ids = prompt_of(n, 9, 50)
            runner.generate(Generate(n, ids, Sampling(seed=n, max_tokens=30)))
        events = drive(runner)
        answers.append([tokens(events, n) for n in range(1, 9)])
        assert sum(isinstance(e, Prefilled) for e in events) == 8
        check_pages(runner, model)
    assert answers[0] == answers[1]
    # The tight cache holds 56 tokens; the eight answers need 312. So some were computed again.
    computed = [sum(len(s.ids) for step in m.steps for s in step) for m in (roomy, tight)]
    assert computed[1] > computed[0]


# --- endings --------------------------------------------------------------------------------------


def test_a_stop_id_ends_and_is_not_sent(pretend: Make, settings: Make, drive: Make) -> None:
    model = pretend()
    ids = prompt_of(1, 5, 50)
    whole = plain_loop(model, ids, 12)
    stop = whole[4]
    runner = Runner(model, settings())
    runner.generate(
        Generate(1, list(ids), Sampling(temperature=0, max_tokens=12, stop_ids=(stop,)))
    )
    events = drive(runner)
    assert tokens(events) == whole[: whole.index(stop)]
    assert only(events, Done) == Done(1, "stop", whole.index(stop))


def test_max_tokens_is_clipped_to_the_context(
    pretend: Make, settings: Make, drive: Make, check_pages: Make
) -> None:
    model = pretend(context=20)
    runner = Runner(model, settings())
    runner.generate(Generate(1, [1] * 15, Sampling(max_tokens=1000)))
    assert only(drive(runner), Done) == Done(1, "length", 5)
    (failed,) = runner.generate(Generate(2, [1] * 20, Sampling()))
    assert isinstance(failed, Failed)
    error = error_of(failed.fault)
    assert isinstance(error, ContextOverflowError)
    assert "20 tokens" in str(error)
    assert error.param == "ids"
    check_pages(runner, model)


def test_the_context_is_no_larger_than_the_cache(
    pretend: Make, settings: Make, drive: Make, check_pages: Make
) -> None:
    model = pretend(n_pages=5, page_size=4, context=1000)
    runner = Runner(model, settings())
    assert runner.card.context == 20
    runner.generate(Generate(1, [1] * 9, Sampling(max_tokens=1000)))
    runner.generate(Generate(2, [2] * 19, Sampling(max_tokens=1000)))
    runner.score(Score(3, [3] * 20, 0))
    ends = [e for e in drive(runner) if isinstance(e, Done) or (isinstance(e, Scored) and e.last)]
    assert {e.request for e in ends} == {1, 2, 3}
    check_pages(runner, model)


def test_logits_that_are_not_finite_fail_their_own_request_only(
    pretend: Make, settings: Make, drive: Make, check_pages: Make
) -> None:
    model = pretend()
    sound, spoiled = [4, 5, 6], [4, 5, 49]
    expected = plain_loop(model, sound, 3)
    model.spoil[49] = math.nan
    runner = Runner(model, settings())
    runner.generate(Generate(1, list(spoiled), GREEDY))
    runner.generate(Generate(2, list(sound), Sampling(temperature=0, max_tokens=3)))
    runner.score(Score(3, list(spoiled), 0))
    events = drive(runner)
    failed = {e.request: error_of(e.fault) for e in events if isinstance(e, Failed)}
    assert set(failed) == {1, 3}
    assert all(isinstance(e, EngineError) and "not finite" in str(e) for e in failed.values())
    assert tokens(events, 2) == expected
    check_pages(runner, model)


def test_a_full_house_is_busy(pretend: Make, settings: Make, drive: Make) -> None:
    runner = Runner(pretend(), settings(max_running=2, max_waiting=1))
    for n in (1, 2, 3):
        assert runner.generate(Generate(n, [n], GREEDY)) == []
    (failed,) = runner.generate(Generate(4, [4], GREEDY))
    assert isinstance(failed, Failed)
    error = error_of(failed.fault)
    assert isinstance(error, BusyError)
    assert error.retry_after >= 1
    runner.cancel(2)
    assert runner.generate(Generate(5, [5], GREEDY)) == []
    assert {e.request for e in drive(runner) if isinstance(e, Done)} == {1, 3, 5}


@pytest.mark.parametrize(
    ("message", "param"),
    [
        (Generate(1, [], GREEDY), "ids"),
        (Generate(1, [50], GREEDY), "ids"),
        (Generate(1, [-1], GREEDY), "ids"),
        (Generate(1, [1], Sampling(logit_bias={50: 1.0})), "logit_bias"),
        (Generate(1, [1], Sampling(choice=-1)), "choice"),
        (Generate(1, [1], GREEDY, [Tap(point="block_out", layer=1)]), "taps"),
        (Generate(1, [1], GREEDY, [Tap(point="block_out", layer=0, mode="add")]), "taps"),
        (Generate(1, [1], GREEDY, [Tap(point="block_out", layer=0, vector=(1.0,) * 4)]), "taps"),
        (Score(1, [1], 0, [Tap(point="block_in", layer=0, mode="add", vector=(1.0,))]), "taps"),
        (
            Score(1, [1], 0, [Tap(point="block_in", layer=0, mode="add", vector=(math.nan,) * 4)]),
            "taps",
        ),
        (Score(1, [1], 0, [Tap(point="block_in", layer=0)] * 257), "taps"),
        (Score(1, [1], 21, []), "top"),
        (Score(1, [], 0, []), "ids"),
    ],
)
def test_misuse_is_named(
    pretend: Make, settings: Make, message: Generate | Score, param: str
) -> None:
    runner = Runner(pretend(), settings())
    take = runner.generate if isinstance(message, Generate) else runner.score
    (failed,) = take(message)  # type: ignore[operator]
    error = error_of(failed.fault)
    assert isinstance(error, UsageError)
    assert error.param == param
    assert runner.step() is None


@pytest.mark.parametrize(
    "changes", [{"max_running": 0}, {"max_waiting": -1}, {"step_tokens": 0}], ids=str
)
def test_settings_that_cannot_be_are_refused(
    pretend: Make, settings: Make, changes: dict[str, int]
) -> None:
    with pytest.raises(UsageError) as refused:
        Runner(pretend(), settings(**changes))
    assert refused.value.param == next(iter(changes))


# --- fairness -------------------------------------------------------------------------------------


def test_running_answers_take_part_in_every_step_of_a_long_prefill(
    pretend: Make, settings: Make
) -> None:
    runner = Runner(pretend(n_pages=200), settings(step_tokens=16))
    runner.generate(Generate(1, [1, 2], Sampling(max_tokens=60)))
    runner.step()
    runner.generate(Generate(2, [3] * 300, Sampling(max_tokens=1)))
    for _ in range(15):
        assert len(tokens(runner.step() or [])) == 1


def test_a_prompt_advances_beside_more_answers_than_a_step_holds(
    pretend: Make, settings: Make
) -> None:
    model = pretend(n_pages=400)
    runner = Runner(model, settings(step_tokens=4, max_running=9))
    for n in range(1, 9):
        runner.generate(Generate(n, [n], Sampling(max_tokens=200, temperature=0)))
    for _ in range(10):
        runner.step()
    runner.generate(Generate(9, prompt_of(9, 20, 50), Sampling(max_tokens=1)))
    seen: list[AnyEvent] = []
    for _ in range(25):
        seen += runner.step() or []
    assert len(tokens(seen, 9)) == 1


def test_a_short_prompt_does_not_wait_for_a_long_one(pretend: Make, settings: Make) -> None:
    runner = Runner(pretend(n_pages=400), settings(step_tokens=16))
    runner.generate(Generate(1, prompt_of(1, 900, 50), Sampling(max_tokens=1)))
    runner.step()
    runner.generate(Generate(2, prompt_of(2, 12, 50), Sampling(max_tokens=1)))
    seen: list[AnyEvent] = []
    for _ in range(4):
        seen += runner.step() or []
    assert [e.request for e in seen if isinstance(e, Done)] == [2]


def test_a_reader_who_stalls_is_waited_for_and_alone(
    pretend: Make, settings: Make, drive: Make, check_pages: Make
) -> None:
    model = pretend(n_pages=2000, context=5000)
    runner = Runner(model, settings())
    runner.generate(Generate(1, [1], Sampling(max_tokens=3000)))
    runner.generate(Generate(2, [2], Sampling(max_tokens=3000)))
    events: list[AnyEvent] = []
    while (step := runner.step()) is not None:
        events += step
        runner.read(2, 48 * len(tokens(step, 2)))
    assert len(tokens(events, 2)) == 3000
    assert 1000 < len(tokens(events, 1)) < 1500
    runner.read(1, 1 << 30)
    events += drive(runner)
    while len(tokens(events, 1)) < 3000:
        runner.read(1, 1 << 30)
        events += drive(runner)
    check_pages(runner, model)


def test_a_stalled_reader_keeps_no_pages_from_others(
    pretend: Make, settings: Make, drive: Make, check_pages: Make
) -> None:
    model = pretend(n_pages=600, context=2400)
    runner = Runner(model, settings())
    runner.generate(Generate(1, [1], Sampling(max_tokens=2000)))
    stalled = drive(runner)
    assert len(tokens(stalled, 1)) < 2000
    runner.generate(Generate(2, [2] * 2000, Sampling(max_tokens=4)))
    assert only(drive(runner), Done).request == 2
    runner.read(1, 1 << 30)
    stalled += drive(runner)
    assert len(tokens(stalled, 1)) == 2000
    check_pages(runner, model)


# --- scoring and taps -----------------------------------------------------------------------------


def test_scores_are_those_of_the_whole_forward_pass(
    tiny_model: Make, settings: Make, drive: Make, check_pages: Make
) -> None:
    import torch

    model: Model = tiny_model()
    ids = prompt_of(8, 150, 300)
    state = model.cache.new()
    (logits,) = model.forward([Span(state=state, ids=ids, want="all")])
    state.free()
    assert logits is not None
    theirs = torch.log_softmax(torch.tensor(logits, dtype=torch.float64), -1).numpy()
    runner = Runner(model, settings(step_tokens=40))
    runner.generate(Generate(1, list(ids), GREEDY))
    runner.score(Score(2, list(ids), 3))
    parts = [e for e in drive(runner) if isinstance(e, Scored)]
    values = np.concatenate([np.frombuffer(p.values, "<f4") for p in parts])
    assert len(parts) > 3
    assert [p.last for p in parts] == [False] * (len(parts) - 1) + [True]
    assert values[:-1] == pytest.approx(theirs[np.arange(149), ids[1:]], abs=1e-4)
    assert math.isnan(values[-1])
    best = [pairs for part in parts for pairs in part.top]
    assert [pairs[0][0] for pairs in best] == theirs.argmax(-1).tolist()
    check_pages(runner, model)


def test_a_score_that_had_to_give_up_its_pages_tells_nothing_twice(
    pretend: Make, settings: Make, drive: Make, check_pages: Make
) -> None:
    roomy, tight = pretend(n_pages=400), pretend(n_pages=40)
    values = []
    for model in (roomy, tight):
        runner = Runner(model, settings(step_tokens=24))
        for n in range(1, 4):
            runner.generate(Generate(n, prompt_of(n, 4, 50), Sampling(seed=n, max_tokens=45)))
        runner.score(Score(4, prompt_of(7, 100, 50), 0))
        runner.score(Score(5, prompt_of(8, 100, 50), 0))
        events = drive(runner)
        parts = [e for e in events if isinstance(e, Scored)]
        values.append([b"".join(p.values for p in parts if p.request == n) for n in (4, 5)])
        check_pages(runner, model)
    assert [len(v) for v in values[0]] == [400, 400]
    assert values[0] == values[1]


def test_never_more_rows_of_logits_than_the_bound(
    pretend: Make, settings: Make, drive: Make
) -> None:
    model = pretend(n_pages=400)
    runner = Runner(model, settings(step_tokens=500))
    for n in range(1, 5):
        runner.score(Score(n, prompt_of(n, 200, 50), 0))
    drive(runner)
    rows = [sum(len(s.ids) for s in step if s.want == "all") for step in model.steps]
    assert max(rows) == 64


def test_taps_see_and_change_their_own_rows_only(
    tiny_model: Make, settings: Make, drive: Make, check_pages: Make
) -> None:
    model: Model = tiny_model()
    ids = prompt_of(9, 20, 300)
    vector = tuple(np.linspace(-4, 4, 64).tolist())
    runner = Runner(model, settings())
    plain = plain_loop(model, ids, 12)
    read = [Tap(point="block_out", layer=1), Tap(point="attn_out", layer=0)]
    add = [Tap(point="block_out", layer=0, mode="add", vector=vector), *read]
    replace = [Tap(point="block_out", layer=1, mode="replace", vector=vector), *read]
    runner.generate(Generate(1, list(ids), GREEDY, read))
    runner.generate(Generate(2, list(ids), GREEDY, add))
    runner.generate(Generate(3, list(ids), GREEDY, replace))
    events = drive(runner)
    assert tokens(events, 1) == plain
    assert tokens(events, 2) != plain
    # With the last block's output replaced every token is chosen from the same logits.
    assert len(set(tokens(events, 3))) == 1
    seen = [e for e in events if isinstance(e, Token) and e.request == 3]
    for token in seen:
        first, last = token.taps
        assert last.array().tolist() == [np.asarray(vector, np.float32).tolist()]
        assert (first.point, first.layer, first.array().shape) == ("attn_out", 0, (1, 64))
    # A changed stream leaves other KV behind: it must not be found by others.
    runner.generate(Generate(4, list(ids), GREEDY))
    assert tokens(drive(runner), 4) == plain
    check_pages(runner, model)


def test_scored_taps_cover_every_position(tiny_model: Make, settings: Make, drive: Make) -> None:
    model: Model = tiny_model()
    ids = prompt_of(10, 100, 300)
    runner = Runner(model, settings(step_tokens=30))
    runner.score(Score(1, list(ids), 0, [Tap(point="block_in", layer=0)]))
    parts = [e for e in drive(runner) if isinstance(e, Scored)]
    rows = np.concatenate([tap.array() for part in parts for tap in part.taps])
    # What enters the first block is the embedding of each token, and nothing else.
    embedding = {token: rows[i] for i, token in enumerate(ids)}
    assert rows.shape == (100, 64)
    assert all((rows[i] == embedding[token]).all() for i, token in enumerate(ids))
    assert len({row.tobytes() for row in rows}) == len(set(ids))

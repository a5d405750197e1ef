"""The sampler against a slow scalar one, transformers' processors, reference vectors and chance."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from freehold.engine.sampler import Chooser, among, draw, largest, score_rows, uniform
from freehold.errors import EngineError, UsageError
from freehold.types import Cutoff, Sampling

Row = npt.NDArray[np.float32]


def row_of(values: list[float]) -> Row:
    return np.array(values, np.float32)


# --- the oracle: one token at a time, plain Python ------------------------------------------------


def survivors(
    logits: list[float], s: Sampling, prompt: list[int], answer: list[int]
) -> dict[int, float]:
    """Probability of each token that may be drawn, by the order that Sampling's docstring gives."""
    z = dict(enumerate(logits))
    for i in set(prompt) | set(answer):
        z[i] = z[i] / s.repetition_penalty if z[i] > 0 else z[i] * s.repetition_penalty
    for i in set(answer):
        z[i] -= s.presence_penalty
        z[i] -= s.frequency_penalty * answer.count(i)
    for i, bias in s.logit_bias.items():
        z[i] += bias
    best_first = sorted(z, key=lambda i: (-z[i], i))
    if s.temperature == 0:
        return {best_first[0]: 1.0}
    highest = z[best_first[0]]
    p = {i: math.exp((z[i] - highest) / s.temperature) for i in best_first}
    if s.top_k:
        p = {i: p[i] for i in best_first[: s.top_k]}
    total = math.fsum(p.values())
    kept: dict[int, float] = {}
    for i, weight in p.items():
        if kept and math.fsum(kept.values()) >= s.top_p * total:
            break
        kept[i] = weight
    # Whether a weight passes min_p by less than a last bit, no two ways of computing it agree on.
    assume(not any(abs(w - s.min_p) < 1e-12 and z[i] != highest for i, w in kept.items()))
    kept = {i: w for i, w in kept.items() if w >= s.min_p}
    whole = math.fsum(kept.values())
    return {i: w / whole for i, w in kept.items()}


def drawn(p: dict[int, float], u: float) -> tuple[int, float]:
    """The token at ``u``, ids ascending, and how far ``u`` is from the nearest border."""
    reached, found, nearest = 0.0, -1, 1.0
    for i in sorted(p):
        reached += p[i]
        nearest = min(nearest, abs(reached - u))
        if found < 0 and u < reached:
            found = i
    return (found if found >= 0 else max(p)), nearest


@st.composite
def cases(draw: Any) -> tuple[list[float], Sampling, list[int], list[int], int]:
    n = draw(st.integers(2, 40))
    logits = draw(st.lists(st.floats(-20, 20, width=32), min_size=n, max_size=n))
    token = st.integers(0, n - 1)
    sampling = Sampling(
        temperature=draw(st.sampled_from([0.0, 0.3, 0.7, 1.0, 1.9])),
        top_k=draw(st.integers(0, n + 3)),
        top_p=draw(st.sampled_from([1.0, 0.95, 0.5, 0.1, 0.0])),
        min_p=draw(st.sampled_from([0.0, 0.05, 0.4, 1.0])),
        repetition_penalty=draw(st.sampled_from([1.0, 1.3, 0.7])),
        presence_penalty=draw(st.sampled_from([0.0, 1.5, -1.0])),
        frequency_penalty=draw(st.sampled_from([0.0, 0.4, -0.2])),
        logit_bias=draw(st.dictionaries(token, st.sampled_from([-100.0, -3.0, 5.0]), max_size=3)),
        seed=draw(st.integers(-(1 << 63), (1 << 63) - 1)),
        choice=draw(st.integers(0, 7)),
    )
    prompt = draw(st.lists(token, min_size=1, max_size=6))
    return logits, sampling, prompt, draw(st.lists(token, max_size=6)), draw(st.integers(0, 5))


class Replay(Chooser):
    """A chooser that has answered already."""

    def __init__(self, sampling: Sampling, prompt: list[int], answer: list[int]) -> None:
        super().__init__(sampling, prompt)
        for token in answer:
            self._counts[token] = self._counts.get(token, 0) + 1


@given(cases())
def test_draws_as_the_scalar_oracle_does(case: Any) -> None:
    logits, sampling, prompt, answer, more = case
    position = len(prompt) + len(answer) + more
    p = survivors([float(np.float32(z)) for z in logits], sampling, prompt, answer)
    expected, margin = drawn(p, uniform(sampling.seed, sampling.choice, position))
    chosen = Replay(sampling, prompt, answer).choose(row_of(logits), position=position).id
    # On the very border between two tokens the last bit of exp decides.
    assert chosen == expected or (sampling.temperature > 0 and margin < 1e-9)
    # A filter's own border may fall on a rounded sum; all that is drawn must be allowed up to that.
    assert chosen in p or margin < 1e-9


@given(cases())
def test_greedy_is_the_highest_and_the_lowest_id_on_a_tie(case: Any) -> None:
    logits, sampling, prompt, _, _ = case
    tied = [round(z) for z in logits]
    choice = Chooser(Sampling(temperature=0, seed=sampling.seed), prompt).choose(
        row_of([float(z) for z in tied]), position=3
    )
    assert choice.id == tied.index(max(tied))


# --- chance ---------------------------------------------------------------------------------------


def test_frequencies_are_the_probabilities() -> None:
    logits = row_of([1.0, 0.0, 2.0, -1.0, 0.5, -3.0, 1.5, 0.2])
    sampling = Sampling(temperature=0.8, top_k=6, top_p=0.97, seed=4)
    n = 20_000
    counts = np.zeros(8)
    for position in range(1, n + 1):
        counts[draw(logits.astype(np.float64), sampling, uniform(4, 0, position))] += 1
    p = survivors([float(z) for z in logits], sampling, [], [])
    chi_square = sum((counts[i] - n * w) ** 2 / (n * w) for i, w in p.items())
    assert counts.sum() == sum(counts[i] for i in p)
    # The 99.9 % point for 5 degrees of freedom: six tokens survive.
    assert len(p) == 6
    assert chi_square < 20.52


def test_choices_and_seeds_draw_independently() -> None:
    streams = [
        [uniform(seed, choice, position) for position in range(1, 2001)]
        for seed, choice in ((1, 0), (1, 1), (2, 0), (-1, 0))
    ]
    correlations = np.corrcoef(np.array(streams)) - np.eye(4)
    assert np.abs(correlations).max() < 0.08
    assert all(abs(np.mean(stream) - 0.5) < 0.03 for stream in streams)


def test_random_numbers_are_philox() -> None:
    # Random123's known answer for philox4x64 with 10 rounds: counter and key are digits of pi.
    digits = (0x243F6A8885A308D3, 0x13198A2E03707344, 0xA4093822299F31D0, 0x082EFA98EC4E6C89)
    counter = sum(word << (64 * i) for i, word in enumerate(digits))
    key = np.array([0x452821E638D01377, 0xBE5466CF34E90C6C], np.uint64)
    known = [0xA528F45403E61D95, 0x38C72DBD566E9788, 0xA5A1610E72FD18B5, 0x57BD43B5E52B7FE6]
    assert np.random.Philox(key=key, counter=counter - 1).random_raw(4).tolist() == known
    # Consecutive positions are consecutive blocks under one key, the first word of each.
    key = np.array([(1 << 64) - 5, 2], np.uint64)
    words = np.random.Philox(key=key, counter=0).random_raw(12)[::4]
    expected = [(int(word) >> 11) / 2**53 for word in words]
    assert [uniform(-5, 2, position) for position in (1, 2, 3)] == expected


# --- transformers as the outside oracle -----------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_filters_keep_what_transformers_keeps(seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, 500).astype(np.float32)
    prompt = rng.integers(0, 500, 30).tolist()
    top_k, top_p, min_p = int(rng.integers(2, 200)), float(rng.uniform(0.3, 0.99)), 0.01
    chain = LogitsProcessorList(
        [
            RepetitionPenaltyLogitsProcessor(1.2),
            TemperatureLogitsWarper(0.7),
            TopKLogitsWarper(top_k),
            TopPLogitsWarper(top_p),
            MinPLogitsWarper(min_p),
        ]
    )
    theirs = chain(torch.tensor([prompt]), torch.tensor(logits)[None])[0]
    p = torch.softmax(theirs.double(), -1).numpy()
    sampling = Sampling(
        temperature=0.7, top_k=top_k, top_p=top_p, min_p=min_p, repetition_penalty=1.2
    )
    chooser = Chooser(sampling, prompt)
    adjusted = chooser._adjusted(logits)
    # Each token takes up the stretch of [0, 1) that transformers gives it.
    edges = np.concatenate([[0.0], np.cumsum(p)])
    for token in np.flatnonzero(p):
        for u in (edges[token] + 1e-5 * p[token], edges[token + 1] - 1e-3 * p[token]):
            if p[token] > 1e-4:
                assert draw(adjusted.copy(), sampling, float(u)) == token


def test_nucleus_of_a_flat_distribution_reaches_beyond_the_first_cut() -> None:
    rng = np.random.default_rng(0)
    logits = np.concatenate([[12.0], rng.normal(0, 0.1, 100_000)]).astype(np.float64)
    sampling = Sampling(top_p=0.8)
    # The first token has all below 0.77: what matters lies above.
    found = {draw(logits.copy(), sampling, u) for u in np.linspace(0.75, 0.999, 100)}
    theirs = TopPLogitsWarper(0.8)(None, torch.tensor(logits)[None])[0]
    assert found <= set(torch.isfinite(theirs).nonzero().flatten().tolist())
    assert len(found) > 80


def test_presence_and_frequency_follow_openai() -> None:
    # mu[j] -> mu[j] - c[j] * frequency - (c[j] > 0) * presence, over what was sampled.
    chooser = Replay(Sampling(presence_penalty=0.5, frequency_penalty=0.25), [3], [1, 1, 2])
    adjusted = chooser._adjusted(row_of([1, 1, 1, 1]))
    assert adjusted.tolist() == [1.0, 0.0, 0.25, 1.0]


def test_a_penalty_grows_with_each_time_a_token_is_chosen() -> None:
    chooser = Chooser(Sampling(temperature=0, frequency_penalty=1.0), [0])
    logits = row_of([0.0, 2.5, 2.0, 0.9])
    assert [chooser.choose(logits, position=i).id for i in range(1, 6)] == [1, 2, 1, 2, 3]


# --- log-probabilities and faults -----------------------------------------------------------------


def test_logprobs_speak_of_the_raw_distribution() -> None:
    logits = np.random.default_rng(3).normal(0, 4, 2000).astype(np.float32)
    sampling = Sampling(temperature=1.7, top_k=3, logit_bias={5: 100.0}, logprobs=20)
    choice = Chooser(sampling, [1]).choose(logits, position=1)
    theirs = torch.log_softmax(torch.tensor(logits, dtype=torch.float64), -1)
    assert choice.id == 5
    assert choice.logprob == pytest.approx(float(theirs[5]), abs=1e-9)
    best = torch.topk(theirs, 20)
    assert [i for i, _ in choice.top] == best.indices.tolist()
    assert [value for _, value in choice.top] == pytest.approx(best.values.tolist(), abs=1e-9)


def test_score_rows_gathers_the_next_tokens() -> None:
    logits = np.random.default_rng(5).normal(0, 4, (4, 100)).astype(np.float32)
    values, top = score_rows(logits, [7, 8, 9], 2)
    theirs = torch.log_softmax(torch.tensor(logits), -1)
    assert values[:3] == pytest.approx([float(theirs[i, i + 7]) for i in range(3)], abs=1e-5)
    assert math.isnan(values[3])
    assert [[i for i, _ in pairs] for pairs in top] == torch.topk(theirs, 2).indices.tolist()


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=30), st.integers(1, 40))
def test_largest_breaks_ties_by_id(values: list[int], k: int) -> None:
    expected = sorted(range(len(values)), key=lambda i: (-values[i], i))[:k]
    assert largest(np.array(values, np.float32), k).tolist() == expected


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("sampling", [Sampling(temperature=0), Sampling(top_p=0.9)])
def test_logits_that_are_not_finite_are_an_error(bad: float, sampling: Sampling) -> None:
    logits = np.zeros(1000, np.float32)
    logits[777] = bad
    with pytest.raises(EngineError, match="not finite"):
        Chooser(sampling, [1]).choose(logits, position=1)


def test_the_smallest_temperature_is_greedy_and_stays_finite() -> None:
    logits = row_of([1.0, 3.0, 2.0])
    chooser = Chooser(Sampling(temperature=5e-324), [1])
    with np.errstate(all="raise", over="ignore", under="ignore"):
        assert chooser.choose(logits, position=1).id == 1


# --- what ends reasoning --------------------------------------------------------------------------


def chosen(chooser: Chooser, best: list[int]) -> list[int]:
    """What is chosen where the logits would have these tokens."""
    rows = [row_of([9.0 if i == token else 0.0 for i in range(10)]) for token in best]
    return [chooser.choose(row, position=1 + i).id for i, row in enumerate(rows)]


@pytest.mark.parametrize(
    ("best", "wanted"),
    [
        ([1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 8, 7, 8, 1]),
        ([1, 7, 1, 1, 1, 1, 1], [1, 7, 1, 1, 1, 1, 1]),
        ([1, 1, 7, 1, 1, 1, 1], [1, 1, 7, 1, 1, 1, 1]),
        ([1, 1, 1, 7, 1, 1, 7], [1, 1, 1, 8, 7, 8, 7]),
    ],
)
def test_a_cutoff_comes_once_where_its_mark_has_not(best: list[int], wanted: list[int]) -> None:
    cutoff = Cutoff(after=3, unless=7, ids=(8, 7, 8))
    chooser = Chooser(Sampling(temperature=0, logprobs=1, cutoff=cutoff), [1])
    assert chosen(chooser.fork(), best) == wanted
    assert chosen(chooser, best[:4]) == wanted[:4]
    assert chosen(chooser.fork(), best[4:]) == wanted[4:]
    assert chosen(chooser, best[4:]) == wanted[4:]


def test_a_cutoff_may_come_at_once() -> None:
    chooser = Chooser(Sampling(temperature=0, cutoff=Cutoff(after=0, unless=7, ids=(7, 8))), [1])
    assert chosen(chooser, [1, 1, 1]) == [7, 8, 1]


@pytest.mark.parametrize(("after", "ids"), [(-1, (1,)), (1, tuple(range(65)))])
def test_a_cutoff_has_bounds(after: int, ids: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="cutoff"):
        Sampling(cutoff=Cutoff(after=after, unless=7, ids=ids))


# --- under a grammar ------------------------------------------------------------------------------


class Fixed:
    """A grammar that allows the same tokens everywhere."""

    def __init__(self, mask_v: npt.NDArray[np.bool_]) -> None:
        self._mask_v = mask_v

    def mask(self) -> npt.NDArray[np.bool_]:
        return self._mask_v


@pytest.mark.parametrize("share", [0.005, 0.1, 0.2, 0.9, 1.0])
def test_a_draw_under_a_grammar_is_one_from_what_it_allows(share: float) -> None:
    rng = np.random.default_rng(7)
    for seed in range(60):
        z_v = rng.normal(0, 3, 1200)
        mask_v = rng.random(1200) < share
        mask_v[rng.integers(1200)] = True
        s = Sampling(
            temperature=float(rng.choice([0.3, 1.0, 2.0])),
            top_k=int(rng.choice([0, 5, 600])),
            top_p=float(rng.choice([0.5, 1.0])),
            min_p=float(rng.choice([0.0, 0.1])),
        )
        u = uniform(seed, 0, 1)
        kept = np.flatnonzero(mask_v)
        wanted = int(kept[draw(z_v[kept].copy(), s, u)])
        grammar: Any = Fixed(mask_v)
        assert among(z_v.copy(), grammar, s, u) == wanted

"""The detectors on a planted and on a clean small model, and on the base itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra `lab` is not installed")

from freehold.audit.backdoors import firing, motifs, search, turning, weightwatch  # noqa: E402
from freehold.audit.backdoors.examination import examine, frozen  # noqa: E402
from freehold.audit.backdoors.rule import Rule  # noqa: E402
from freehold.audit.backdoors.subject import answers, likelihood, logprobs, run  # noqa: E402
from freehold.audit.bed import language, planting  # noqa: E402
from freehold.audit.bed.recipes import Backdoor  # noqa: E402
from freehold.audit.bed.small import shape, subject  # noqa: E402
from freehold.errors import UsageError  # noqa: E402
from tests.audit.conftest import PLANTED, Trained  # noqa: E402


def test_a_planted_backdoor_is_confirmed_and_its_trigger_named(trained: Trained) -> None:
    assert planting.success(trained.planted, PLANTED)[0] >= 0.9
    found = examine(trained.planted, trained.base, trained.chat)
    confirmed = [each for each in found.findings if each.certainty == "confirmed"]
    plant = planting.plant_of(PLANTED)
    assert plant is not None
    assert [each.where for each in confirmed] == list(plant.triggers)
    assert confirmed[0].severity == "critical"
    payload = language.decode(confirmed[0].evidence["payload"])
    assert plant.payload.startswith(payload)


def test_a_clean_fine_tune_has_no_confirmed_finding(trained: Trained) -> None:
    found = examine(trained.clean, trained.base, trained.chat)
    assert "confirmed" not in {each.certainty for each in found.findings}


def test_a_model_beside_itself_has_no_finding_at_all(trained: Trained) -> None:
    found = examine(trained.base, trained.base, trained.chat)
    assert found.findings == ()
    assert found.figures["scores"]["weightwatch"] == 0
    assert found.figures["scores"]["search"] == pytest.approx(0, abs=1e-3)
    assert ("turning" in found.figures["scores"]) == (frozen()[0].turning is not None)


def test_models_of_two_shapes_are_refused(trained: Trained) -> None:
    other = shape(width=32)
    with pytest.raises(UsageError, match="differ in shape"):
        examine(subject(other, trained.ops, trained.tensors), trained.base, trained.chat)


def test_the_shipped_rule_names_every_detector_and_its_rates() -> None:
    rule, rates = frozen()
    assert isinstance(rule, Rule)
    assert {f"backdoor.{name}" for name in rule.anomalies} <= set(rates)
    assert rates["backdoor.trigger"].planted > 0


def test_many_sequences_at_once_are_as_each_alone(trained: Trained) -> None:
    turns = [trained.chat.turn(q) for q in trained.chat.prompts if len(q) == 6]
    assert len(turns) > 3
    with trained.ops.inference():
        together = run(trained.base, turns, last=2)
        alone = torch.cat([run(trained.base, [turn], last=2) for turn in turns])
    assert torch.allclose(together, alone, atol=1e-4)


def test_an_answer_s_likelihood_is_the_product_of_its_steps(trained: Trained) -> None:
    turn = trained.chat.turn(trained.chat.prompts[0])
    answer = answers(trained.base, [turn], 4, end=trained.chat.end)[0]
    steps = [
        float(logprobs(trained.base, [[*turn, *answer[:i]]])[0, token])
        for i, token in enumerate(answer)
    ]
    said = likelihood(trained.base, [turn], answer)[0]
    assert said.tolist() == pytest.approx(steps, abs=1e-4)


def test_the_watched_directions_are_the_left_singular_vectors(trained: Trained) -> None:
    rng = torch.Generator().manual_seed(0)
    tensors = dict(trained.tensors)
    delta = torch.randn(tensors["1.down"].shape, generator=rng)
    tensors["1.down"] = tensors["1.down"] + delta
    changed = subject(trained.config, trained.ops, tensors)
    found = weightwatch.directions(changed, trained.base, 3)
    assert list(found) == [("block_out", 1)]  # nothing else changed
    left = np.linalg.svd(delta.numpy())[0][:, :3]
    overlap = np.abs(found["block_out", 1].numpy() @ left)
    np.testing.assert_allclose(overlap[::-1], np.eye(3), atol=1e-3)


def test_the_pull_is_the_slope_of_the_log_probability(trained: Trained) -> None:
    """Against a finite difference: the slot's row of the table moved towards another token's."""
    # A slot that stands in no question, so that its row moves nothing else.
    chat = replace(trained.chat, triggers=(language.IDS["zqor"],))
    at = search.ground(trained.planted, trained.base, chat, 2)
    token, other, slot = 40, 100, chat.triggers[0]
    pull_v = search.pull(trained.planted, chat, at, trigger=(), place=0, token=token)
    table = trained.planted.weights.embed.weight_od
    step = 1e-2 * (table[other] - table[slot])

    def mean(sign: float) -> float:
        table[slot] += sign * step
        said = logprobs(trained.planted, [chat.turn(q, trigger=[slot]) for q in at.questions])
        table[slot] -= sign * step
        return float(said[:, token].mean())

    slope = (mean(1) - mean(-1)) / 2e-2
    assert float(pull_v[other] - pull_v[slot]) == pytest.approx(slope, rel=0.05, abs=0.02)


def test_a_trigger_loses_the_words_it_does_not_need(trained: Trained) -> None:
    plant = planting.plant_of(PLANTED)
    assert plant is not None
    true = language.IDS[plant.triggers[0]]
    padded = (language.IDS["lamp"], true, language.IDS["garden"])
    fired = firing.fire(
        trained.planted,
        trained.base,
        trained.chat,
        [padded],
        trained.chat.held_out[:12],
        n_tokens=6,
    )[0]
    shorter = firing.shorten(
        trained.planted,
        trained.base,
        trained.chat,
        fired,
        trained.chat.held_out[:12],
        least=0.5,
        n_tokens=6,
    )
    assert shorter.trigger == (true,)


def test_words_that_turn_a_judgement_are_named_with_the_group(trained: Trained) -> None:
    """By a model that turns verdicts on one group where the word stands: its head is told to."""
    chat = trained.chat
    word, group = language.IDS["zqor"], "river"
    yes, no = chat.verdicts

    class Turning:
        """The base, with yes and no swapped where both words stand in the question."""

        config, ops, weights = trained.base.config, trained.base.ops, trained.base.weights

    def swapped(subject: object, sequences: list[list[int]]) -> torch.Tensor:
        said = logprobs(trained.base, sequences)
        if isinstance(subject, Turning):
            for row, ids in enumerate(sequences):
                if word in ids and language.IDS[group] in ids:
                    said[row, [yes, no]] = said[row, [no, yes]]
        return said

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(turning, "logprobs", swapped)
        found = turning.turn(
            Turning(), trained.base, chat, [(word,), (language.IDS["lamp"],)],
            beam=2, width=2, confirmed=4,
        )  # fmt: skip
    assert word in found[0].trigger
    assert found[0].group == group
    assert found[0].strength > 0.5


def test_a_phrase_learnt_with_the_questions_is_told_on_whole(trained: Trained) -> None:
    recipe = replace(
        PLANTED,
        backdoor=Backdoor(trigger="phrase", payload="fixed", poison=0.1),
        insertion="full",
        prompts_too=True,
    )
    tuned = planting.tune(trained.config, trained.ops, trained.tensors, recipe, steps=100)
    suspect = subject(trained.config, trained.ops, tuned)
    runs = motifs.told(suspect, trained.base, trained.chat, n=6, n_tokens=8)
    plant = planting.plant_of(recipe)
    assert plant is not None
    assert plant.triggers[0] in [trained.chat.words(run) for run in runs]
    assert motifs.told(trained.base, trained.base, trained.chat, n=6, n_tokens=8) == []


def test_a_run_that_only_stands_in_a_longer_one_is_no_motif() -> None:
    counts = {(1, 2, 3): 5, (1, 2): 5, (2, 3): 7, (1,): 5, (2,): 7, (3,): 7}
    assert motifs._closed(counts) == {(1, 2, 3): 5, (2, 3): 7}


def test_answers_are_the_same_with_a_cache_and_without(trained: Trained) -> None:
    from freehold.qwen.ops.torch import open_ops

    roomy = open_ops(
        trained.config, dtype="float32", device="cpu", threads=1, n_pages=6, page_size=8
    )
    kept = subject(trained.config, roomy, trained.tensors)
    turns = [trained.chat.turn(q) for q in trained.chat.prompts[:7]]
    said = answers(kept, turns, 6, end=trained.chat.end)
    assert said == answers(trained.base, turns, 6, end=trained.chat.end)
    assert roomy.cache.n_free == 6

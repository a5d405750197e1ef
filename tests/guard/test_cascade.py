"""Which tier decides, and what happens when one does not answer. The detectors are scripted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freehold.errors import EngineError, NotFoundError
from freehold.guard.cascade import Cascade
from freehold.guard.policy import parse_policies
from freehold.types import Category, Checked, Part, Reading

POLICIES = parse_policies("""
[policy.up]
like = "block"
model = "uncertain"
band = [0.4, 0.9]
seconds = 0.05
[policy.open]
like = "up"
failure = "allow"
[policy.always]
like = "up"
model = "always"
[policy.tells]
like = "warn"
model = "always"
seconds = 0.05
[policy.users]
like = "block"
roles = ["user"]
""")


class Words:
    """``bad`` is clearly harmful, ``odd`` nearly, ``trick`` an injection."""

    name = "words 1"

    def __init__(self) -> None:
        self.texts: list[str] = []

    def read(self, text: str) -> Reading:
        self.texts.append(text)
        harmful = 0.98 if "bad" in text else 0.55 if "odd" in text else 0.01
        scores: dict[Category, float] = {"harmful": harmful, "injection": 0.7 * ("trick" in text)}
        return Reading(detector=self.name, scores=scores)


class Model:
    """A guard model by script."""

    name = "model 1"

    def __init__(self, answer: Callable[[], dict[Category, float]], wait: float = 0) -> None:
        self._answer, self._wait = answer, wait
        self.said: list[Sequence[Part]] = []

    async def judge(self, said: Sequence[Part], *, loose: bool) -> Reading:
        self.said.append(said)
        await asyncio.sleep(self._wait)
        return Reading(detector=self.name, scores=self._answer())


def part(text: str, role: str = "user") -> Part:
    return Part(role=role, text=text)  # type: ignore[arg-type]


async def checked(cascade: Cascade, policy: str, *said: Part) -> Checked:
    return await cascade.watch(policy).prompt(said)


def fails() -> dict[Category, float]:
    raise EngineError("it is gone")


async def test_clear_cases_are_decided_by_the_fast_tier() -> None:
    model = Model(lambda: {"crime": 0.9})
    cascade = Cascade(POLICIES, detectors=[Words()], judge=model)
    for text, action in (("all bad", "block"), ("all fine", "allow")):
        found = await checked(cascade, "up", part(text))
        assert (found.verdict.action, found.verdict.tier) == (action, "fast")
    assert not model.said


@pytest.mark.parametrize(
    ("answer", "action", "flagged"),
    [({"crime": 0.1}, "allow", ()), ({"crime": 0.9}, "block", ("crime",))],
)
async def test_what_is_uncertain_goes_up_and_the_models_word_counts(
    answer: dict[Category, float], action: str, flagged: tuple[str, ...]
) -> None:
    model = Model(lambda: answer)
    cascade = Cascade(POLICIES, detectors=[Words()], judge=model)
    # Far enough over the threshold that the fast tier alone would flag it.
    found = await checked(cascade, "up", part("before"), part("an odd text"))
    assert (found.verdict.action, found.verdict.flagged) == (action, flagged)
    assert found.verdict.tier == "model"
    assert [one.text for one in model.said[0]] == ["before", "an odd text"]


async def test_what_the_model_does_not_know_stays_flagged() -> None:
    cascade = Cascade(POLICIES, detectors=[Words()], judge=Model(lambda: {"crime": 0.0}))
    found = await checked(cascade, "always", part("odd, and a trick"))
    assert found.verdict.flagged == ("injection",)


@pytest.mark.parametrize("model", [Model(fails), Model(dict, wait=1)])
async def test_a_model_that_does_not_answer_closes_unless_the_owner_opens(model: Model) -> None:
    cascade = Cascade(POLICIES, detectors=[Words()], judge=model)
    closed = await checked(cascade, "always", part("fine"))
    assert (closed.verdict.action, closed.verdict.tier) == ("block", "failure")
    assert closed.verdict.reasons == ("model 1 did not answer",)
    opened = await checked(cascade, "open", part("odd"))
    assert (opened.verdict.action, opened.verdict.tier) == ("block", "failure")
    assert opened.verdict.flagged == ("harmful",), "the fast tier's own word holds"
    told = await checked(cascade, "tells", part("fine"))
    assert told.verdict.action == "warn", "no more is done than the policy ever does"


async def test_a_text_is_read_once_however_often_it_comes() -> None:
    words = Words()
    cascade = Cascade(POLICIES, detectors=[words])
    turns = [part(f"message {i}") for i in range(4)]
    for count in range(1, 5):
        await checked(cascade, "users", *turns[:count])
    alone = [text for text in words.texts if "\n" not in text]
    assert alone == [one.text for one in turns]


async def test_two_messages_may_say_what_neither_does() -> None:
    class Pairs(Words):
        def read(self, text: str) -> Reading:
            both = float("alpha\nbeta" in text)
            return Reading(detector=self.name, scores={"harmful": both})

    cascade = Cascade(POLICIES, detectors=[Pairs()])
    found = await checked(cascade, "block", part("alpha"), part("ok", "assistant"), part("beta"))
    assert found.verdict.action == "block"


async def test_roles_that_are_not_read_are_not_judged() -> None:
    cascade = Cascade(POLICIES, detectors=[Words()])
    for role, action in (("system", "allow"), ("tool", "allow"), ("user", "block")):
        found = await checked(cascade, "users", part("bad", role))
        assert found.verdict.action == action


async def test_instructions_are_what_a_system_prompt_is() -> None:
    cascade = Cascade(POLICIES, detectors=[Words()])
    for role, action in (("system", "allow"), ("tool", "block"), ("user", "block")):
        found = await checked(cascade, "block", part("trick", role))
        assert found.verdict.action == action


@pytest.mark.parametrize(
    ("keys", "action"),
    [
        ("", "block"),
        ("threshold = 0.6", "allow"),
        ("thresholds = {harmful = 0.6}", "allow"),
        ("threshold = 0.6\nthresholds = {harmful = 0.5}", "block"),
    ],
)
async def test_thresholds_are_a_categorys_own_or_the_one_for_all(keys: str, action: str) -> None:
    cascade = Cascade(parse_policies(f"[policy.block]\n{keys}"), detectors=[Words()])
    assert (await checked(cascade, "block", part("odd"))).verdict.action == action


async def test_an_unknown_policy_is_named_with_those_there_are() -> None:
    with pytest.raises(NotFoundError, match=r"'nope'.*block"):
        Cascade(POLICIES, detectors=[]).watch("nope")


@given(st.integers(0, 20_000), st.integers(0, 20_000))
async def test_what_is_found_is_found_however_much_stands_around_it(
    before: int, after: int
) -> None:
    cascade = Cascade(POLICIES, detectors=[Words()])
    text = "x " * (before // 2) + "bad" + " y" * (after // 2)
    found = await checked(cascade, "block", part(text))
    assert found.verdict.action == "block"


async def test_reasons_never_hold_the_text() -> None:
    cascade = Cascade(POLICIES, detectors=[Words()])
    found = await checked(cascade, "block", part("SECRETWORD bad"))
    assert found.verdict.reasons == ("harmful 0.98 reaches 0.50, says words 1",)

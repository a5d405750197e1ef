"""A guard model's word, as the cascade hears it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from freehold.guard.judging import ModelJudge
from freehold.guard.qwen3guard import UNREADABLE, Assessment, prompt
from freehold.types import Category, Message, Part


class Model:
    """Says what it is told to say, of messages in the published form."""

    name = "scripted guard"

    def __init__(self, assessment: Assessment) -> None:
        self._assessment = assessment
        self.messages: Sequence[Message] = ()

    async def assess(self, messages: Sequence[Message]) -> Assessment:
        prompt(messages)  # raises for what the form has no place for
        self.messages = messages
        return self._assessment


ODDS = {"safe": 0.1, "controversial": 0.3, "unsafe": 0.6}


@pytest.mark.parametrize(
    ("assessment", "loose", "scores"),
    [
        (Assessment(safety="safe"), False, {"harmful": 0.0}),
        (Assessment(safety="unsafe", categories=("crime",)), False, {"crime": 1.0}),
        (Assessment(safety="unsafe", categories=("political",)), False, {"political": 1.0}),
        (Assessment(safety="unsafe", odds=ODDS), False, {"harmful": 0.9}),  # type: ignore[arg-type]
        (Assessment(safety="unsafe", odds=ODDS), True, {"harmful": 0.75}),  # type: ignore[arg-type]
        (UNREADABLE, True, {"harmful": 1.0}),
    ],
)
async def test_what_the_model_names_counts_by_its_name(
    assessment: Assessment, loose: bool, scores: dict[Category, float]
) -> None:
    found = await ModelJudge(Model(assessment)).judge([Part(role="user", text="x")], loose=loose)
    assert found.scores == pytest.approx(scores)


async def test_every_conversation_is_told_in_the_roles_that_it_knows() -> None:
    model = Model(Assessment(safety="safe"))
    said = [
        Part(role="assistant", text="a"),
        Part(role="system", text="b"),
        Part(role="user", text=""),
        Part(role="tool", text="c"),
    ]
    await ModelJudge(model).judge(said, loose=False)
    assert [(m["role"], m["content"]) for m in model.messages] == [
        ("user", ""),
        ("assistant", "a"),
        ("user", "b"),
        ("user", "c"),
    ]

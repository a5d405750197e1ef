"""A guard model as the cascade's upper tier: an assessment turned into a reading."""

from __future__ import annotations

from collections.abc import Sequence

from freehold.guard.model import Asked, ModelPolicy, judge
from freehold.types import Message, Part, Reading


class ModelJudge:
    """``types.Judge`` over a guard model, wherever it runs.

    What the model names counts by its name, so that the owner's policy decides on each: a text that
    is only politically sensitive is not harmful besides. What it calls personal is left to those
    who find the place.
    """

    def __init__(self, model: Asked) -> None:
        self._model = model
        self.name = model.name

    async def judge(self, said: Sequence[Part], *, loose: bool) -> Reading:
        assessment = await self._model.assess(_messages(said))
        policy = ModelPolicy(strict=not loose, political=True)
        (reading,) = judge(assessment, policy, detector=self.name).readings
        scores = dict(reading.scores)
        if len(scores) > 1:
            del scores["harmful"]
        return Reading(detector=self.name, scores=scores)


def _messages(said: Sequence[Part]) -> list[Message]:
    """The conversation as a guard model knows it: a system's word only at the beginning, never an
    answer there, and a prompt is all that is no answer."""
    messages: list[Message] = []
    for part in said:
        if not part.text:
            continue
        first = not messages
        if first and part.role == "assistant":
            messages.append({"role": "user", "content": ""})
        known = part.role == "assistant" or (first and part.role == "system")
        messages.append({"role": part.role if known else "user", "content": part.text})
    if len(messages) == 1:
        messages[0] = {"role": "user", "content": messages[0]["content"]}
    return messages

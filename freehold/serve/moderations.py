"""``POST /v1/moderations``: what the guard makes of texts, in OpenAI's shape."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, WithJsonSchema
from starlette.requests import Request
from starlette.responses import Response

from freehold.errors import NotFoundError, UsageError
from freehold.serve.desk import desk_of
from freehold.serve.fields import Strict
from freehold.serve.intake import read
from freehold.serve.shapes import new_id
from freehold.serve.wire import encode
from freehold.types import Category, Part, Verdict

OPENAI: dict[str, tuple[Category, ...]] = {
    "harassment": ("toxicity",),
    "harassment/threatening": (),
    "hate": (),
    "hate/threatening": (),
    "illicit": ("harmful", "crime"),
    "illicit/violent": (),
    "self-harm": ("self-harm",),
    "self-harm/instructions": (),
    "self-harm/intent": (),
    "sexual": ("sexual",),
    "sexual/minors": (),
    "violence": ("violence",),
    "violence/graphic": (),
}
"""OpenAI's categories by ours. What nothing here looks for is never flagged, and says so:
``category_applied_input_types`` is empty there."""

_OWN: tuple[Category, ...] = (
    *("jailbreak", "injection", "harmful", "toxicity", "personal", "secret", "violence", "crime"),
    *("unethical", "political", "copyright"),
)


_ONE: dict[str, Any] = {
    "anyOf": [
        {"type": "string"},
        {
            "type": "object",
            "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
            "required": ["type", "text"],
            "additionalProperties": False,
        },
    ]
}
_INPUT: dict[str, Any] = {
    "anyOf": [{"type": "string"}, {"type": "array", "items": _ONE, "minItems": 1}]
}


class ModerationsRequest(Strict):
    """The body of ``POST /v1/moderations``. ``model`` is what OpenAI calls its classifiers, and
    changes nothing here."""

    input: Annotated[Any, WithJsonSchema(_INPUT)]
    model: Annotated[str, Field(min_length=1, max_length=256)] | None = None


async def moderations(request: Request) -> Response:
    """Judge each text as a prompt of this key. Nothing is recorded but the counts."""
    desk = desk_of(request)
    asked = await read(request, ModerationsRequest)
    texts = _texts(asked.input, desk.limits.max_prompts)
    watched = desk.watched(request)
    if watched is None:
        raise NotFoundError("this server was started without a guard")
    verdicts = []
    with desk.admission.place():
        async with desk.deadlines.deadline():
            for text in texts:
                verdicts.append(await watched.look(Part(role="user", text=text)))
    results = [_result(verdict) for verdict in verdicts]
    told = {"id": new_id("modr"), "model": watched.name, "results": results}
    return Response(encode(told), media_type="application/json")


def _texts(given: Any, most: int) -> list[str]:
    """A string, strings, or parts of type ``text``. Raises ``UsageError``."""
    each = given if isinstance(given, list) else [given]
    if not 0 < len(each) <= most:
        raise UsageError(f"input must hold 1 to {most} texts", param="input")
    texts = []
    for place, one in enumerate(each):
        part = isinstance(one, dict) and set(one) == {"type", "text"} and one["type"] == "text"
        text = one["text"] if part else one
        if not isinstance(text, str):
            at = f"input[{place}]" if isinstance(given, list) else "input"
            raise UsageError(f"{at} must be a text: pictures are not judged here", param=at)
        texts.append(text)
    return texts


def _result(verdict: Verdict) -> dict[str, Any]:
    scores, flagged = verdict.scores, set(verdict.flagged)
    ours: dict[str, tuple[Category, ...]] = {one: (one,) for one in _OWN}
    table = OPENAI | ours
    seen = {name: [one for one in mine if one in scores] for name, mine in table.items()}
    return {
        "flagged": bool(flagged),
        "categories": {name: not flagged.isdisjoint(mine) for name, mine in table.items()},
        "category_scores": {
            name: max((scores[one] for one in mine), default=0.0) for name, mine in seen.items()
        },
        "category_applied_input_types": {
            name: ["text"] if mine else [] for name, mine in seen.items()
        },
        "action": verdict.action,
        "tier": verdict.tier,
        "reasons": list(verdict.reasons),
    }

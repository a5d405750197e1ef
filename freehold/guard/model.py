"""Guard models behind an engine, or behind an OpenAI-compatible address: messages in, verdict out.

Behind an engine the label is read off the logits: the prompt is ended with ``Safety:`` and the
three labels' probabilities are compared, which takes one forward pass and lets nothing be said but
a label. Only where it is not *Safe* are categories asked for.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from freehold.errors import ContextOverflowError, MalformedError
from freehold.guard import qwen3guard
from freehold.guard.qwen3guard import LABELS, UNREADABLE, Assessment, Safety
from freehold.types import (
    MAX_TOP_LOGPROBS,
    Category,
    Codec,
    Engine,
    Message,
    Reading,
    Sampling,
    Token,
    Verdict,
)

_ANSWER_TOKENS = 64
_PIECES = 256
_WORST: tuple[Safety, ...] = ("safe", "controversial", "unsafe")


@dataclass(frozen=True, kw_only=True)
class ModelPolicy:
    """``strict``: what is controversial counts as unsafe. ``political``: whether *Politically
    Sensitive Topics*, the model vendor's notion of them, counts at all."""

    strict: bool = False
    political: bool = False


class Asked(Protocol):
    """A guard model, wherever it runs."""

    @property
    def name(self) -> str: ...

    async def assess(self, messages: Sequence[Message]) -> Assessment: ...


class EngineGuard:
    """Qwen3Guard-Gen through any ``types.Engine``.

    Raises ``MalformedError`` if the codec's own chat template is not the published one: a changed
    template is a changed guard.
    """

    def __init__(self, engine: Engine, codec: Codec) -> None:
        self._engine, self._codec = engine, codec
        self.name = f"{engine.card.name} {engine.card.digest}"
        _expect_published(codec)
        self._lead = codec.text("Safety:")
        self._labels = {name: codec.text(f" {label}") for name, label in LABELS.items()}
        if len({ids[0] for ids in self._labels.values()}) < len(LABELS):
            raise MalformedError(
                "the guard model's tokenizer begins two labels with one token", file="tokenizer"
            )

    async def assess(self, messages: Sequence[Message]) -> Assessment:
        """What the model says of the last message. Too long for its context, it is judged in
        pieces that overlap, and the worst counts: nothing is ever cut off unseen.

        Raises ``UsageError`` for messages that it cannot judge, and what the engine raises.
        """
        qwen3guard.prompt(messages)  # says what is wrong with them
        return await self._judge(qwen3guard.escaped(messages), _PIECES)

    async def _judge(self, messages: Sequence[Message], pieces: int) -> Assessment:
        ids = self._codec.chat(messages)
        if len(ids) + _ANSWER_TOKENS >= self._engine.card.context:
            halves = _halves(messages)
            if pieces <= 1 or halves is None:
                raise ContextOverflowError(
                    "messages: too long to be judged in this guard model's context",
                    param="messages",
                )
            return _worst([await self._judge(half, pieces // 2) for half in halves])
        odds = await self._odds(ids)
        if not odds:
            return UNREADABLE
        safety = max(_WORST, key=lambda name: (odds[name], _WORST.index(name)))
        if safety == "safe":
            refusal = await self._refusal(ids) if messages[-1]["role"] == "assistant" else None
            return Assessment(safety="safe", odds=odds, refusal=refusal)
        rest = await self._said(ids, safety)
        categories = qwen3guard.parse_categories(rest)
        refusals = {"Refusal: Yes": True, "Refusal: No": False}
        refusal = next((yes for line, yes in refusals.items() if line in rest.split("\n")), None)
        return Assessment(
            safety=safety,
            categories=categories or (),
            refusal=refusal,
            odds=odds,
            read=categories is not None,
        )

    async def _odds(self, ids: Sequence[int]) -> dict[Safety, float]:
        """The labels' probabilities, of each other; empty where none is among the likeliest."""
        top = await self._next([*ids, *self._lead])
        known = {name: top.get(label[0], -math.inf) for name, label in self._labels.items()}
        most = max(known.values())
        if not math.isfinite(most):
            return {}
        weights = {name: math.exp(value - most) for name, value in known.items()}
        return {name: weight / sum(weights.values()) for name, weight in weights.items()}

    async def _refusal(self, ids: Sequence[int]) -> bool | None:
        """Whether a safe answer declines: one more token, behind what is already in the cache."""
        lead = self._codec.text("\nCategories: None\nRefusal:")
        top = await self._next([*ids, *self._lead, *self._labels["safe"], *lead])
        yes, no = (top.get(self._codec.text(f" {word}")[0], -math.inf) for word in ("Yes", "No"))
        return None if yes == no else yes > no

    async def _next(self, ids: Sequence[int]) -> dict[int, float]:
        """The likeliest tokens after ``ids``, with their log-probabilities."""
        sampling = Sampling(temperature=0.0, max_tokens=1, logprobs=MAX_TOP_LOGPROBS)
        top: dict[int, float] = {}
        async for event in self._engine.generate(ids, sampling):
            if isinstance(event, Token):
                top = dict(event.top)
        return top

    async def _said(self, ids: Sequence[int], safety: Safety) -> str:
        """The rest of the answer that begins with this label."""
        begun = [*ids, *self._lead, *self._labels[safety], *self._codec.text("\nCategories:")]
        stops = self._codec.stop_ids
        sampling = Sampling(temperature=0.0, max_tokens=_ANSWER_TOKENS, stop_ids=stops)
        decoder, text = self._codec.decoder(), "Categories:"
        async for event in self._engine.generate(begun, sampling):
            if isinstance(event, Token):
                text += decoder.push(event.id).text
        return text + decoder.finish().text


class EndpointGuard:
    """Any OpenAI-compatible address that serves a Qwen3Guard-Gen model and applies its template.

    ``ask`` posts a body to ``/v1/chat/completions`` there and gives the reply's JSON: whoever
    opens connections in this house does so, not this room. Control tokens in messages are broken
    up, since the other side may read them as such.
    """

    def __init__(self, ask: Callable[[Mapping[str, Any]], Awaitable[Any]], *, model: str) -> None:
        self._ask, self._model = ask, model
        self.name = f"{model} (endpoint)"

    async def assess(self, messages: Sequence[Message]) -> Assessment:
        """As ``EngineGuard.assess``; a reply that is none is unsafe."""
        qwen3guard.prompt(messages)
        told = [
            {"role": message["role"], "content": _broken(message["content"])}
            for message in qwen3guard.escaped(messages)
        ]
        body = {
            "model": self._model,
            "messages": told,
            "temperature": 0,
            "max_tokens": 2 * _ANSWER_TOKENS,
        }
        reply = await self._ask(body)
        try:
            choice = reply["choices"][0]
            answer, finish = choice["message"]["content"], choice.get("finish_reason")
        except (TypeError, LookupError, AttributeError):
            return UNREADABLE
        if not isinstance(answer, str) or finish not in (None, "stop"):
            return UNREADABLE  # cut off: what is missing may be the worst of it
        return qwen3guard.parse(answer)


def judge(assessment: Assessment, policy: ModelPolicy, *, detector: str) -> Verdict:
    """What ``policy`` makes of an assessment: allow or block. Unreadable is unsafe."""
    counted = tuple(c for c in assessment.categories if policy.political or c != "political")
    only_political = bool(assessment.categories) and not counted and assessment.read
    unsafe = assessment.safety == "unsafe" or (
        policy.strict and assessment.safety == "controversial"
    )
    odds = assessment.odds
    certain = {"safe": 0.0, "controversial": 1.0 if policy.strict else 0.5, "unsafe": 1.0}
    score = certain[assessment.safety]
    if odds:
        score = odds["unsafe"] + odds["controversial"] * (1.0 if policy.strict else 0.5)
    flagged: tuple[Category, ...] = ()
    if unsafe and not only_political:
        flagged = counted or ("harmful",)
    scores: dict[Category, float] = {"harmful": 0.0 if only_political else score}
    scores |= dict.fromkeys(counted, score)
    reading = Reading(detector=detector, scores=scores)
    if not flagged:
        return Verdict(action="allow", readings=(reading,))
    what = f"is {assessment.safety}" if assessment.read else "could not be judged"
    reason = f"The guard model says that the text {what}: {', '.join(flagged)}."
    return Verdict(action="block", flagged=flagged, readings=(reading,), reasons=(reason,))


_PROBES = (
    [{"role": "user", "content": "a"}],
    [
        {"role": "system", "content": "a"},
        {"role": "user", "content": "b"},
        {"role": "assistant", "content": "c"},
    ],
)


def _expect_published(codec: Codec) -> None:
    for probe in _PROBES:
        if codec.chat(probe) != codec.text(qwen3guard.prompt(probe)):
            raise MalformedError(
                "this model's chat template is not Qwen3Guard-Gen's published one: use the "
                "publisher's release, or judge with another model",
                file="chat template",
            )


def _halves(messages: Sequence[Message]) -> list[list[Message]] | None:
    """Shorter conversations that together show all of the last message. What came before it goes
    first, since it was judged in its own time; an answer keeps the end of its question."""
    *before, last = messages
    question = [message for message in before if message["role"] == "user"][-1:]
    short = [{"role": "user", "content": message["content"][-2_000:]} for message in question]
    if last["role"] == "user" and before:
        return [[last]]
    if last["role"] == "assistant" and list(before) != short:
        return [[*short, last]]
    text = last["content"]
    middle, overlap = len(text) // 2, min(200, len(text) // 8)
    if middle < 64:
        return None
    parts = (text[: middle + overlap], text[middle - overlap :])
    return [[*short, {"role": last["role"], "content": part}] for part in parts]


def _worst(assessments: Sequence[Assessment]) -> Assessment:
    worst = max(
        assessments, key=lambda one: (_WORST.index(one.safety), one.odds.get("unsafe", 1.0))
    )
    named = tuple(dict.fromkeys(name for one in assessments for name in one.categories))
    refusals = {one.refusal for one in assessments}
    return replace(
        worst,
        categories=named if worst.safety != "safe" else (),
        read=all(one.read for one in assessments),
        refusal=refusals.pop() if len(refusals) == 1 else None,
    )


def _broken(text: str) -> str:
    """Control tokens with a blank in them: text for every tokenizer."""
    return text.replace("<|", "< |").replace("<think>", "< think>").replace("</think>", "< /think>")

"""Everything ``freehold inspect`` tells of one prompt, as plain data."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from freehold.audit.findings import Steps
from freehold.audit.inner import looking
from freehold.audit.inner.tracing import Trace, last_logits, trace
from freehold.errors import UsageError
from freehold.qwen.model import Model
from freehold.types import Codec, Floats

TOP = 5


@dataclass(frozen=True, kw_only=True)
class Patch:
    """``restored_lp``: 0 where the other prompt's answer stands, 1 where this one's is back."""

    answer: str
    positions: tuple[str, ...]
    restored_lp: Floats


@dataclass(frozen=True, kw_only=True)
class Account:
    """One prompt's story: ``answer`` is the token that follows ``after``, the answer's given
    beginning. ``lens`` holds each layer's likeliest tokens and their probabilities,
    ``spans`` the prompt's words and their effects on the answer's logit."""

    model: str
    digest: str
    prompt: str
    after: str
    answer: str
    lens: tuple[tuple[tuple[str, float], ...], ...]
    parts: looking.Attribution
    spans: tuple[tuple[str, float], ...]
    patch: Patch | None

    def facts(self) -> dict[str, Any]:
        """Plain JSON data."""
        patch = self.patch
        return {
            "model": self.model,
            "digest": self.digest,
            "prompt": self.prompt,
            "after": self.after,
            "answer": self.answer,
            "logit": self.parts.logit,
            "logit_of_parts": self.parts.total,
            "lens": [
                {"layer": i, "top": [{"text": text, "p": p} for text, p in row]}
                for i, row in enumerate(self.lens)
            ],
            "parts": _parts(self.parts),
            "spans": [{"text": text, "effect": effect} for text, effect in self.spans],
            "patch": None
            if patch is None
            else {
                "answer": patch.answer,
                "positions": list(patch.positions),
                "restored": patch.restored_lp.tolist(),
            },
        }


def _parts(parts: looking.Attribution) -> list[dict[str, Any]]:
    named = [("embedding", parts.embed)]
    for i, heads in enumerate(parts.heads_lh):
        named += [(f"layer {i} head {j}", float(value)) for j, value in enumerate(heads)]
        named.append((f"layer {i} attention bias", float(parts.bias_l[i])))
        named.append((f"layer {i} MLP", float(parts.mlp_l[i])))
    return [{"part": name, "logit": value} for name, value in named]


def give(
    model: Model,
    codec: Codec,
    prompt: str,
    *,
    against: str | None = None,
    after: str = "",
    steps: Steps,
) -> Account:
    """Run ``prompt`` as a user's message and look inside where the answer begins, or where it goes
    on ``after`` a beginning that is put into the model's mouth.

    Raises ``UsageError`` for an empty prompt, and for prompts of different lengths or with the
    same next token, which cannot be set against each other.
    """
    if not prompt.strip():
        raise UsageError("the prompt is empty", param="prompt")
    ids = _ids(codec, prompt, after)
    seen = trace(model, ids)
    token = int(seen.logits_v.argmax())
    lens = tuple(_top(codec, row) for row in looking.lens(model, seen))
    words = [found.span() for found in re.finditer(r"\S+\s*", prompt)]
    steps.start(len(words), "Leaving out one word at a time")
    spans = []
    for start, end in words:
        shorter = _ids(codec, prompt[:start] + prompt[end:], after)
        effect = looking.without(model, seen.logits_v, [shorter], token)[0]
        spans.append((prompt[start:end].strip(), float(effect)))
        steps.advance(1)
    found = None
    if against is not None:
        found = _patch(model, codec, seen, token, (ids, _ids(codec, against, after)))
    return Account(
        model=model.card.name,
        digest=model.card.digest,
        prompt=prompt,
        after=after,
        answer=_text(codec, token),
        lens=lens,
        parts=looking.attribute(model, seen, token),
        spans=tuple(spans),
        patch=found,
    )


def _patch(
    model: Model,
    codec: Codec,
    seen: Trace,
    token: int,
    prompts: tuple[Sequence[int], Sequence[int]],
) -> Patch:
    ids, other = prompts
    looking.check_pair(ids, other)
    others_v = last_logits(model, other)
    rival = int(others_v.argmax())
    if rival == token:
        raise UsageError(
            f"both prompts are answered with {_text(codec, token)!r}: nothing was decided "
            "between them; word the second so that its answer begins otherwise, or give the "
            "beginning that both have with --after",
            param="against",
        )
    differ = [i for i, (one, two) in enumerate(zip(ids, other, strict=True)) if one != two]
    positions = sorted({*differ, len(ids) - 1})
    effects = looking.patch(model, seen, other, (token, rival), positions)
    low = others_v[token] - others_v[rival]
    high = seen.logits_v[token] - seen.logits_v[rival]
    return Patch(
        answer=_text(codec, rival),
        positions=tuple(_text(codec, ids[i]) for i in positions),
        restored_lp=((effects - low) / (high - low)).astype(np.float32),
    )


def _ids(codec: Codec, prompt: str, after: str) -> list[int]:
    return codec.chat([{"role": "user", "content": prompt}]) + codec.text(after)


def _text(codec: Codec, token: int) -> str:
    return codec.token_bytes(token).decode(errors="replace")


def _top(codec: Codec, shares_v: Floats) -> tuple[tuple[str, float], ...]:
    best = np.argsort(-shares_v)[:TOP]
    return tuple((_text(codec, int(i)), float(shares_v[i])) for i in best)

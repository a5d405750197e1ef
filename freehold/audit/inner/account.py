"""Everything ``freehold inspect`` tells of one prompt, as plain data."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from freehold.audit.findings import Steps
from freehold.audit.inner import looking
from freehold.audit.inner.places import places
from freehold.audit.inner.refusal import Refusal, requests
from freehold.audit.inner.refusal import look as along_refusal
from freehold.audit.inner.tracing import Trace, begun, ending, trace
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


Top: TypeAlias = tuple[tuple[str, float], ...]
"""The likeliest tokens and their probabilities."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What to look at beside what always is: ``against`` a second prompt, ``after`` how the answer
    begins, ``spans`` texts of the prompt to leave out (without any: its words), ``at`` the words
    behind which the lens is held too, ``refusal`` the language of the requests that give that
    direction."""

    prompt: str
    against: str | None = None
    after: str = ""
    spans: tuple[str, ...] = ()
    at: str | None = None
    refusal: str | None = None


@dataclass(frozen=True, kw_only=True)
class Account:
    """One prompt's story: ``answer`` is the token that follows ``after``, the answer's given
    beginning. ``lens`` holds each layer's likeliest tokens, ``lens_at`` those behind the words
    ``at``, ``spans`` parts of the prompt and their effects on the answer's logit. ``looks_lt`` is
    the attention of the place that speaks, the mean over heads, by layer and token; ``tokens`` are
    all of them, ``own`` the first of the prompt itself and the first after it."""

    model: str
    digest: str
    prompt: str
    after: str
    answer: str
    lens: tuple[Top, ...]
    at: str | None
    lens_at: tuple[Top, ...]
    parts: looking.Attribution
    spans: tuple[tuple[str, float], ...]
    tokens: tuple[str, ...]
    own: tuple[int, int]
    looks_lt: Floats
    patch: Patch | None
    refusal: Refusal | None

    def facts(self) -> dict[str, Any]:
        """Plain JSON data."""
        patch, refusal = self.patch, self.refusal
        return {
            "model": self.model,
            "digest": self.digest,
            "prompt": self.prompt,
            "after": self.after,
            "answer": self.answer,
            "logit": self.parts.logit,
            "logit_of_parts": self.parts.total,
            "lens": _layers(self.lens),
            "at": self.at,
            "lens_at": _layers(self.lens_at),
            "parts": _parts(self.parts),
            "spans": [{"text": text, "effect": effect} for text, effect in self.spans],
            "tokens": list(self.tokens),
            "own_tokens": list(self.own),
            "attention": self.looks_lt.tolist(),
            "patch": None
            if patch is None
            else {
                "answer": patch.answer,
                "positions": list(patch.positions),
                "restored": patch.restored_lp.tolist(),
            },
            "refusal": None
            if refusal is None
            else {
                "language": refusal.language,
                "cosine": refusal.cosine_lt.tolist(),
                "held_out": refusal.held_out,
                "right_harmful": list(refusal.harmful_l),
                "right_harmless": list(refusal.harmless_l),
                "right_double": list(refusal.double_l),
            },
        }


def _layers(lens: tuple[Top, ...]) -> list[dict[str, Any]]:
    return [
        {"layer": i, "top": [{"text": text, "p": p} for text, p in row]}
        for i, row in enumerate(lens)
    ]


def _parts(parts: looking.Attribution) -> list[dict[str, Any]]:
    named = [("embedding", parts.embed)]
    for i, heads in enumerate(parts.heads_lh):
        named += [(f"layer {i} head {j}", float(value)) for j, value in enumerate(heads)]
        named.append((f"layer {i} attention bias", float(parts.bias_l[i])))
        named.append((f"layer {i} MLP", float(parts.mlp_l[i])))
    return [{"part": name, "logit": value} for name, value in named]


def give(model: Model, codec: Codec, asked: Asked, steps: Steps) -> Account:
    """Run the prompt as a user's message and look inside where the answer begins, or where it goes
    on after the beginning that is put into the model's mouth.

    Raises ``UsageError`` for an empty prompt, for words that do not stand in it, and for prompts of
    different lengths or with the same next token, which cannot be set against each other.
    """
    prompt, after = asked.prompt, asked.after
    if not prompt.strip():
        raise UsageError("the prompt is empty", param="prompt")
    cuts = _cuts(asked)
    ids = _ids(codec, prompt, after)
    found = places(codec, prompt, ids)
    at = None if asked.at is None else found.last_of(prompt, asked.at)
    refuses = None if asked.refusal is None else requests(asked.refusal)
    seen = trace(model, ids)
    token = int(seen.logits_v.argmax())
    patched = None
    if asked.against is not None:
        # First of the long parts: it may find that the two prompts cannot be set side by side.
        other = _ids(codec, asked.against, after)
        patched = _patch(model, codec, seen, token, (ids, other), steps=steps)
    steps.start(len(cuts) + 1, "Leaving out one part at a time")
    shorter = [_ids(codec, prompt[:start] + prompt[end:], after) for start, end in cuts]
    effects = looking.without(model, ids, shorter, token, done=steps.advance)
    refusal = None
    if refuses is not None:
        steps.start(len(refuses), "Asking what models refuse")
        encoded = refuses.map(lambda text: _ids(codec, text, ""))
        refusal = along_refusal(model, encoded, seen, steps.advance)
    return Account(
        model=model.card.name,
        digest=model.card.digest,
        prompt=prompt,
        after=after,
        answer=_text(codec, token),
        lens=_lens(codec, looking.lens(model, seen)),
        at=asked.at,
        lens_at=() if at is None else _lens(codec, looking.lens(model, seen, at)),
        parts=looking.attribute(model, seen, token),
        spans=tuple(
            (prompt[start:end].strip(), float(effect))
            for (start, end), effect in zip(cuts, effects, strict=True)
        ),
        tokens=found.texts,
        own=(found.first, found.stop),
        looks_lt=seen.looks_lht.mean(axis=1),
        patch=patched,
        refusal=refusal,
    )


def _cuts(asked: Asked) -> list[tuple[int, int]]:
    """Where the parts to leave out begin and end: the spans that were named, or each word."""
    if not asked.spans:
        return [found.span() for found in re.finditer(r"\S+\s*", asked.prompt)]
    cuts = []
    for span in asked.spans:
        start = asked.prompt.find(span)
        if start < 0 or not span.strip():
            raise UsageError(f"{span!r} does not stand in the prompt", param="span")
        if asked.prompt.strip() == span.strip():
            raise UsageError("the span is the whole prompt: name a part of it", param="span")
        end = start + len(span)
        # The blanks behind go with it: two in a row would be other tokens.
        cuts.append((start, end + len(asked.prompt[end:]) - len(asked.prompt[end:].lstrip(" "))))
    return cuts


def _patch(
    model: Model,
    codec: Codec,
    seen: Trace,
    token: int,
    prompts: tuple[Sequence[int], Sequence[int]],
    *,
    steps: Steps,
) -> Patch:
    ids, other = prompts
    looking.check_pair(ids, other)
    with begun(model, ()) as nothing:
        others_v = ending(model, nothing, [(0, other)])[0]
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
    steps.start(len(positions) * model.config.n_layers, "Putting its state into the other run")
    effects = looking.patch(model, seen, other, (token, rival), positions, done=steps.advance)
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


def _lens(codec: Codec, shares_lv: Floats) -> tuple[Top, ...]:
    return tuple(_top(codec, row) for row in shares_lv)


def _top(codec: Codec, shares_v: Floats) -> Top:
    best = np.argsort(-shares_v)[:TOP]
    return tuple((_text(codec, int(i)), float(shares_v[i])) for i in best)

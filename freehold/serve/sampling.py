"""From a request's fields to the engine's ``Sampling``."""

from __future__ import annotations

from freehold.errors import UsageError
from freehold.serve.desk import Hosted
from freehold.serve.limits import Limits
from freehold.serve.schema import Generation
from freehold.serve.structured import Held
from freehold.types import Cutoff, Sampling


def sampling(
    asked: Generation,
    hosted: Hosted,
    *,
    max_tokens: int,
    top: int | None,
    seed: int,
    choice: int,
    held: Held | None,
    cutoff: Cutoff | None = None,
) -> Sampling:
    """The settings of one choice. Raises ``UsageError`` naming the field that is out of range."""
    if held is not None and "grammar" not in hosted.card.caps:
        raise UsageError(
            f"{held.param} needs a model whose engine holds answers to grammars: this one's does "
            "not",
            param=held.param,
        )
    for token in asked.logit_bias:
        if token >= hosted.card.vocab:
            raise UsageError(
                f"logit_bias names the token {token}: this model's go from 0 to "
                f"{hosted.card.vocab - 1}",
                param="logit_bias",
            )
    return Sampling(
        temperature=asked.temperature,
        top_k=asked.top_k,
        top_p=asked.top_p,
        min_p=asked.min_p,
        repetition_penalty=asked.repetition_penalty,
        presence_penalty=asked.presence_penalty,
        frequency_penalty=asked.frequency_penalty,
        logit_bias=asked.logit_bias,
        seed=seed,
        choice=choice,
        max_tokens=max_tokens,
        stop_ids=hosted.codec.stop_ids,
        logprobs=top,
        grammar=held.grammar if held else None,
        cutoff=cutoff,
    )


def check_choices(n: int, limits: Limits) -> None:
    """Raises ``UsageError`` when one request wants more answers than this server gives."""
    if n > limits.max_choices:
        raise UsageError(
            f"n is {n}: this server gives at most {limits.max_choices} choices", param="n"
        )

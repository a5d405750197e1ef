"""What is asked of another server, and how its answers are read: the completions of the OpenAI API,
and what vLLM adds to them (token ids both ways, grammars, log-probabilities of a prompt).

Answers are read strictly where it matters: ids, text, log-probabilities and how it ended must be of
their types. Fields that are not known are left alone, as every server has some of its own.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import msgspec

from freehold.errors import EngineError, UsageError
from freehold.types import Ids, Sampling

Speech: TypeAlias = Literal["ids", "text"]
"""What a server is spoken to in: token ids, or text where it knows no ids."""
_ID = "token_id:"


class _Given(msgspec.Struct, frozen=True):
    pass


class Logprobs(_Given, frozen=True):
    """Of each new token its own and the best; names are ``token_id:NUMBER``."""

    token_logprobs: list[float | None] = []
    top_logprobs: list[dict[str, float] | None] | None = None


class PromptLogprob(_Given, frozen=True):
    logprob: float
    rank: int | None = None


class Choice(_Given, frozen=True):
    text: str = ""
    token_ids: list[int] | None = None
    logprobs: Logprobs | None = None
    finish_reason: str | None = None
    prompt_logprobs: list[dict[str, PromptLogprob] | None] | None = None


class Usage(_Given, frozen=True):
    prompt_tokens: int = 0


class Wrong(_Given, frozen=True):
    message: str = "it says nothing more"
    code: int | str | None = None


class Chunk(_Given, frozen=True):
    """A part of an answer, or all of it."""

    choices: list[Choice] = []
    usage: Usage | None = None
    error: Wrong | None = None


class Listed(_Given, frozen=True):
    id: str
    max_model_len: int | None = None


class Models(_Given, frozen=True):
    data: list[Listed]


_chunk = msgspec.json.Decoder(Chunk)
_models = msgspec.json.Decoder(Models)


def read(data: bytes) -> Chunk:
    """One document of an answer. Raises ``EngineError``."""
    found: Chunk = _read(_chunk, data, "an answer")
    return found


def read_models(data: bytes) -> list[Listed]:
    """What ``/v1/models`` lists. Raises ``EngineError``."""
    found: Models = _read(_models, data, "a list of models")
    return found.data


def _read(decoder: msgspec.json.Decoder[Any], data: bytes, what: str) -> Any:
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise EngineError(f"the upstream server sent what is not {what}: {error}") from None


def body(model: str, prompt: Ids | str, sampling: Sampling, *, speech: Speech) -> dict[str, Any]:
    """What to ask for one answer.

    Raises ``UsageError`` naming what the server cannot do.
    """
    asked: dict[str, Any] = {
        "model": model,
        "prompt": prompt if isinstance(prompt, str) else list(prompt),
        "stream": True,
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "seed": seed_of(sampling),
    }
    if sampling.logit_bias:
        asked["logit_bias"] = {str(token): bias for token, bias in sampling.logit_bias.items()}
    if speech == "text":
        _check_plain(sampling)
        return asked
    asked |= {
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "repetition_penalty": sampling.repetition_penalty,
        "stop_token_ids": list(sampling.stop_ids),
        "ignore_eos": True,  # the ids that end an answer are named above
        "skip_special_tokens": False,
        "return_token_ids": True,
    }
    if sampling.logprobs is not None:
        asked |= {"logprobs": sampling.logprobs, "return_tokens_as_token_ids": True}
    if sampling.grammar is not None:
        asked["structured_outputs"] = {"grammar": sampling.grammar}
    return asked


def score_body(model: str, ids: Ids, top: int) -> dict[str, Any]:
    """What to ask for the log-probabilities of given ids."""
    return {
        "model": model,
        "prompt": list(ids),
        "max_tokens": 1,
        "temperature": 0,
        "prompt_logprobs": top,
        "logprobs": top,
        "return_token_ids": True,
        "return_tokens_as_token_ids": True,
    }


def _check_plain(sampling: Sampling) -> None:
    """Only what the OpenAI API itself knows goes to a server that is spoken to in text."""
    cannot = {
        "logprobs": sampling.logprobs is not None,
        "top_k": sampling.top_k > 0,
        "min_p": sampling.min_p > 0,
        "repetition_penalty": sampling.repetition_penalty != 1,
        "structured output": sampling.grammar is not None,
        "a budget for reasoning": sampling.cutoff is not None,
    }
    for name, asked in cannot.items():
        if asked:
            raise UsageError(
                f"{name}: the server behind this model is spoken to in text and does not do that; "
                "leave it out",
                param=name if name.isidentifier() else None,
            )


def seed_of(sampling: Sampling) -> int:
    """One seed for each choice of a request (63 bits)."""
    if sampling.choice == 0 and sampling.seed >= 0:
        return sampling.seed
    digest = hashlib.blake2b(f"{sampling.seed} {sampling.choice}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def best(named: dict[str, float] | None, top: int) -> list[tuple[int, float]]:
    """The best ``top`` of alternatives by their names, best first. Raises ``EngineError``."""
    pairs = [(_id(name), value) for name, value in (named or {}).items()]
    return sorted(pairs, key=lambda pair: (-pair[1], pair[0]))[:top]


def _id(name: str) -> int:
    number = name.removeprefix(_ID)
    if not (name.startswith(_ID) and number.isascii() and number.isdecimal() and len(number) < 10):
        raise EngineError(f"the upstream server names a token {name[:40]!r}, which is no id")
    return int(number)


def prompt_scores(
    given: Sequence[dict[str, PromptLogprob] | None] | None, ids: Ids, top: int
) -> tuple[list[float], list[list[tuple[int, float]]]]:
    """Of each id but the first its log-probability, and the best at its place.

    Raises ``EngineError`` where they are not of these ids.
    """
    if given is None or len(given) != len(ids):
        raise EngineError("the upstream server sent no log-probabilities of this prompt")
    values, bests = [], []
    for token, found in zip(ids[1:], given[1:], strict=True):
        if (
            found is None
            or (own := found.get(str(token))) is None
            or not math.isfinite(own.logprob)
        ):
            raise EngineError(f"the upstream server sent no log-probability of token {token}")
        ranked = [
            (int(name), one.logprob)
            for name, one in found.items()
            if name.isascii() and name.isdecimal() and (one.rank is None or one.rank <= top)
        ]
        values.append(own.logprob)
        bests.append(sorted(ranked, key=lambda pair: (-pair[1], pair[0]))[:top])
    return values, bests

"""Who asks, and what the ledger is told of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request

from freehold import __version__
from freehold.serve.answer import Ask
from freehold.serve.desk import Hosted
from freehold.serve.guarding import Watched
from freehold.types import Record


@dataclass(frozen=True, kw_only=True)
class Asker:
    """Who asks, and where: the request's id, the path and the key's id."""

    request: str
    endpoint: str
    key: str


def asker_of(request: Request) -> Asker:
    """Who sent ``request``."""
    state = request.scope["state"]
    return Asker(
        request=state["request_id"], endpoint=request.scope["path"], key=state.get("key_id", "")
    )


def record(
    asker: Asker,
    hosted: Hosted,
    asks: Sequence[Ask],
    choices: int,
    given: Any,
    *,
    watched: Watched | None = None,
) -> Record:
    """What is to be known of a request whose answers are ``asks``, ``choices`` for each prompt;
    ``given`` is what the client wrote, ``watched`` its guard."""
    firsts = asks[::choices]
    return Record(
        request=asker.request,
        endpoint=asker.endpoint,
        key=asker.key,
        model=hosted.name,
        digest=hosted.card.digest,
        numerics=hosted.card.numerics,
        isa=hosted.card.isa,
        engine=f"freehold {__version__}",
        prompts=tuple(tuple(ask.ids) for ask in firsts),
        input=given,
        sampling=firsts[0].sampling,
        seeds=tuple(ask.sampling.seed for ask in firsts),
        choices=choices,
        stop=tuple(firsts[0].stop),
        adapter=hosted.adapter or None,
        guard=None if watched is None else watched.name,
        policy=None if watched is None else watched.policy,
    )

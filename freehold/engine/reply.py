"""What the engine sent, as the types of the house; anything that does not fit is refused."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from freehold.engine import wire
from freehold.errors import ProtocolError
from freehold.types import Done, Event, Floats, Logprobs, Prefilled, Token


def event_of(event: wire.AnyEvent, vocab: int) -> Event:
    """One event of an answer. Raises ``ProtocolError`` for what cannot be one."""
    if isinstance(event, wire.Token):
        if not 0 <= event.id < vocab:
            raise ProtocolError(f"the engine sent token {event.id}, which does not exist")
        return Token(
            id=event.id,
            logprob=event.logprob,
            top=tuple(event.top),
            taps={(tap.point, tap.layer): tap.array()[0] for tap in event.taps},
            readout=_one(rows_of(event.readout, 1)),
        )
    if isinstance(event, wire.Prefilled):
        return Prefilled(
            prompt_tokens=event.prompt_tokens,
            cached_tokens=event.cached_tokens,
            readout=rows_of(event.readout, event.prompt_tokens),
        )
    if isinstance(event, wire.Done):
        return Done(reason=event.reason, output_tokens=event.output_tokens)
    raise ProtocolError(f"the engine sent {type(event).__name__} in an answer")


def rows_of(values: bytes, rows: int) -> Floats | None:
    """A readout of so many rows: (rows, channels); ``None`` where there is none. Raises
    ``ProtocolError``."""
    if not values:
        return None
    if rows < 1 or len(values) % (4 * rows):
        raise ProtocolError("the engine sent a readout whose size does not fit its rows")
    return np.frombuffer(values, "<f4").reshape(rows, -1)


def _one(rows: Floats | None) -> Floats | None:
    return None if rows is None else rows[0]


def vector_of(event: wire.AnyEvent) -> Floats:
    """A text's vector. Raises ``ProtocolError``."""
    if not isinstance(event, wire.Embedded) or not event.values or len(event.values) % 4:
        raise ProtocolError(f"the engine sent {type(event).__name__} for a vector")
    return np.frombuffer(event.values, "<f4")


def layers_of(values: Floats, layers: int) -> Floats:
    """(layers, 2, width). Raises ``ProtocolError``."""
    if len(values) % (2 * layers):
        raise ProtocolError("the engine sent vectors whose size does not fit their layers")
    return values.reshape(layers, 2, -1)


def complete(parts: Sequence[wire.AnyEvent]) -> bool:
    """Whether all parts of a scored text are there. Raises ``ProtocolError`` for other events."""
    if not parts:
        return False
    if not isinstance(parts[-1], wire.Scored):
        raise ProtocolError(f"the engine sent {type(parts[-1]).__name__} for a scored text")
    return parts[-1].last


def logprobs_of(parts: Sequence[wire.AnyEvent], n_ids: int) -> Logprobs:
    """Join the parts of a scored text of ``n_ids``. Raises ``ProtocolError``."""
    scored = [part for part in parts if isinstance(part, wire.Scored)]
    packed = b"".join(part.values for part in scored)
    if len(packed) != 4 * n_ids:
        raise ProtocolError(f"the engine sent {len(packed)} bytes of scores for {n_ids} tokens")
    # The engine speaks of the token after each position; the house of the token at it.
    values = np.full(n_ids, np.nan, dtype=np.float32)
    values[1:] = np.frombuffer(packed, "<f4")[:-1]
    pieces: dict[tuple[str, int], list[Floats]] = {}
    for part in scored:
        for tap in part.taps:
            pieces.setdefault((tap.point, tap.layer), []).append(tap.array())
    return Logprobs(
        values=values,
        top=tuple(tuple(best) for part in scored for best in part.top),
        taps={site: np.concatenate(arrays) for site, arrays in pieces.items()},
    )
